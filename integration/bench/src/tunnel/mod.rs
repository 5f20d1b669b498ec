//! The packet path: ours against other people's WireGuard in user space, and against no tunnel at all.

mod bare;
mod cases;
mod counters;
mod ground;
mod load;
mod long;
mod ours;
mod plane;
mod process;
mod wireguard;

use std::rc::Rc;

use anyhow::Result;

use crate::suite::{Bound, Chart, Figure, Measure, Need, Peer, Setup, Suite, Target};

/// It.
pub struct Tunnel;

/// Versions of the peers from the Rust registry.
const GOTATUN: &str = "0.10.2";
const BORINGTUN: &str = "0.7.1";

impl Suite for Tunnel {
    fn name(&self) -> &'static str {
        "tunnel"
    }

    fn about(&self) -> &'static str {
        "the packet path against gotatun-cli, boringtun-cli, wireguard-go and no tunnel"
    }

    fn needs(&self) -> Vec<Need> {
        vec![
            Need::Package { program: "iperf3", package: "iperf3" },
            Need::Package { program: "wg", package: "wireguard-tools" },
            Need::Package { program: "wireguard-go", package: "wireguard-go" },
            Need::Package { program: "ping", package: "iputils-ping" },
            Need::Crate { name: "boringtun-cli", version: BORINGTUN, program: "boringtun-cli" },
            Need::Crate { name: "gotatun-cli", version: GOTATUN, program: "gotatun" },
        ]
    }

    fn figures(&self) -> Vec<Figure> {
        FIGURES.to_vec()
    }

    fn targets(&self) -> Vec<Target> {
        targets()
    }

    fn charts(&self) -> Vec<Chart> {
        let chart = |name, title, figures: &[&'static str]| Chart { name, title, figures: figures.to_vec() };
        vec![
            chart("tcp", "TCP through the tunnel", &["tcp-up", "tcp-down", "tcp4-up", "tcp4-down"]),
            chart("cpu", "TCP payload for a second of processor time", &["tcp-up-cpu", "tcp-down-cpu"]),
            chart("packets", "Small packets, highest rate at 0.1 % loss", &["64-max", "200-max"]),
            chart("packet-cpu", "Processor time of a small packet", &["64-cpu", "200-cpu"]),
            chart("ping-idle", "Echo on an idle path", &["ping-idle-p50", "ping-idle-p99"]),
            chart("ping-load", "Echo under a saturating download", &["ping-bbr-p99", "ping-cubic-p99"]),
            chart("long", "Through the forwarder", &["long0-down", "long20-down", "long0-up", "long20-up"]),
            chart(
                "memory",
                "Memory",
                &["memory-idle-near", "memory-idle-far", "memory-peak-near", "memory-peak-far"],
            ),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let texts = [
            "Client, gateway and both ends of every load share the machine's processors; ratios are what counts.",
            "Processor time is user and system time of both ends' processes; what the kernel does for them in threads of \
             its own is in nobody's figure.",
            "The distribution's wireguard-go is of 2022; releases since then are several times quicker.",
            "Every peer runs with the settings that it comes with, on the same namespaces, with an MTU of 1420; ours \
             finds its own.",
        ];
        texts.map(str::to_owned).into()
    }

    fn peers(&self, setup: &Setup) -> Result<Vec<Box<dyn Peer>>> {
        let ground = Rc::new(ground::Ground::lay_out()?);
        Ok(vec![
            Box::new(ours::Ours::new(&ground)?),
            Box::new(wireguard::Wireguard::gotatun(&ground, setup.program("gotatun"))),
            Box::new(wireguard::Wireguard::boringtun(&ground, setup.program("boringtun-cli"))),
            Box::new(wireguard::Wireguard::go(&ground)),
            Box::new(bare::Bare(ground)),
        ])
    }
}

const FIGURES: [Figure; 43] = [
    Figure::higher("tcp-up", "one TCP stream up", "Gbit/s"),
    Figure::higher("tcp-down", "one TCP stream down", "Gbit/s"),
    Figure::higher("tcp4-up", "four TCP streams up", "Gbit/s"),
    Figure::higher("tcp4-down", "four TCP streams down", "Gbit/s"),
    Figure::higher("tcp-up-cpu", "one TCP stream up, per CPU-second", "Gbit"),
    Figure::higher("tcp-down-cpu", "one TCP stream down, per CPU-second", "Gbit"),
    Figure::higher("tcp4-up-cpu", "four TCP streams up, per CPU-second", "Gbit"),
    Figure::higher("tcp4-down-cpu", "four TCP streams down, per CPU-second", "Gbit"),
    Figure::higher("plain-up", "without any offload, up", "Gbit/s"),
    Figure::higher("plain-down", "without any offload, down", "Gbit/s"),
    Figure::higher("relayed-up", "through our relay, up", "Gbit/s"),
    Figure::higher("relayed-down", "through our relay, down", "Gbit/s"),
    Figure::higher("clients8-sum", "eight clients down, together", "Gbit/s"),
    Figure::lower("clients8-uneven", "eight clients, furthest from an even share", "%"),
    Figure::lower("64-loss", "150,000 packets/s of 64 B, missing", "%"),
    Figure::lower("64-cpu", "150,000 packets/s of 64 B, CPU a packet", "µs"),
    Figure::higher("64-max", "64 B, highest rate at 0.1 % loss", "packets/s"),
    Figure::lower("200-loss", "150,000 packets/s of 200 B, missing", "%"),
    Figure::lower("200-cpu", "150,000 packets/s of 200 B, CPU a packet", "µs"),
    Figure::higher("200-max", "200 B, highest rate at 0.1 % loss", "packets/s"),
    Figure::higher("generator-rate", "the generator asked for 225,000 packets/s", "packets/s"),
    Figure::lower("generator-loss", "the same, missing", "%"),
    Figure::lower("ping-idle-p50", "echo, idle, p50", "µs"),
    Figure::lower("ping-idle-p99", "echo, idle, p99", "µs"),
    Figure::lower("ping-bbr-p50", "echo under a BBR download, p50", "µs"),
    Figure::lower("ping-bbr-p99", "echo under a BBR download, p99", "µs"),
    Figure::lower("ping-cubic-p50", "echo under a CUBIC download, p50", "µs"),
    Figure::lower("ping-cubic-p99", "echo under a CUBIC download, p99", "µs"),
    Figure::lower("relayed-ping-p50", "echo through our relay, idle, p50", "µs"),
    Figure::higher("long0-up", "forwarder at 0 ms, up", "Gbit/s"),
    Figure::higher("long0-down", "forwarder at 0 ms, down", "Gbit/s"),
    Figure::higher("long20-up", "forwarder at 20 ms, up", "Gbit/s"),
    Figure::higher("long20-down", "forwarder at 20 ms, down", "Gbit/s"),
    Figure::lower("long20-reordered", "at 20 ms, reorderings that senders saw", "times"),
    Figure::lower("long20-late", "at 20 ms, segments that had to wait for one before", "segments"),
    Figure::higher("loss20-up", "forwarder at 20 ms, one of 1,000 lost, CUBIC, up", "Gbit/s"),
    Figure::higher("loss20-down", "forwarder at 20 ms, one of 1,000 lost, CUBIC, down", "Gbit/s"),
    Figure::lower("memory-idle-near", "memory, idle, client", "MiB"),
    Figure::lower("memory-idle-far", "memory, idle, gateway", "MiB"),
    Figure::lower("memory-peak-near", "memory, peak, client", "MiB"),
    Figure::lower("memory-peak-far", "memory, peak, gateway", "MiB"),
    Figure::lower("plain-memory-near", "memory without any offload, peak, client", "MiB"),
    Figure::lower("plain-memory-far", "memory without any offload, peak, gateway", "MiB"),
];

const fn median(figure: &'static str) -> Measure {
    Measure::Median(figure, "ours")
}

const fn ours_over(figure: &'static str, other: &'static str, peer: &'static str) -> Measure {
    Measure::Ratio((figure, "ours"), (other, peer))
}

fn targets() -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let mut targets = Vec::new();
    let tcp: [(&str, [&'static str; 3]); 4] = [
        (
            "tcp-up",
            [
                "one stream up, over gotatun-cli",
                "one stream up, over boringtun-cli",
                "one stream up, over no tunnel",
            ],
        ),
        (
            "tcp-down",
            [
                "one stream down, over gotatun-cli",
                "one stream down, over boringtun-cli",
                "one stream down, over no tunnel",
            ],
        ),
        (
            "tcp4-up",
            [
                "four streams up, over gotatun-cli",
                "four streams up, over boringtun-cli",
                "four streams up, over no tunnel",
            ],
        ),
        (
            "tcp4-down",
            [
                "four streams down, over gotatun-cli",
                "four streams down, over boringtun-cli",
                "four streams down, over no tunnel",
            ],
        ),
    ];
    for (figure, whats) in tcp {
        for (what, (peer, bound)) in
            whats.into_iter().zip([("gotatun", 5.5), ("boringtun", 8.0), ("bare", 0.33)])
        {
            targets.push(Target::new(what, ours_over(figure, figure, peer), AtLeast(bound)));
        }
    }
    targets.extend([
        Target::new("Gbit per CPU-second, one stream up", median("tcp-up-cpu"), AtLeast(3.5)).with_goal(4.0),
        Target::new("Gbit per CPU-second, one stream down", median("tcp-down-cpu"), AtLeast(3.5))
            .with_goal(4.0),
        Target::new(
            "without any offload up, over gotatun-cli",
            ours_over("plain-up", "tcp-up", "gotatun"),
            AtLeast(1.5),
        ),
        Target::new(
            "without any offload down, over gotatun-cli",
            ours_over("plain-down", "tcp-down", "gotatun"),
            AtLeast(1.5),
        ),
        Target::new("64 B at 150,000 packets/s, missing %", median("64-loss"), AtMost(0.1)),
        Target::new("200 B at 150,000 packets/s, missing %", median("200-loss"), AtMost(0.1)),
        Target::new("64 B at 150,000 packets/s, µs of CPU a packet", median("64-cpu"), AtMost(4.2)),
        Target::new("200 B at 150,000 packets/s, µs of CPU a packet", median("200-cpu"), AtMost(4.2)),
        Target::new(
            "the generator without a tunnel, packets/s",
            Measure::Median("generator-rate", "bare"),
            AtLeast(0.99 * 225_000.0),
        ),
        Target::new(
            "the generator without a tunnel, missing %",
            Measure::Median("generator-loss", "bare"),
            AtMost(0.1),
        ),
        Target::new(
            "echo idle p50, over boringtun-cli",
            ours_over("ping-idle-p50", "ping-idle-p50", "boringtun"),
            AtMost(1.3),
        ),
        Target::new("echo under BBR p99, µs", median("ping-bbr-p99"), AtMost(5_000.0)).with_goal(3_000.0),
        Target::new("echo under CUBIC p99, µs", median("ping-cubic-p99"), AtMost(5_000.0)).with_goal(3_000.0),
        Target::new("20 ms up, over 0 ms", ours_over("long20-up", "long0-up", "ours"), AtLeast(0.8)),
        Target::new("20 ms down, over 0 ms", ours_over("long20-down", "long0-down", "ours"), AtLeast(0.8)),
        Target::new(
            "20 ms, reorderings, worst round",
            Measure::Worst("long20-reordered", "ours"),
            AtMost(0.0),
        ),
        Target::new(
            "20 ms with 0.1 % loss up, over no tunnel",
            ours_over("loss20-up", "loss20-up", "bare"),
            AtLeast(0.95),
        ),
        Target::new(
            "20 ms with 0.1 % loss down, over no tunnel",
            ours_over("loss20-down", "loss20-down", "bare"),
            AtLeast(0.95),
        ),
        Target::new(
            "eight clients together, over one stream",
            ours_over("clients8-sum", "tcp-down", "ours"),
            AtLeast(0.8),
        ),
        Target::new("eight clients, % off an even share", median("clients8-uneven"), AtMost(20.0)),
        Target::new(
            "through our relay up, over direct",
            ours_over("relayed-up", "tcp-up", "ours"),
            AtLeast(0.6),
        ),
        Target::new(
            "through our relay down, over direct",
            ours_over("relayed-down", "tcp-down", "ours"),
            AtLeast(0.6),
        ),
        Target::new("idle memory of the client, MiB", median("memory-idle-near"), AtMost(20.0)),
        Target::new("idle memory of the gateway, MiB", median("memory-idle-far"), AtMost(20.0)),
    ]);
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_and_every_chart_names_a_figure_that_exists() {
        let known = |id: &str| FIGURES.iter().any(|figure| figure.id == id);

        for target in targets() {
            let figures = match target.measure {
                Measure::Median(figure, _) | Measure::Worst(figure, _) => vec![figure],
                Measure::Ratio((one, _), (other, _)) => vec![one, other],
            };
            assert!(figures.into_iter().all(known), "{target:?}");
        }
        for chart in Tunnel.charts() {
            assert!(chart.figures.iter().all(|figure| known(figure)), "{chart:?}");
        }
    }

    #[test]
    fn no_two_figures_share_an_id() {
        let mut ids: Vec<_> = FIGURES.iter().map(|figure| figure.id).collect();
        ids.sort_unstable();
        ids.dedup();

        assert_eq!(ids.len(), FIGURES.len());
    }
}
