//! Keeps the gateway's packet filter, masquerading and forwarding in place, and finds what stands in the way.
//!
//! - Parent: the process's root, on a control lane of the gateway.
//! - Core: [`obstacles`](crate::filter_inspect), a pure look at the host's rules.
//! - When it dies: the table stays in the kernel, so packets go on; the next incarnation replaces it by an equal one. On
//!   exit everything is removed, and a predecessor's leavings are replaced at start.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Reply};

use crate::filter_inspect::{Obstacle, obstacles};
use crate::nft::{self, FilterPlan, NftError};
use crate::sysctl::Settings;

/// Others reload the host's rules, Docker comes up late: how long an outage of ours may last then.
const RECHECK: Duration = Duration::from_secs(15);

/// Commands that wait while `nft` runs.
const WAITING: usize = 16;

/// Where the gateway's filter lives.
#[derive(Clone, Debug)]
pub struct HostFilterConfig {
    /// The nftables table of family `inet`.
    pub table: String,
    /// Where kernel settings are noted before they are changed.
    pub state_file: Option<PathBuf>,
}

impl Default for HostFilterConfig {
    fn default() -> Self {
        Self { table: "postern".to_owned(), state_file: None }
    }
}

/// What came of a look at the host.
pub type FilterReport = Result<Vec<Obstacle>, NftError>;

/// What [`HostFilter`] can be told.
#[derive(Debug)]
pub enum HostFilterCommand {
    /// Makes the host so, and looks for obstacles.
    Apply {
        /// Everything that the table should say.
        plan: FilterPlan,
        /// Hears what stands in the way; nothing is ready while there is something.
        done: Option<Reply<FilterReport>>,
    },
    /// Looks for obstacles again.
    Inspect {
        /// Hears them.
        done: Reply<FilterReport>,
    },
    /// Removes everything of ours.
    Clear {
        /// Hears when it is gone.
        done: Option<Reply<()>>,
    },
}

/// What a restarted filter takes over. The factory keeps it.
#[derive(Clone, Debug)]
pub struct KeptFilter(Rc<RefCell<Kept>>);

#[derive(Debug)]
struct Kept {
    plan: Option<FilterPlan>,
    settings: Settings,
    known: Vec<Obstacle>,
}

impl KeptFilter {
    /// Nothing applied yet; reads what a predecessor noted.
    pub fn new(config: &HostFilterConfig) -> Self {
        let settings = Settings::load(config.state_file.clone());
        Self(Rc::new(RefCell::new(Kept { plan: None, settings, known: Vec::new() })))
    }

    /// What stood in the way at the last look.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        self.0.borrow().known.clone()
    }
}

/// The keeper of the gateway's packet filter.
pub struct HostFilter {
    config: Rc<HostFilterConfig>,
    kept: KeptFilter,
    busy: bool,
    waiting: Vec<HostFilterCommand>,
}

impl HostFilter {
    /// A keeper.
    pub fn new(config: HostFilterConfig, kept: KeptFilter) -> Self {
        Self { config: Rc::new(config), kept, busy: false, waiting: Vec::new() }
    }

    fn next(&mut self, cx: &mut Cx<Self>) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        self.busy = true;
        let (config, kept) = (Rc::clone(&self.config), self.kept.clone());
        match self.waiting.remove(0) {
            HostFilterCommand::Apply { plan, done } => {
                self.kept.0.borrow_mut().plan = Some(plan.clone());
                cx.spawn(async move { put(&config, &kept, &plan).await }, |actor, report, cx| {
                    actor.finished(&report);
                    if let Some(done) = done {
                        done.send(report);
                    }
                    cx.wake_after(RECHECK);
                    actor.next(cx);
                });
            }
            HostFilterCommand::Inspect { done } => {
                cx.spawn(async move { look(&config, &kept).await }, |actor, report, cx| {
                    actor.finished(&report);
                    done.send(report);
                    actor.next(cx);
                });
            }
            HostFilterCommand::Clear { done } => {
                cx.wake_never();
                kept.0.borrow_mut().plan = None;
                let work = async move {
                    let removed = nft::remove(&config.table).await;
                    kept.0.borrow_mut().settings.restore();
                    removed
                };
                cx.spawn(work, |actor, removed, cx| {
                    actor.busy = false;
                    if let Err(error) = removed {
                        tracing::warn!(error = %error, "the packet filter of ours could not be removed");
                    }
                    if let Some(done) = done {
                        done.send(());
                    }
                    actor.next(cx);
                });
            }
        }
    }

    fn finished(&mut self, report: &FilterReport) {
        self.busy = false;
        match report {
            Err(error) => tracing::error!(error = %error, "the packet filter could not be set"),
            Ok(found) => {
                let mut kept = self.kept.0.borrow_mut();
                for Obstacle { what, why, fix } in found.iter().filter(|new| !kept.known.contains(new)) {
                    tracing::warn!(what, why, fix, "the host would drop packets of the tunnel");
                }
                if found.is_empty() && !kept.known.is_empty() {
                    tracing::info!("nothing stands in the way of forwarding any more");
                }
                kept.known.clone_from(found);
            }
        }
    }
}

async fn put(config: &HostFilterConfig, kept: &KeptFilter, plan: &FilterPlan) -> FilterReport {
    nft::load(&nft::table_text(&config.table, plan)).await?;
    look(config, kept).await
}

async fn look(config: &HostFilterConfig, kept: &KeptFilter) -> FilterReport {
    let Some(plan) = kept.0.borrow().plan.clone() else { return Ok(Vec::new()) };
    if !nft::exists(&config.table).await? {
        tracing::warn!("somebody removed our packet filter; it is put back");
        nft::load(&nft::table_text(&config.table, &plan)).await?;
    }
    let mut found = kept.0.borrow_mut().settings.forward();
    found.extend(obstacles(&nft::ruleset().await?, &plan.device, &config.table));
    Ok(found)
}

impl Actor for HostFilter {
    const KIND: &'static str = "HostFilter";
    type Command = HostFilterCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let plan = self.kept.0.borrow().plan.clone();
        self.waiting.push(match plan {
            Some(plan) => HostFilterCommand::Apply { plan, done: None },
            None => HostFilterCommand::Clear { done: None },
        });
        self.next(cx);
    }

    fn told(&mut self, command: HostFilterCommand, cx: &mut Cx<Self>) {
        // One too many is dropped; who asked hears "no answer".
        if self.waiting.len() < WAITING {
            self.waiting.push(command);
        }
        self.next(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        if !self.busy && self.kept.0.borrow().plan.is_some() {
            self.waiting.push(HostFilterCommand::Inspect { done: Reply::channel().0 });
            self.next(cx);
        }
        cx.wake_after(RECHECK);
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        if let Err(error) = clean_filter_blocking(&self.config) {
            tracing::warn!(error = %error, "the packet filter of ours could not be removed");
        }
        self.kept.0.borrow_mut().settings.restore();
    }
}

/// Removes the table, for code that cannot wait.
///
/// # Errors
/// What `nft` said.
pub fn clean_filter_blocking(config: &HostFilterConfig) -> Result<(), NftError> {
    let table = config.table.clone();
    crate::blocking::run("filter-cleaner", move || async move { nft::remove(&table).await })
        .unwrap_or_else(|error| Err(NftError::NotRun(error)))
}

/// What stands in the way of forwarding on this host, without changing anything: for `check`.
///
/// # Errors
/// What `nft` said.
pub async fn inspect_host(device: &str, own_table: &str) -> FilterReport {
    Ok(obstacles(&nft::ruleset().await?, device, own_table))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use actors_runtime::{Address, LaneKind, Universe};
    use protocol_packet::{Batch, Ip, udp};

    use crate::segment::HostPacket;

    use super::*;
    use crate::drops::EdgeDrops;
    use crate::lane_tun::{LaneTun, TunConfig, Written};
    use crate::testing::{in_bare_namespace, neighbour, row, tool, until};
    use crate::tun_device::TunDevice;
    use crate::tun_open::Offload;

    fn plan() -> FilterPlan {
        FilterPlan {
            device: "postern-gw0".to_owned(),
            inner: vec!["100.64.0.0/11".parse().unwrap(), "fd70:6f73:7401::/64".parse().unwrap()],
            masquerade: true,
            own: vec!["10.5.0.1".parse().unwrap()],
        }
    }

    fn started(config: HostFilterConfig) -> (Universe, Address<HostFilter>) {
        let rows = [row("HostFilter", LaneKind::Control), row("TunDevice", LaneKind::Packet)];
        let universe = Universe::new::<()>(&rows);
        let kept = KeptFilter::new(&config);
        let factory = move || HostFilter::new(config.clone(), kept.clone());
        let address = universe.start("", factory).unwrap().address;
        (universe, address)
    }

    fn apply(universe: &Universe, address: &Address<HostFilter>) -> Vec<Obstacle> {
        let (done, answer) = Reply::channel();
        address.tell(HostFilterCommand::Apply { plan: plan(), done: Some(done) }).unwrap();
        universe.block_on(answer).unwrap().unwrap()
    }

    fn forwarding() -> String {
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned()
    }

    #[test]
    fn everything_is_put_in_place_and_removed_on_exit() {
        in_bare_namespace(|| {
            let folder = tempfile::tempdir().unwrap();
            let state_file = folder.path().join("state").join("sysctl.json");
            let (universe, address) =
                started(HostFilterConfig { state_file: Some(state_file.clone()), ..Default::default() });
            assert_eq!(forwarding(), "0");

            let found = apply(&universe, &address);

            assert_eq!(found, []);
            assert_eq!(forwarding(), "1");
            assert!(tool("nft list table inet postern").contains("masquerade"));
            assert!(state_file.exists());
            universe.stop(&address);
            universe.settle();
            assert_eq!(tool("nft list ruleset"), "");
            assert_eq!(forwarding(), "0");
            assert!(!state_file.exists());
        });
    }

    #[test]
    fn after_a_crash_the_settings_of_before_come_back() {
        in_bare_namespace(|| {
            let folder = tempfile::tempdir().unwrap();
            let config = HostFilterConfig {
                state_file: Some(folder.path().join("sysctl.json")),
                ..Default::default()
            };
            let (crashed, address) = started(config.clone());
            apply(&crashed, &address);
            // A killed process runs nothing on its way out.
            std::mem::forget(crashed);
            assert_eq!(forwarding(), "1");

            let (universe, _address) = started(config);
            universe.block_on(until("the clean start", || forwarding() == "0"));

            assert_eq!(tool("nft list ruleset"), "");
        });
    }

    #[test]
    fn a_flushed_table_is_put_back() {
        in_bare_namespace(|| {
            let (universe, address) = started(HostFilterConfig::default());
            apply(&universe, &address);

            tool("nft flush ruleset");
            universe.advance(RECHECK);

            universe.block_on(until("the table", || tool("nft list ruleset").contains("masquerade")));
        });
    }

    #[test]
    fn a_foreign_chain_that_drops_is_named_with_its_remedy() {
        in_bare_namespace(|| {
            let (universe, address) = started(HostFilterConfig::default());
            tool("nft add table ip filter");
            tool("nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");

            let found = apply(&universe, &address);

            assert_eq!(found.len(), 1);
            assert_eq!(found[0].what, "chain ip filter FORWARD");
            for command in found[0].fix.split(" && ") {
                tool(command);
            }
            assert_eq!(apply(&universe, &address), []);
        });
    }

    #[test]
    fn a_resource_sees_the_gateway_and_nobody_else_gets_in() {
        in_bare_namespace(|| {
            let (keep, kept) = std::sync::mpsc::channel::<()>();
            let site =
                neighbour("site", &["ip addr add 10.5.0.2/24 dev site", "ip link set site up"], move || {
                    let server = UdpSocket::bind("10.5.0.2:7").unwrap();
                    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let mut buffer = [0; 100];
                    let (length, from) = server.recv_from(&mut buffer).unwrap();
                    server.send_to(&buffer[..length], from).unwrap();
                    // The device goes with the namespace, and the namespace with this thread.
                    let _ = kept.recv();
                    from
                });
            let (universe, address) = started(HostFilterConfig::default());
            let config = TunConfig { name: "postern-gw0".to_owned(), offload: Offload::Off };
            let tun = universe.block_on(async { LaneTun::open(&config, EdgeDrops::alone()).unwrap() });
            for command in [
                "ip addr add 10.5.0.1/24 dev lan",
                "ip link set lan up",
                "ip link set postern-gw0 up",
                "ip route add 100.64.0.0/11 dev postern-gw0",
            ] {
                tool(command);
            }
            apply(&universe, &address);
            let seen = Rc::new(RefCell::new(Vec::new()));
            let (reader, sink) = (tun.clone(), seen.clone());
            let sink = Rc::new(move |arrived: &mut Batch<HostPacket>| {
                let v4 = arrived.drain().filter(|packet| packet.bytes()[0] >> 4 == 4);
                sink.borrow_mut().extend(v4.map(|packet| packet.bytes().to_vec()));
            });
            universe.start("0", move || TunDevice::new(reader.clone(), sink.clone())).unwrap();
            let own_service = UdpSocket::bind("0.0.0.0:53").unwrap();
            own_service.set_nonblocking(true).unwrap();
            let send = |to: &str| {
                let mut packet = [0; 200];
                let from: SocketAddr = "100.64.0.9:999".parse().unwrap();
                let length = udp(&mut packet, from, to.parse().unwrap(), b"hello").unwrap();
                assert_eq!(tun.write(&packet[..length]), Written::Yes);
            };

            send("10.5.0.2:7");
            universe.block_on(until("the echo", || !seen.borrow().is_empty()));
            // The address of a resource is let in, an address of ours that is none is not.
            tool("ip addr add 10.5.0.3/24 dev lan");
            send("10.5.0.3:53");
            send("10.5.0.1:53");

            let echo = Ip::parse(&seen.borrow()[0]).unwrap().headers().to_owned();
            assert_eq!(
                (echo.source.to_string(), echo.destination.to_string()),
                ("10.5.0.2".into(), "100.64.0.9".into())
            );
            universe
                .block_on(until("the query to the resource", || own_service.recv_from(&mut [0; 9]).is_ok()));
            assert!(own_service.recv_from(&mut [0; 9]).is_err(), "only one of the two arrived");
            drop(keep);
            assert_eq!(site.join().unwrap().ip().to_string(), "10.5.0.1");
        });
    }
}
