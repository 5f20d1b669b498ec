//! The actors of this process, in the order in which they start.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_control::audit_log::AuditLog;
use actors_control::clock::Clock;
use actors_control::countries::Countries;
use actors_control::directory::Directory;
use actors_control::flow_book::FlowBook;
use actors_control::grant_office::GrantOffice;
use actors_control::keys::ONLY;
use actors_control::relay_registry::{Book, RelayRegistry};
use actors_control::storage::Storage;
use actors_control::store::Store;
use actors_runtime::{Boot, Full, Intensity, LaneKind, LaneRef, Restart, Row, StartError, Tree};
use protocol_identity::AccountId;

/// What the actors start with.
pub struct Context {
    /// The database.
    pub storage: Arc<dyn Storage>,
    /// Id and name of each account.
    pub accounts: Vec<(AccountId, String)>,
    /// How long what was granted goes on without control.
    pub max_partition: Duration,
    /// How long flows are kept.
    pub flow_retention: Duration,
    /// The countries of addresses.
    pub countries: Countries,
    /// The time of day.
    pub clock: Clock,
    /// Fills in the addresses that the API works with.
    pub addresses: std::sync::mpsc::Sender<Addresses>,
}

/// What the API tells things to.
pub struct Addresses {
    /// Writes.
    pub store: actors_runtime::Address<Store>,
    /// The office of each account.
    pub offices: std::collections::BTreeMap<AccountId, actors_runtime::Address<GrantOffice>>,
    /// Who is connected.
    pub directory: actors_runtime::Address<Directory>,
    /// Facts that change nothing.
    pub audit: actors_runtime::Address<AuditLog>,
}

/// A root that fails ten times in a minute takes the process with it.
const ROOT: Intensity = Intensity { restarts: 10, within: Duration::from_secs(60) };

/// The table.
pub static ROWS: &[Row<Context>] = &[
    Row {
        kind: "Store",
        parent: "-",
        each: "process",
        lane: LaneKind::Control,
        mailbox: 1024,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(|boot| {
            let (storage, accounts) = (Arc::clone(&boot.context.storage), boot.context.accounts.clone());
            boot.start::<Store, _>(&desk(boot)?, ONLY, move || {
                move || Store::new(Arc::clone(&storage), &accounts)
            })?;
            Ok(())
        }),
    },
    Row {
        kind: "AuditLog",
        parent: "-",
        each: "process",
        lane: LaneKind::Control,
        mailbox: 1024,
        full: Full::DropNewest,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(|boot| {
            let (storage, clock) = (Arc::clone(&boot.context.storage), boot.context.clock);
            boot.start::<AuditLog, _>(&desk(boot)?, ONLY, move || {
                move || AuditLog::new(Arc::clone(&storage), clock)
            })?;
            Ok(())
        }),
    },
    Row {
        kind: "FlowBook",
        parent: "-",
        each: "process",
        lane: LaneKind::Control,
        mailbox: 1024,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(|boot| {
            let Context { storage, clock, flow_retention: keep, .. } = boot.context;
            let (storage, clock, keep) = (Arc::clone(storage), *clock, *keep);
            boot.start::<FlowBook, _>(&desk(boot)?, ONLY, move || {
                move || FlowBook::new(Arc::clone(&storage), clock, keep)
            })?;
            Ok(())
        }),
    },
    Row {
        kind: "RelayRegistry",
        parent: "-",
        each: "process",
        lane: LaneKind::Control,
        mailbox: 4096,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(|boot| {
            let (storage, accounts) = (Arc::clone(&boot.context.storage), boot.context.accounts.clone());
            boot.start::<RelayRegistry, _>(&desk(boot)?, ONLY, move || {
                let book = Rc::new(RefCell::new(Book::default()));
                move || RelayRegistry::new(accounts.clone(), Arc::clone(&storage), Rc::clone(&book))
            })?;
            Ok(())
        }),
    },
    Row {
        kind: "Directory",
        parent: "-",
        each: "process",
        lane: LaneKind::Control,
        mailbox: 8192,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(|boot| {
            let (storage, clock) = (Arc::clone(&boot.context.storage), boot.context.clock);
            boot.start::<Directory, _>(&front(boot)?, ONLY, move || {
                move || Directory::new(clock, Arc::clone(&storage))
            })?;
            Ok(())
        }),
    },
    Row {
        kind: "DeviceSession",
        parent: "Directory",
        each: "connected client, gateway or relay",
        lane: LaneKind::Control,
        mailbox: 256,
        full: Full::Refuse,
        ring: 0,
        // Its node reconnects and receives its full state.
        restart: Restart::Never,
        intensity: Intensity { restarts: 0, within: Duration::from_secs(1) },
        start: None,
    },
    Row {
        kind: "GrantOffice",
        parent: "-",
        each: "account",
        lane: LaneKind::Control,
        mailbox: 8192,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: ROOT,
        start: Some(start_offices),
    },
];

/// The lane of the sessions.
fn front(boot: &Boot<'_, Context>) -> Result<LaneRef, StartError> {
    boot.lane(LaneKind::Control)
}

/// The lane of what decides and remembers: another one than the sessions', where there are two.
fn desk(boot: &Boot<'_, Context>) -> Result<LaneRef, StartError> {
    match boot.lanes(LaneKind::Control).last() {
        Some(lane) => Ok(lane.clone()),
        None => boot.lane(LaneKind::Control),
    }
}

fn start_offices(boot: &Boot<'_, Context>) -> Result<(), StartError> {
    let mut offices = std::collections::BTreeMap::new();
    for (account, name) in boot.context.accounts.clone() {
        let Context { storage, max_partition, countries, clock, .. } = boot.context;
        let (storage, max_partition, clock) = (Arc::clone(storage), *max_partition, *clock);
        let countries = countries.clone();
        let office = boot.start::<GrantOffice, _>(&desk(boot)?, &name, move || {
            move || GrantOffice::new(account, max_partition, Arc::clone(&storage), countries.clone(), clock)
        })?;
        offices.insert(account, office);
    }
    let addresses = Addresses {
        store: boot.address::<Store>(ONLY),
        offices,
        directory: boot.address::<Directory>(ONLY),
        audit: boot.address::<AuditLog>(ONLY),
    };
    let gone = |_| StartError::failed("the API takes no addresses", "nobody listens");
    boot.context.addresses.send(addresses).map_err(gone)
}

/// The table as a tree that can be run: one thread for the sessions, one for what decides.
pub fn table() -> Tree<Context> {
    Tree::new(ROWS).control_lanes(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_itself_consistent() {
        table().validate().unwrap();
    }

    #[test]
    fn the_table_is_the_remembered_one() {
        let remembered = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trees/control.txt");

        assert_eq!(
            table().render(),
            std::fs::read_to_string(remembered).unwrap(),
            "update it: `postern-control tree > docs/trees/control.txt`"
        );
    }
}
