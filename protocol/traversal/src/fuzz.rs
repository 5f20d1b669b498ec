//! Entry points for fuzzing: whatever the bytes, nothing panics and no deadline is asked for for ever.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use protocol_identity::Secret32;

use crate::probe::{self, CONTENT};
use crate::{
    Agent, AgentConfig, Candidate, CandidateKind, Hygiene, LARGEST_PROBE, Output, Path, ProbeKeys, RelaySlot,
    Role,
};

fn keys(role: Role) -> ProbeKeys {
    let (up, down) = (Secret32::new([1; 32]), Secret32::new([2; 32]));
    match role {
        Role::Client => ProbeKeys::new(&up, &down),
        Role::Gateway => ProbeKeys::new(&down, &up),
    }
}

fn agent(role: Role) -> Agent {
    let config = AgentConfig {
        role,
        keys: keys(role),
        generation: 0,
        local_index: 0x100,
        remote_index: None,
        hygiene: Hygiene::default(),
        seed: 1,
    };
    Agent::new(config, Duration::ZERO)
}

fn address(byte: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, byte & 0x1f)), 1000 + u16::from(byte >> 5))
}

fn path(byte: u8) -> Path {
    if byte & 0x80 == 0 {
        Path::direct(address(byte))
    } else {
        Path::relayed(RelaySlot(byte >> 6 & 1), address(byte))
    }
}

/// One datagram: as it is, and as the content of a probe that the other end sealed.
pub fn fuzz_probe(data: &[u8]) {
    for role in [Role::Client, Role::Gateway] {
        let other = match role {
            Role::Client => Role::Gateway,
            Role::Gateway => Role::Client,
        };
        let mut agent = agent(role);
        let _ = agent.handle_probe(path(1), data, Duration::ZERO);
        let Some((counter, rest)) = data.split_first_chunk::<8>() else { continue };
        let mut content = [0; CONTENT];
        for (to, from) in content.iter_mut().zip(rest) {
            *to = *from;
        }
        let mut buffer = [0; LARGEST_PROBE];
        let counter = u64::from_le_bytes(*counter);
        if let Some(len) = probe::seal_bytes(&keys(other), 0, counter, &content, data.len(), &mut buffer) {
            let datagram = buffer.get(..len).unwrap_or_default();
            let first = agent.handle_probe(path(1), datagram, Duration::ZERO);
            let second = agent.handle_probe(path(2), datagram, Duration::ZERO);
            assert!(first.is_err() || second.is_err(), "a replay was taken");
        }
        settle(&mut agent, Duration::ZERO, &mut Vec::new());
    }
}

/// Drains an agent and lets it do what is due; what it sends goes to `wire`.
fn settle(agent: &mut Agent, now: Duration, wire: &mut Vec<(Path, Vec<u8>)>) {
    let mut buffer = [0; LARGEST_PROBE];
    for _ in 0..64 {
        while let Some(output) = agent.poll_output(&mut buffer) {
            match output {
                Output::Transmit { path, len } => {
                    wire.push((path, buffer.get(..len).unwrap_or_default().to_vec()))
                }
                Output::Selected { .. }
                | Output::Proven { .. }
                | Output::Lost { .. }
                | Output::Doubted { .. }
                | Output::NeedPermission { .. }
                | Output::Observed { .. } => {}
            }
        }
        match agent.poll_timeout() {
            Some(at) if at <= now => agent.handle_timeout(now),
            Some(_) | None => return,
        }
    }
    unreachable!("a deadline that never passes");
}

/// A script of what a network, a lane and the control plane may do to two agents. Two bytes a step: what, and to what.
pub fn fuzz_agents(data: &[u8]) {
    let mut agents = [agent(Role::Client), agent(Role::Gateway)];
    // To which end, and on which path of that end.
    let mut wire: Vec<(usize, Path, Vec<u8>)> = Vec::new();
    let mut now = Duration::ZERO;
    for step in data.chunks_exact(2).take(256) {
        let (what, argument) = (step.first().copied().unwrap_or(0), step.get(1).copied().unwrap_or(0));
        let end = usize::from(what >> 7);
        let Some(agent) = agents.get_mut(end) else { return };
        match what & 0x0f {
            0 => {
                let kind = match argument % 3 {
                    0 => CandidateKind::Host,
                    1 => CandidateKind::Reflexive,
                    _ => CandidateKind::Relayed,
                };
                let _ = agent.add_remote(Candidate { address: address(argument), kind }, now);
            }
            1 => agent.remove_remote(address(argument), now),
            2 => agent.add_relay(RelaySlot(argument & 1), now),
            3 => agent.remove_relay(RelaySlot(argument & 1), now),
            4 => agent.set_remote_index(u32::from(argument) << 8, now),
            5 => agent.handle_received(path(argument), now),
            6 => {
                agent.handle_sent(now);
                agent.handle_sent_size(usize::from(argument) * 8, now);
            }
            7 => agent.network_changed(now),
            8 => {
                let _ = agent.handshake_paths(now);
            }
            9 => now += Duration::from_millis(u64::from(argument) * 40),
            // Deliver; twice when bit 4 is set, on another path when bit 5 is, damaged when bit 6 is.
            _ => {
                let Some(at) = (!wire.is_empty()).then(|| usize::from(argument) % wire.len()) else {
                    continue;
                };
                let (to, mut on, mut datagram) = wire.swap_remove(at);
                if what & 0x20 != 0 {
                    on = path(argument);
                }
                if what & 0x40 != 0
                    && let Some(byte) = datagram.get_mut(usize::from(argument))
                {
                    *byte ^= what;
                }
                let Some(agent) = agents.get_mut(to) else { return };
                let _ = agent.handle_probe(on, &datagram, now);
                if what & 0x10 != 0 {
                    assert!(agent.handle_probe(on, &datagram, now).is_err(), "a replay was taken");
                }
            }
        }
        for (from, agent) in agents.iter_mut().enumerate() {
            let mut sent = Vec::new();
            settle(agent, now, &mut sent);
            wire.extend(sent.into_iter().map(|(path, datagram)| (1 - from, path, datagram)));
            assert!(agent.selected().is_none() || agent.report(now).is_some());
        }
        wire.truncate(64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_probe_panics(data in prop::collection::vec(any::<u8>(), 0..200)) {
            super::fuzz_probe(&data);
        }

        #[test]
        fn no_script_panics(script in prop::collection::vec(any::<u8>(), 0..512)) {
            super::fuzz_agents(&script);
        }
    }
}
