//! Between the grants and DNS: who hears the names of resources, and who says whether a name may be reached.

use std::sync::Arc;

use actors_access::{Decided, Grants, GrantsCommand};
use actors_network::{
    AskAccess, HostDns, HostDnsCommand, HostDnsMode, StubCommand, StubResolver, WantedName,
};
use actors_runtime::{Address, Outlet, Rejected, Reply};
use protocol_control::MappedName;
use protocol_names::AccessOutcome;

use crate::config::DnsMode;

/// The names of all resources, whenever they change: the stub resolver answers for them, and the host is made to ask
/// there. Without a name the host's DNS is left as it was.
pub fn names_to(stub: Address<StubResolver>, host: Address<HostDns>) -> Outlet<Vec<String>> {
    Outlet::to(move |names: Vec<String>| {
        let change = match names.is_empty() {
            true => HostDnsCommand::Clear { done: None },
            false => HostDnsCommand::Apply { names: names.clone(), done: None },
        };
        let told = stub.tell(StubCommand::Names(names)).map_err(|_| ());
        let changed = host.tell(change).map_err(|_| ());
        told.and(changed).map_err(|()| Rejected::Full(()))
    })
}

/// Asks the grants whether a name may be reached, which asks control when nobody knows.
pub fn access_through(grants: Address<Grants>) -> AskAccess {
    Arc::new(move |wanted: WantedName| {
        let (reply, answer) = Reply::channel();
        let mapped = MappedName { name: wanted.name.to_string(), v4: wanted.mapped.v4, v6: wanted.mapped.v6 };
        let asked = grants.tell(GrantsCommand::Lookup { mapped, decided: reply });
        Box::pin(async move {
            match asked {
                Ok(()) => answer.await.map_or(AccessOutcome::Offline, outcome),
                Err(_) => AccessOutcome::Offline,
            }
        })
    })
}

fn outcome(decided: Decided) -> AccessOutcome {
    match decided {
        Decided::Granted { has_v4, has_v6 } => AccessOutcome::Granted { has_v4, has_v6 },
        Decided::Denied(_) | Decided::Unknown => AccessOutcome::Denied,
        Decided::Offline => AccessOutcome::Offline,
    }
}

/// The mode as the actor calls it.
pub fn host_mode(mode: DnsMode) -> HostDnsMode {
    match mode {
        DnsMode::Auto => HostDnsMode::Auto,
        DnsMode::Resolved => HostDnsMode::Resolved,
        DnsMode::File => HostDnsMode::File,
        DnsMode::Off => HostDnsMode::Off,
    }
}

#[cfg(test)]
mod tests {
    use protocol_control::DenyReason;

    use super::*;

    #[test]
    fn a_name_that_is_refused_or_gone_is_denied_and_an_outage_is_none() {
        assert_eq!(outcome(Decided::Denied(DenyReason::NoRule)), AccessOutcome::Denied);
        assert_eq!(outcome(Decided::Unknown), AccessOutcome::Denied);
        assert_eq!(outcome(Decided::Offline), AccessOutcome::Offline);
    }
}
