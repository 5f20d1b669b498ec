//! Entry points for fuzzing: whatever the bytes, nothing panics.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol_identity::WireguardKey;

use crate::{
    Admission, COOKIE_SIZE, Limiter, Opened, Output, Sealed, Tunnel, TunnelConfig, TunnelIndex, classify,
    peek_initiation, receiver,
};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn tunnel(own: &WireguardKey, peer: &WireguardKey, slot: u16) -> Tunnel {
    let config = TunnelConfig {
        private: own.clone(),
        peer: peer.public(),
        preshared: None,
        index: TunnelIndex::new(slot, 0),
        limiter: Limiter::new(&own.public(), Limiter::DEFAULT_LIMIT),
    };
    Tunnel::new(config, Duration::ZERO)
}

fn pair() -> Option<(WireguardKey, WireguardKey)> {
    Some((WireguardKey::generate().ok()?, WireguardKey::generate().ok()?))
}

/// One datagram from anybody, to everything that reads datagrams without a session.
pub fn fuzz_datagram(data: &[u8]) {
    let Some((own, peer)) = pair() else { return };
    let kind = classify(data);
    assert!(kind.is_some() || receiver(data).is_none(), "what has no kind has no receiver");
    let limiter = Limiter::new(&own.public(), 1);
    let mut reply = [0; COOKIE_SIZE];
    let admission = limiter.admit(SOURCE, data, &mut reply);
    assert!(admission != Admission::Admitted || kind.is_some(), "what is admitted has a kind");
    let _ = peek_initiation(&own, data);
    let mut tunnel = tunnel(&own, &peer, 1);
    for size in [0, 31, 147, 148, data.len(), data.len() + 148] {
        let mut out = vec![0; size];
        let opened = tunnel.open(SOURCE, data, &mut out, Duration::ZERO);
        assert!(!opened.proves_source(), "nobody without the key proves anything");
        let _ = tunnel.seal(data, &mut out, Duration::ZERO);
    }
}

/// A script of what a network and two ends may do to a pair of tunnels. Two bytes a step: what, and to which datagram.
pub fn fuzz_session(data: &[u8]) {
    let Some((a, b)) = pair() else { return };
    let mut ends = [tunnel(&a, &b, 1), tunnel(&b, &a, 2)];
    // Each with the end that it travels to.
    let mut wire: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut now = Duration::ZERO;
    for step in data.chunks_exact(2).take(256) {
        let (what, argument) = (step.first().copied().unwrap_or(0), step.get(1).copied().unwrap_or(0));
        let end = usize::from(what >> 7);
        let Some(tunnel) = ends.get_mut(end) else { return };
        let other = 1 - end;
        let mut out = [0; 512];
        match what & 0x07 {
            0 => tunnel.initiate(argument & 1 == 1, now),
            1 => {
                let packet = [argument; 64];
                if let Sealed::Datagram(len) =
                    tunnel.seal(packet.get(..argument.into()).unwrap_or(&packet), &mut out, now)
                {
                    wire.push((other, out.get(..len).unwrap_or_default().to_vec()));
                }
            }
            2 => {
                now += Duration::from_millis(u64::from(argument) * 100);
                tunnel.handle_timeout(now);
            }
            // Deliver, and keep a copy, when bit 3 is set; damage it when bit 4 is set.
            _ => {
                let Some(at) = (!wire.is_empty()).then(|| usize::from(argument) % wire.len()) else {
                    continue;
                };
                let (to, mut datagram) = wire.swap_remove(at);
                if what & 0x08 != 0 {
                    wire.push((to, datagram.clone()));
                }
                if what & 0x10 != 0 {
                    let len = datagram.len();
                    if let Some(byte) = datagram.get_mut(usize::from(argument) % len.max(1)) {
                        *byte ^= what;
                    }
                }
                let Some(tunnel) = ends.get_mut(to) else { return };
                if let Opened::Reply { len, .. } = tunnel.open(SOURCE, &datagram, &mut out, now) {
                    wire.push((1 - to, out.get(..len).unwrap_or_default().to_vec()));
                }
                while let Some(len) = tunnel.drain(&mut out, now) {
                    wire.push((1 - to, out.get(..len).unwrap_or_default().to_vec()));
                }
            }
        }
        for (from, tunnel) in ends.iter_mut().enumerate() {
            while let Some(output) = tunnel.poll_output() {
                match output {
                    Output::Initiation(message) | Output::Datagram(message) => {
                        wire.push((1 - from, message.to_vec()))
                    }
                    Output::Established | Output::Expired => {}
                }
            }
        }
        wire.truncate(64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_datagram_panics(data in prop::collection::vec(any::<u8>(), 0..256), kind in 0..6u8) {
            let mut data = data;
            super::fuzz_datagram(&data);
            // And one that gets past the look at its form.
            let size = [148, 92, 64, 80, 148, 92][usize::from(kind)];
            data.resize(size, 0);
            data[..4].copy_from_slice(&[kind % 5, 0, 0, 0]);
            super::fuzz_datagram(&data);
        }

        #[test]
        fn no_script_panics(script in prop::collection::vec(any::<u8>(), 0..256)) {
            super::fuzz_session(&script);
        }
    }
}
