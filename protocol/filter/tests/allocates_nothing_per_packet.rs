//! A packet of a live flow costs no allocation, in either direction, nor does a refusal.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::*;
use protocol_filter::{Access, ClientTable, Outward, PeerSlot, Reason, ReplyBuf, Verdict};
use protocol_identity::ResourceId;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "counting allocations needs an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn packets_of_a_live_flow_and_refusals_allocate_nothing() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[tcp_port(80)], FOREVER)]);
    let original = syn("100.64.0.2:5000", "100.96.0.1:80");
    let mut packet = original.clone();
    let _ = gateway.inward(&mut packet);
    let answer = answer_to(&packet);
    let mut answers = answer.clone();
    let mut denied = syn("100.64.0.2:5000", "100.96.0.1:81");

    let count = allocations(|| {
        for _ in 0..50 {
            packet.copy_from_slice(&original);
            answers.copy_from_slice(&answer);
            assert!(matches!(gateway.inward(&mut packet), Verdict::Forward { .. }));
            assert!(matches!(gateway.outward(&mut answers), Verdict::Forward { .. }));
            assert_eq!(gateway.inward(&mut denied), Verdict::Reply(Reason::Filtered));
        }
    });

    assert_eq!(count, 0);
}

#[test]
fn the_clients_lookups_allocate_nothing() {
    let resource = ResourceId::fresh();
    let mut table = ClientTable::new(vec![ip(DEVICE)]);
    table.put(resource, vec!["10.0.0.0/8".parse().unwrap()], vec![tcp_port(80)]);
    table.set(resource, Access::Granted(PeerSlot(1)));
    let mut out = ReplyBuf::new();
    let packet = syn("100.64.0.2:5000", "10.1.2.3:80");
    let answer = answer_to(&packet);
    let denied = syn("100.64.0.2:5000", "10.1.2.3:81");

    let count = allocations(|| {
        assert!(matches!(table.outward(&packet, secs(1), &mut out), Outward::ToPeer { .. }));
        assert!(table.inward(&answer, PeerSlot(1)).is_ok());
        assert_eq!(table.outward(&denied, secs(1), &mut out), Outward::Refuse(Reason::Filtered));
    });

    assert_eq!(count, 0);
}
