//! Finds the real addresses of names for the gateway: the host's own file first, then its DNS servers in turn.
//!
//! - Parent: the process's root, on a control lane. Children: one [`Resolver`] for each server.
//! - Core: the order in which servers are asked.
//! - When it dies: its resolvers are made anew from the host's configuration; who asked hears nothing and asks again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use actors_runtime::{Actor, Address, ChildEnded, Cx, Never, Reply};
use protocol_names::Name;

use crate::resolv_conf;
use crate::resolver::{ResolveError, Resolved, Resolver, ResolverCommand};

/// How long what the host's own file says is believed.
const HOSTS_TTL: Duration = Duration::from_secs(30);
/// Servers beyond these are not asked: libc asks three.
const SERVERS: usize = 4;
/// Questions on their way.
const ON_THEIR_WAY: usize = 512;

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct ResolversConfig {
    /// Servers to ask instead of those that `resolv_conf` names.
    pub servers: Option<Vec<SocketAddr>>,
    /// Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Usually `/etc/hosts`.
    pub hosts: PathBuf,
    /// `SO_MARK` of the sockets.
    pub mark: Option<u32>,
}

impl Default for ResolversConfig {
    fn default() -> Self {
        Self {
            servers: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
            mark: None,
        }
    }
}

/// What [`Resolvers`] can be told.
#[derive(Debug)]
pub enum ResolversCommand {
    /// Finds the addresses of a name.
    Resolve {
        /// The name.
        name: Name,
        /// Hears them.
        done: Reply<Result<Resolved, ResolveError>>,
    },
    /// Reads the host's configuration again, because its network changed.
    Refresh,
}

/// The finder.
pub struct Resolvers {
    config: ResolversConfig,
    /// In the order of the host's configuration.
    servers: Vec<(SocketAddr, Address<Resolver>)>,
    /// Which of them answered last: it is asked first.
    preferred: SocketAddr,
    on_their_way: usize,
}

impl Resolvers {
    /// Finds names as `config` says.
    pub fn new(config: ResolversConfig) -> Self {
        let preferred = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { config, servers: Vec::new(), preferred, on_their_way: 0 }
    }

    fn refresh(&mut self, cx: &mut Cx<Self>) {
        let read = || resolv_conf::servers(&resolv_conf::read(&self.config.resolv_conf));
        let mut wanted = self.config.servers.clone().unwrap_or_else(read);
        wanted.truncate(SERVERS);
        for (server, _) in self.servers.iter().filter(|(server, _)| !wanted.contains(server)) {
            cx.stop_child::<Resolver>(&server.to_string());
        }
        let mut before = std::mem::take(&mut self.servers);
        for server in wanted {
            if let Some(place) = before.iter().position(|(known, _)| *known == server) {
                self.servers.push(before.swap_remove(place));
                continue;
            }
            let mark = self.config.mark;
            match cx.start_child::<Resolver>(server.to_string(), move || Resolver::new(server, mark)) {
                Ok(child) => self.servers.push((server, child.address)),
                Err(error) => tracing::warn!(error = %error, "a DNS server is not asked"),
            }
        }
        if self.servers.is_empty() {
            tracing::warn!("the host has no DNS server: resources with names cannot be reached");
        }
    }

    /// What the host's own file says; it is small, and whoever edits it expects to be heard.
    fn in_hosts_file(&self, name: &Name) -> Option<Resolved> {
        let addresses = resolv_conf::hosts(&resolv_conf::read(&self.config.hosts)).remove(name)?;
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Some(Resolved { addresses: [v4, v6].concat(), ttl: HOSTS_TTL })
    }
}

impl Actor for Resolvers {
    const KIND: &'static str = "Resolvers";
    type Command = ResolversCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.refresh(cx);
    }

    fn told(&mut self, command: ResolversCommand, cx: &mut Cx<Self>) {
        match command {
            ResolversCommand::Refresh => self.refresh(cx),
            ResolversCommand::Resolve { name, done } => {
                if let Some(resolved) = self.in_hosts_file(&name) {
                    return done.send(Ok(resolved));
                }
                if self.on_their_way >= ON_THEIR_WAY {
                    return done.send(Err(ResolveError::Unanswered));
                }
                self.on_their_way += 1;
                let mut servers = self.servers.clone();
                servers.sort_by_key(|(server, _)| *server != self.preferred);
                let work = async move { in_turn(&servers, &name).await };
                cx.spawn(work, |actor, (by, result), _| {
                    actor.on_their_way -= 1;
                    actor.preferred = by.unwrap_or(actor.preferred);
                    done.send(result);
                });
            }
        }
    }

    fn child_ended(&mut self, child: ChildEnded, _: &mut Cx<Self>) {
        // One server that cannot be asked is no reason to ask none. It is tried again when the network changes.
        self.servers.retain(|(server, address)| server.to_string() != child.key || !address.has_ended());
    }
}

/// Asks the servers one after the other until one says something; tells which.
async fn in_turn(
    servers: &[(SocketAddr, Address<Resolver>)],
    name: &Name,
) -> (Option<SocketAddr>, Result<Resolved, ResolveError>) {
    let mut outcome = ResolveError::NoServer;
    for (server, address) in servers {
        let (done, answer) = Reply::channel();
        outcome = ResolveError::Unanswered;
        if address.tell(ResolverCommand::Query { name: name.clone(), done }).is_err() {
            continue;
        }
        match answer.await {
            Ok(Err(ResolveError::Unanswered | ResolveError::NoServer)) | Err(_) => {}
            Ok(result) => return (Some(*server), result),
        }
    }
    (None, Err(outcome))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use actors_runtime::{LaneKind, Row, Universe};
    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::rdata::{A, AAAA};
    use hickory_proto::rr::{RData, Record, RecordType};

    use super::*;
    use crate::testing::row;

    /// A DNS server that knows `known.example` (both families), `v4.example` and nothing else. `None`: it stays silent.
    fn server(code: Option<ResponseCode>) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let mut message = Message::from_vec(&buffer[..length]).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let Some(code) = code else { continue };
                let query = message.queries[0].clone();
                let name = query.name().to_ascii();
                message.metadata.message_type = MessageType::Response;
                message.metadata.response_code = code;
                let data = match (name.as_str(), query.query_type()) {
                    ("known.example.", RecordType::AAAA) => {
                        Some(RData::AAAA(AAAA("2001:db8::7".parse().unwrap())))
                    }
                    ("known.example." | "v4.example.", RecordType::A) => {
                        Some(RData::A(A("198.51.100.7".parse().unwrap())))
                    }
                    ("known.example." | "v4.example.", _) => None,
                    _ => {
                        if code == ResponseCode::NoError {
                            message.metadata.response_code = ResponseCode::NXDomain;
                        }
                        None
                    }
                };
                message.answers.extend(data.map(|data| Record::from_rdata(query.name().clone(), 60, data)));
                let _ = socket.send_to(&message.to_vec().unwrap(), from);
            }
        });
        (address, asked)
    }

    fn rows() -> [Row<()>; 2] {
        [
            row("Resolvers", LaneKind::Control),
            Row { parent: "Resolvers", ..row("Resolver", LaneKind::Control) },
        ]
    }

    fn started(servers: Vec<SocketAddr>, hosts: &str) -> (Universe, Address<Resolvers>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = ResolversConfig {
            servers: Some(servers),
            hosts: folder.path().join("hosts"),
            ..ResolversConfig::default()
        };
        std::fs::write(&config.hosts, hosts).unwrap();
        let universe = Universe::new(&rows());
        let address = universe.start("", move || Resolvers::new(config.clone())).unwrap().address;
        universe.settle();
        (universe, address, folder)
    }

    /// Time moves on by itself while an answer is waited for, as fast as real time.
    fn resolve(
        universe: &Universe,
        address: &Address<Resolvers>,
        name: &str,
    ) -> Result<Resolved, ResolveError> {
        let (done, mut answer) = Reply::channel();
        address.tell(ResolversCommand::Resolve { name: name.parse().unwrap(), done }).unwrap();
        for _ in 0..2000 {
            universe.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
            universe.advance(Duration::from_millis(5));
            if let Some(answer) = answer.try_take() {
                return answer;
            }
        }
        panic!("no answer");
    }

    fn addresses(resolved: Result<Resolved, ResolveError>) -> Vec<String> {
        resolved.unwrap().addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn both_families_are_found_and_remembered() {
        let (server, asked) = server(Some(ResponseCode::NoError));
        let (universe, address, _folder) = started(vec![server], "");

        let first = resolve(&universe, &address, "known.example");
        let again = resolve(&universe, &address, "Known.Example.");
        let one_family = resolve(&universe, &address, "v4.example");

        assert_eq!(first.clone().unwrap().ttl, Duration::from_secs(60));
        assert_eq!(addresses(first), ["198.51.100.7", "2001:db8::7"]);
        assert_eq!(addresses(again).len(), 2);
        assert_eq!(addresses(one_family), ["198.51.100.7"]);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        universe.advance(Duration::from_secs(61));
        resolve(&universe, &address, "known.example").unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 6, "after its time to live it is asked for again");
    }

    #[test]
    fn the_next_server_answers_when_one_fails() {
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for bad in [dead, server(Some(ResponseCode::ServFail)).0, server(None).0] {
            let (good, _) = server(Some(ResponseCode::NoError));
            let (universe, address, _folder) = started(vec![bad, good], "");

            assert_eq!(addresses(resolve(&universe, &address, "known.example")).len(), 2);
            let alive = universe.registry().snapshot();
            assert_eq!(alive.iter().filter(|row| row.kind == "Resolver").count(), 2);
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_not_asked_for_elsewhere() {
        let ((first, _), (second, asked)) =
            (server(Some(ResponseCode::NoError)), server(Some(ResponseCode::NoError)));
        let (universe, address, _folder) = started(vec![first, second], "");

        assert_eq!(resolve(&universe, &address, "nothing.example"), Err(ResolveError::NoSuchName));

        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_hosts_file_comes_first() {
        let (universe, address, _folder) =
            started(Vec::new(), "2001:db8::9 db.example\n10.0.0.9 db.example\n");

        assert_eq!(addresses(resolve(&universe, &address, "db.example")), ["10.0.0.9", "2001:db8::9"]);
        assert_eq!(resolve(&universe, &address, "other.example"), Err(ResolveError::NoServer));
    }

    #[test]
    fn servers_come_and_go_with_the_hosts_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            ResolversConfig { resolv_conf: folder.path().join("resolv.conf"), ..ResolversConfig::default() };
        let file = config.resolv_conf.clone();
        std::fs::write(&file, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let universe = Universe::new(&rows());
        let address = universe.start("", move || Resolvers::new(config.clone())).unwrap().address;
        universe.settle();
        let keys = || {
            let rows = universe.registry().snapshot();
            rows.into_iter().filter(|row| row.kind == "Resolver").map(|row| row.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(), ["192.0.2.1:53", "192.0.2.2:53"]);

        std::fs::write(&file, "nameserver 192.0.2.2\nnameserver 192.0.2.3\n").unwrap();
        address.tell(ResolversCommand::Refresh).unwrap();
        universe.settle();

        assert_eq!(keys(), ["192.0.2.2:53", "192.0.2.3:53"]);
    }
}
