//! What did not fit into the table's mailbox, and is told later: as it is then, not as it was.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use actors_runtime::Cx;

use super::Peers;
use crate::peer_table::TableCommand;
use crate::router::RouterChange;

/// How long the table gets to make room.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What the table does not know yet.
#[derive(Default)]
pub(super) struct Late {
    pub(super) links: bool,
    /// Places whose connection, or whose lack of one, is to be told.
    pub(super) slots: BTreeSet<u16>,
    announce: bool,
    retain: bool,
    network: bool,
    permit: BTreeSet<IpAddr>,
    routes: Vec<RouterChange>,
}

impl Late {
    fn is_empty(&self) -> bool {
        !(self.links || self.announce || self.retain || self.network)
            && self.slots.is_empty()
            && self.permit.is_empty()
            && self.routes.is_empty()
    }

    fn add(&mut self, command: TableCommand) {
        match command {
            TableCommand::Install(config) => {
                self.slots.insert(config.slot);
            }
            TableCommand::Remove { slot }
            | TableCommand::Apply { slot, .. }
            | TableCommand::Revoke { slot, .. }
            | TableCommand::Candidates { slot, .. }
            | TableCommand::Hygiene { slot, .. } => {
                self.slots.insert(slot);
            }
            TableCommand::Links(_) => self.links = true,
            TableCommand::Retain(_) => self.retain = true,
            TableCommand::Permit(addresses) => self.permit.extend(addresses),
            TableCommand::Route(changes) => self.routes.extend(changes),
            // The next one comes by itself.
            TableCommand::Keep(_) => {}
            TableCommand::NetworkChanged => self.network = true,
            TableCommand::Announce => self.announce = true,
        }
    }
}

impl Peers {
    /// Tells the table; what does not fit is told later, behind what is late already.
    pub(super) fn tell(&mut self, command: TableCommand, cx: &mut Cx<Self>) {
        let order_matters = matches!(&command, TableCommand::Route(_)) && !self.late.routes.is_empty();
        let rejected = if order_matters { Some(command) } else { self.try_tell(command) };
        if let Some(command) = rejected {
            self.late.add(command);
            cx.count_drop("table_command_late", 1);
            if cx.wakes_at().is_none() {
                cx.wake_after(TRY_AGAIN);
            }
        }
    }

    fn try_tell(&self, command: TableCommand) -> Option<TableCommand> {
        self.table.tell(command).err().map(actors_runtime::Rejected::into_inner)
    }

    /// Tells what is late, as far as there is room.
    pub(super) fn catch_up(&mut self, cx: &mut Cx<Self>) {
        self.tell_late();
        if self.late.is_empty() { cx.wake_never() } else { cx.wake_after(TRY_AGAIN) }
    }

    fn tell_late(&mut self) {
        if self.late.announce {
            self.late.announce = self.try_tell(TableCommand::Announce).is_some();
        }
        if self.late.retain {
            let slots = self.peers.keys().copied().collect();
            self.late.retain = self.try_tell(TableCommand::Retain(slots)).is_some();
        }
        if self.late.links {
            self.late.links = self.try_tell(self.links_wanted()).is_some();
        }
        while let Some(slot) = self.late.slots.first().copied() {
            if !self.tell_slot(slot) {
                return;
            }
            self.late.slots.remove(&slot);
        }
        if !self.late.permit.is_empty() {
            let addresses = self.late.permit.iter().copied().collect();
            if self.try_tell(TableCommand::Permit(addresses)).is_none() {
                self.late.permit.clear();
            }
        }
        if self.late.network {
            self.late.network = self.try_tell(TableCommand::NetworkChanged).is_some();
        }
        if !self.late.routes.is_empty() {
            let changes = std::mem::take(&mut self.late.routes);
            if let Some(TableCommand::Route(changes)) = self.try_tell(TableCommand::Route(changes)) {
                self.late.routes = changes;
            }
        }
    }

    /// Tells everything about one place. `false`: not all of it fitted.
    fn tell_slot(&self, slot: u16) -> bool {
        let Some(entry) = self.peers.get(&slot) else {
            return self.try_tell(TableCommand::Remove { slot }).is_none();
        };
        let version = entry.revoked;
        let in_force = entry.apply.as_ref().map(|apply| apply.grants.version());
        let is_blocked = in_force.unwrap_or_default() < version;
        self.try_tell(TableCommand::Install(Box::new(entry.config.clone()))).is_none()
            && (!is_blocked || self.try_tell(TableCommand::Revoke { slot, version }).is_none())
            && entry.apply.as_ref().is_none_or(|apply| {
                self.try_tell(TableCommand::Apply { slot, apply: Box::new(apply.clone()) }).is_none()
            })
    }
}
