//! Which lane a packet belongs to, and the programs that let the kernel bring it there.
//!
//! - Between the network and us, datagrams are steered by the lane in their receiver index. What a relay sends goes to the
//!   lane that holds the allocations; what names no receiver goes wherever the kernel's hash says.
//! - Between the host and us, packets are steered by the device's tunnel address, whose number decides its lane.

use std::net::IpAddr;

/// The lane that holds the allocations at relays.
pub const RELAY_LANE: u8 = 0;

/// The lane of the device with this tunnel address. A device has the same number in both families, so both agree.
pub fn lane_of(device: IpAddr, lanes: u8) -> u8 {
    let number = match device {
        IpAddr::V4(v4) => {
            let [.., high, low] = v4.octets();
            u16::from_be_bytes([high, low])
        }
        IpAddr::V6(v6) => {
            let [.., low] = v6.segments();
            low
        }
    };
    (number % u16::from(lanes.max(1))) as u8
}

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classic {
    /// What it does.
    pub code: u16,
    /// Instructions to skip when a comparison holds …
    pub jt: u8,
    /// … and when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Classic {
    /// As the kernel reads it.
    pub const fn bytes(self) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [a, b, self.jt, self.jf, c, d, e, f]
    }
}

/// `BPF_LD | BPF_B | BPF_ABS`: a byte at a fixed place, the same in both kinds of BPF.
const LOAD_BYTE: u8 = 0x30;
/// `BPF_LD | BPF_H | BPF_ABS`.
const LOAD_HALF: u8 = 0x28;
/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD_WORD: u8 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const EQUAL: u8 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
const GREATER: u8 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const AT_LEAST: u8 = 0x35;
/// `BPF_RET | BPF_A`.
const RETURN_LOADED: u8 = 0x16;
/// `BPF_RET | BPF_K`.
const RETURN: u8 = 0x06;
/// More than any group of sockets has: the kernel falls back to its hash.
const BY_HASH: u32 = u32::MAX;

const fn then(code: u8, k: u32) -> Classic {
    Classic { code: code as u16, jt: 0, jf: 0, k }
}

const fn when(code: u8, k: u32, jt: u8, jf: u8) -> Classic {
    Classic { code: code as u16, jt, jf, k }
}

/// For `SO_ATTACH_REUSEPORT_CBPF`: over the UDP payload, says which socket of the group takes it. The sockets have to be
/// bound in the order of their lanes.
pub const SOCKET_PROGRAM: [Classic; 15] = [
    then(LOAD_BYTE, 0),
    // A response names its receiver in bytes 8 to 11; a cookie reply, data and a probe do in bytes 4 to 7.
    when(EQUAL, 2, 9, 0),
    when(EQUAL, 3, 6, 0),
    when(EQUAL, 4, 5, 0),
    when(EQUAL, 0x20, 4, 0),
    // ChannelData begins with 0x40 to 0x4f; STUN with 0 or 1, as does an initiation, whose first word is 1 0 0 0.
    when(AT_LEAST, 0x40, 7, 0),
    when(GREATER, 1, 7, 0),
    then(LOAD_WORD, 0),
    when(EQUAL, 0x0100_0000, 5, 4),
    // The lane is the second byte of a receiver index.
    then(LOAD_BYTE, 5),
    then(RETURN_LOADED, 0),
    then(LOAD_BYTE, 9),
    then(RETURN_LOADED, 0),
    then(RETURN, RELAY_LANE as u32),
    then(RETURN, BY_HASH),
];

/// One instruction of extended BPF (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// What it does.
    pub code: u8,
    /// Destination register in the low half, source in the high one.
    pub registers: u8,
    /// Instructions to skip.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

impl Extended {
    /// As the kernel reads it.
    pub const fn bytes(self) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (self.offset.to_ne_bytes(), self.immediate.to_ne_bytes());
        [self.code, self.registers, a, b, c, d, e, f]
    }
}

/// `BPF_ALU64 | BPF_MOV | BPF_X`.
const MOVE: u8 = 0xbf;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const SET: u8 = 0xb7;
/// `BPF_ALU64 | BPF_RSH | BPF_K`.
const SHIFT: u8 = 0x77;
/// `BPF_ALU64 | BPF_MOD | BPF_K`.
const MODULO: u8 = 0x97;
/// `BPF_JMP | BPF_JNE | BPF_K`.
const NOT_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_JA`.
const JUMP: u8 = 0x05;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

const fn on(code: u8, registers: u8, offset: i16, immediate: i32) -> Extended {
    Extended { code, registers, offset, immediate }
}

/// For `TUNSETSTEERINGEBPF`: over the packet, says which queue of the device takes it ([`lane_of`] its destination). The
/// queues have to be attached in the order of their lanes.
pub const fn device_program(lanes: u8) -> [Extended; 12] {
    let lanes = if lanes == 0 { 1 } else { lanes as i32 };
    [
        // Loads from the packet want its context in register 6, and leave the value in register 0.
        on(MOVE, 0x16, 0, 0),
        on(LOAD_BYTE, 0, 0, 0),
        on(SHIFT, 0, 0, 4),
        on(EQUAL, 0, 3, 6),
        on(NOT_EQUAL, 0, 5, 4),
        on(LOAD_HALF, 0, 0, 18),
        on(JUMP, 0, 1, 0),
        on(LOAD_HALF, 0, 0, 38),
        on(MODULO, 0, 0, lanes),
        on(EXIT, 0, 0, 0),
        on(SET, 0, 0, 0),
        on(EXIT, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::{DatagramKind, TunnelIndex, classify, receiver};

    /// What the kernel's interpreter of classic BPF does with the instructions that are used here.
    fn run_classic(packet: &[u8]) -> u32 {
        let (mut at, mut loaded) = (0, 0u32);
        let read = |from: u32, count: usize| {
            let from = from as usize;
            let bytes = packet.get(from..from + count)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        loop {
            let Classic { code, jt, jf, k } = SOCKET_PROGRAM[at];
            at += 1;
            let skip = |holds: bool| usize::from(if holds { jt } else { jf });
            match code as u8 {
                // A load from beyond the packet ends the program with 0.
                LOAD_BYTE => match read(k, 1) {
                    Some(value) => loaded = value,
                    None => return 0,
                },
                LOAD_WORD => match read(k, 4) {
                    Some(value) => loaded = value,
                    None => return 0,
                },
                EQUAL => at += skip(loaded == k),
                GREATER => at += skip(loaded > k),
                AT_LEAST => at += skip(loaded >= k),
                RETURN_LOADED => return loaded,
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The same for extended BPF.
    fn run_extended(packet: &[u8], lanes: u8) -> u64 {
        let program = device_program(lanes);
        let (mut at, mut registers, mut context) = (0usize, [0u64; 11], false);
        loop {
            let Extended { code, registers: named, offset, immediate } = program[at];
            at += 1;
            let (to, from) = (usize::from(named & 15), usize::from(named >> 4));
            let load = |count: usize| {
                assert!(context, "a load without a context");
                let start = immediate as usize;
                let bytes = packet.get(start..start + count)?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            };
            match code {
                MOVE => {
                    assert_eq!((to, from), (6, 1));
                    context = true;
                }
                LOAD_BYTE => match load(1) {
                    Some(value) => registers[0] = value,
                    None => return 0,
                },
                LOAD_HALF => match load(2) {
                    Some(value) => registers[0] = value,
                    None => return 0,
                },
                SET => registers[to] = immediate as u64,
                SHIFT => registers[to] >>= immediate,
                MODULO => registers[to] %= immediate as u64,
                EQUAL if registers[to] == immediate as u64 => at += offset as usize,
                NOT_EQUAL if registers[to] != immediate as u64 => at += offset as usize,
                EQUAL | NOT_EQUAL => {}
                JUMP => at += offset as usize,
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn packet(destination: IpAddr) -> Vec<u8> {
        match destination {
            IpAddr::V4(v4) => {
                let mut packet = vec![0x45; 20];
                packet[16..20].copy_from_slice(&v4.octets());
                packet
            }
            IpAddr::V6(v6) => {
                let mut packet = vec![0x60; 40];
                packet[24..40].copy_from_slice(&v6.octets());
                packet
            }
        }
    }

    #[test]
    fn what_names_a_receiver_goes_to_its_lane() {
        for (kind, at, length) in [(2u8, 8, 92), (3, 4, 64), (4, 4, 32), (4, 4, 1452), (0x20, 4, 72)] {
            for lane in 0..=u8::MAX {
                let mut datagram = vec![0xa5; length];
                datagram[..4].copy_from_slice(&u32::from(kind).to_le_bytes());
                let index = TunnelIndex::new(0x1234, lane).receiver_index() | 0x77;
                datagram[at..at + 4].copy_from_slice(&index.to_le_bytes());

                assert_eq!(receiver(&datagram).map(|index| index.lane), Some(lane));
                assert_eq!(run_classic(&datagram), u32::from(lane));
            }
        }
    }

    #[test]
    fn what_a_relay_sends_goes_to_the_lane_of_the_allocations() {
        // Binding response, Allocate response and error, Data indication, ChannelData.
        for first in [[0x01, 0x01], [0x01, 0x03], [0x01, 0x13], [0x00, 0x17], [0x40, 0x00], [0x4f, 0xff]] {
            let mut message = vec![0; 40];
            message[..2].copy_from_slice(&first);

            assert_eq!(run_classic(&message), u32::from(RELAY_LANE), "{first:?}");
        }
    }

    #[test]
    fn initiations_and_noise_are_spread_by_the_kernel() {
        let mut initiation = vec![0; 148];
        initiation[0] = 1;

        assert_eq!(classify(&initiation), Some(DatagramKind::Initiation));
        assert_eq!(run_classic(&initiation), BY_HASH);
        assert_eq!(run_classic(&[0x07; 40]), BY_HASH);
    }

    #[test]
    fn a_device_has_one_lane_in_both_families() {
        for lanes in [0, 1, 2, 3, 8, 255] {
            for number in [1u32, 2, 3, 255, 256, 65_535, 65_536, 2_000_000] {
                let v4 = IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number));
                let base = u128::from(Ipv6Addr::new(0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, 0));
                let v6 = IpAddr::V6(Ipv6Addr::from(base + u128::from(number)));

                let lane = lane_of(v4, lanes);
                assert!(lane < lanes.max(1));
                assert_eq!(lane_of(v6, lanes), lane);
            }
        }
    }

    proptest! {
        #[test]
        fn the_device_steers_to_the_lane_of_the_destination(
            v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), lanes in 1u8..,
        ) {
            for destination in [IpAddr::from(v4), IpAddr::from(v6)] {
                let lane = run_extended(&packet(destination), lanes);
                prop_assert_eq!(lane, u64::from(lane_of(destination, lanes)));
            }
        }

        #[test]
        fn both_programs_end_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100), lanes in any::<u8>()) {
            run_classic(&bytes);
            prop_assert!(run_extended(&bytes, lanes) < u64::from(lanes.max(1)));
        }
    }
}
