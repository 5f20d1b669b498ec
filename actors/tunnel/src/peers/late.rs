//! What did not fit into the table's mailbox, and is told later: as it is then, not as it was.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use actors_runtime::Cx;

use super::Peers;
use crate::lane::Neighbour;
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
            TableCommand::Neighbour { slot, .. }
            | TableCommand::Remove { slot }
            | TableCommand::Apply { slot, .. }
            | TableCommand::Revoke { slot, .. }
            | TableCommand::Candidates { slot, .. }
            | TableCommand::Hygiene { slot, .. } => {
                self.slots.insert(slot);
            }
            TableCommand::Links(_) | TableCommand::Away(_) => self.links = true,
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
    /// Tells a lane's table; what does not fit is told later, behind what is late already.
    pub(super) fn tell(&mut self, lane: u8, command: TableCommand, cx: &mut Cx<Self>) {
        let Some(late) = self.late.get(usize::from(lane)) else { return };
        let order_matters = matches!(&command, TableCommand::Route(_)) && !late.routes.is_empty();
        let rejected = if order_matters { Some(command) } else { self.try_tell(lane, command) };
        if let (Some(command), Some(late)) = (rejected, self.late.get_mut(usize::from(lane))) {
            late.add(command);
            cx.count_drop("table_command_late", 1);
            if cx.wakes_at().is_none() {
                cx.wake_after(TRY_AGAIN);
            }
        }
    }

    fn try_tell(&self, lane: u8, command: TableCommand) -> Option<TableCommand> {
        let table = self.tables.get(usize::from(lane))?;
        table.tell(command).err().map(actors_runtime::Rejected::into_inner)
    }

    fn does_not_fit(&self, lane: u8, command: TableCommand) -> bool {
        self.try_tell(lane, command).is_some()
    }

    /// Tells what is late, as far as there is room.
    pub(super) fn catch_up(&mut self, cx: &mut Cx<Self>) {
        for lane in self.lanes() {
            let late = self.late.get_mut(usize::from(lane)).map(std::mem::take).unwrap_or_default();
            let late = self.tell_late(lane, late);
            if let Some(place) = self.late.get_mut(usize::from(lane)) {
                *place = late;
            }
        }
        if self.late.iter().all(Late::is_empty) { cx.wake_never() } else { cx.wake_after(TRY_AGAIN) }
    }

    /// What is late still.
    fn tell_late(&self, lane: u8, mut late: Late) -> Late {
        if late.announce {
            late.announce = self.does_not_fit(lane, TableCommand::Announce);
        }
        if late.retain {
            let slots = self.peers.keys().copied().collect();
            late.retain = self.does_not_fit(lane, TableCommand::Retain(slots));
        }
        if late.links {
            late.links = self.does_not_fit(lane, self.links_wanted(lane));
        }
        while let Some(slot) = late.slots.first().copied() {
            if !self.tell_slot(lane, slot) {
                return late;
            }
            late.slots.remove(&slot);
        }
        if !late.permit.is_empty() {
            let addresses = late.permit.iter().copied().collect();
            if !self.does_not_fit(lane, TableCommand::Permit(addresses)) {
                late.permit.clear();
            }
        }
        if late.network {
            late.network = self.does_not_fit(lane, TableCommand::NetworkChanged);
        }
        if !late.routes.is_empty() {
            let changes = std::mem::take(&mut late.routes);
            if let Some(TableCommand::Route(changes)) = self.try_tell(lane, TableCommand::Route(changes)) {
                late.routes = changes;
            }
        }
        late
    }

    /// Tells everything about one place. `false`: not all of it fitted.
    fn tell_slot(&self, lane: u8, slot: u16) -> bool {
        let Some(entry) = self.peers.get(&slot) else {
            return !self.does_not_fit(lane, TableCommand::Remove { slot });
        };
        if entry.lane != lane {
            let neighbour = Neighbour { lane: entry.lane, public: entry.config.public };
            return !self.does_not_fit(lane, TableCommand::Neighbour { slot, neighbour });
        }
        let version = entry.revoked;
        let in_force = entry.apply.as_ref().map(|apply| apply.grants.version());
        let is_blocked = in_force.unwrap_or_default() < version;
        !self.does_not_fit(lane, TableCommand::Install(Box::new(entry.config.clone())))
            && (!is_blocked || !self.does_not_fit(lane, TableCommand::Revoke { slot, version }))
            && entry.apply.as_ref().is_none_or(|apply| {
                !self.does_not_fit(lane, TableCommand::Apply { slot, apply: Box::new(apply.clone()) })
            })
    }
}
