//! Keeps the host's addresses, routes and rules in line with what the tunnel should carry.
//!
//! - Parent: the process's root, on a control lane.
//! - Core: [`Table`](crate::route_plan), a pure decision.
//! - When it dies: its routes stay in the kernel, so packets go on; the next incarnation compares and carries on. On exit
//!   everything is removed, and the leavings of a predecessor that could not do so are removed at start.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Reply};

use crate::host_routes::{self, AppliedRoutes, RoutesConfig, clean_routes, clean_routes_blocking};
use crate::netlink::NetlinkError;
use crate::route_plan::HostPlan;

/// Network changes come in bursts; the kernel's table is read once for all of them.
const SETTLE: Duration = Duration::from_millis(200);

/// What [`Routes`] can be told.
#[derive(Debug)]
pub enum RoutesCommand {
    /// Makes the host so. A plan is whole, and a newer one replaces those that still wait.
    Apply {
        /// Everything that the host should have.
        plan: Arc<HostPlan>,
        /// Hears what came of it.
        done: Option<Reply<Result<AppliedRoutes, NetlinkError>>>,
    },
    /// Compares the host with the plan again, because its network changed.
    Refresh,
    /// Removes everything of ours.
    Clear {
        /// Hears when it is gone.
        done: Option<Reply<()>>,
    },
}

type Done = Option<Reply<Result<AppliedRoutes, NetlinkError>>>;

/// What is asked for next.
enum Job {
    Apply(Arc<HostPlan>, Done),
    Clear(Option<Reply<()>>),
}

/// The plan in force. The factory keeps it, so that a restarted actor knows it.
#[derive(Clone, Debug, Default)]
pub struct KeptPlan(Rc<RefCell<Option<Arc<HostPlan>>>>);

/// The keeper of the host's routes.
pub struct Routes {
    config: Arc<RoutesConfig>,
    kept: KeptPlan,
    waiting: Option<Job>,
    busy: bool,
}

impl KeptPlan {
    fn get(&self) -> Option<Arc<HostPlan>> {
        self.0.borrow().clone()
    }

    fn set(&self, plan: Option<Arc<HostPlan>>) {
        self.0.replace(plan);
    }
}

impl Routes {
    /// A keeper for one device.
    pub fn new(config: RoutesConfig, kept: KeptPlan) -> Self {
        Self { config: Arc::new(config), kept, waiting: None, busy: false }
    }

    fn enqueue(&mut self, job: Job, cx: &mut Cx<Self>) {
        // An `Apply` that never ran is superseded: its asker hears nothing, which reads as "not answered".
        self.waiting = Some(job);
        self.next(cx);
    }

    fn next(&mut self, cx: &mut Cx<Self>) {
        if self.busy {
            return;
        }
        let config = Arc::clone(&self.config);
        match self.waiting.take() {
            None => {}
            Some(Job::Apply(plan, done)) => {
                self.busy = true;
                let work = async move { host_routes::apply(&config, plan).await };
                cx.spawn(work, |actor, result, cx| {
                    actor.busy = false;
                    report(&result);
                    if let Some(done) = done {
                        done.send(result);
                    }
                    actor.next(cx);
                });
            }
            Some(Job::Clear(done)) => {
                self.busy = true;
                let work = async move { clean_routes(&config).await };
                cx.spawn(work, |actor, result, cx| {
                    actor.busy = false;
                    if let Err(error) = result {
                        tracing::warn!(error = %error, "some routes of ours could not be removed");
                    }
                    if let Some(done) = done {
                        done.send(());
                    }
                    actor.next(cx);
                });
            }
        }
    }
}

fn report(result: &Result<AppliedRoutes, NetlinkError>) {
    match result {
        Ok(applied) => {
            for (route, why) in &applied.refused {
                tracing::warn!(reason = %why, "a route that control asked for was refused");
                tracing::debug!(%route, "the refused route");
            }
            tracing::debug!(routes = applied.routes.len(), "routes are in place");
        }
        Err(error) => tracing::error!(error = %error, "the host's routes could not be set"),
    }
}

impl Actor for Routes {
    const KIND: &'static str = "Routes";
    type Command = RoutesCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        match self.kept.get() {
            Some(plan) => self.enqueue(Job::Apply(plan, None), cx),
            None => self.enqueue(Job::Clear(None), cx),
        }
    }

    fn told(&mut self, command: RoutesCommand, cx: &mut Cx<Self>) {
        match command {
            RoutesCommand::Apply { plan, done } => {
                self.kept.set(Some(Arc::clone(&plan)));
                self.enqueue(Job::Apply(plan, done), cx);
            }
            RoutesCommand::Refresh => {
                if cx.wakes_at().is_none() {
                    cx.wake_after(SETTLE);
                }
            }
            RoutesCommand::Clear { done } => {
                self.kept.set(None);
                cx.wake_never();
                self.enqueue(Job::Clear(done), cx);
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        if let (Some(plan), None) = (self.kept.get(), &self.waiting) {
            self.enqueue(Job::Apply(plan, None), cx);
        }
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        if let Err(error) = clean_routes_blocking(&self.config) {
            tracing::warn!(error = %error, "some routes of ours could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use actors_runtime::{Address, LaneKind, Universe};

    use super::*;
    use crate::drops::EdgeDrops;
    use crate::lane_tun::{LaneTun, TunConfig};
    use crate::testing::{in_bare_namespace, row, tool};
    use crate::tun_open::Offload;

    fn started() -> (Universe, Address<Routes>, Rc<LaneTun>) {
        let universe = Universe::new::<()>(&[row("Routes", LaneKind::Control)]);
        let config = TunConfig { name: "postern0".to_owned(), offload: Offload::Off };
        let tun = universe.block_on(async { LaneTun::open(&config, EdgeDrops::alone()).unwrap() });
        let kept = KeptPlan::default();
        let factory = move || Routes::new(RoutesConfig::client("postern0"), kept.clone());
        let address = universe.start("", factory).unwrap().address;
        (universe, address, tun)
    }

    fn apply(universe: &Universe, address: &Address<Routes>, routes: &[&str]) -> AppliedRoutes {
        let plan = HostPlan {
            addresses: vec!["100.64.0.7".parse().unwrap()],
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..HostPlan::default()
        };
        let (done, answer) = Reply::channel();
        address.tell(RoutesCommand::Apply { plan: Arc::new(plan), done: Some(done) }).unwrap();
        universe.block_on(answer).unwrap().unwrap()
    }

    #[test]
    fn a_plan_is_applied_and_stopping_removes_it() {
        in_bare_namespace(|| {
            let (universe, address, _tun) = started();

            let applied = apply(&universe, &address, &["10.1.0.0/16"]);

            assert_eq!(applied.routes.len(), 1);
            assert!(tool("ip route get 10.1.0.9").contains("postern0"));
            universe.stop(&address);
            universe.settle();
            assert!(!tool("ip rule show").contains("fwmark"));
        });
    }

    #[test]
    fn a_network_change_brings_the_hosts_own_routes_back_into_force() {
        in_bare_namespace(|| {
            let (universe, address, _tun) = started();
            apply(&universe, &address, &["10.1.0.0/16"]);
            tool("ip link add lan type veth peer name peer");
            tool("ip link set peer up");
            tool("ip link set lan up");
            tool("ip addr add 10.1.5.1/24 dev lan");

            address.tell(RoutesCommand::Refresh).unwrap();
            universe.advance(SETTLE);

            let wins = || tool("ip route get 10.1.5.9").contains("dev lan");
            universe.block_on(crate::testing::until("the throw route", wins));
        });
    }
}
