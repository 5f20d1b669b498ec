//! The packet path allocates nothing once there is a session.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use protocol_tunnel::{Opened, Sealed};
use support::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn sealing_and_opening_allocate_nothing() {
    let now = Duration::ZERO;
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(now), keys.gateway(now));
    connect(&mut client, &mut gateway, now);
    while client.poll_output().is_some() {}
    let inner = packet(1, 1_300);
    let (mut sealed, mut opened) = ([0; 2048], [0; 2048]);

    let before = ALLOCATIONS.get();
    for step in 0..1_000 {
        let now = Duration::from_millis(step * 100);
        let Sealed::Datagram(len) = client.seal(&inner, &mut sealed, now) else { panic!("not sealed") };
        let result = gateway.open(CLIENT, &sealed[..len], &mut opened, now);
        assert!(matches!(result, Opened::Packet { .. }));
        assert_eq!(gateway.drain(&mut sealed, now), None);
        client.handle_timeout(now);
        assert_eq!(client.poll_output(), None);
    }

    assert_eq!(ALLOCATIONS.get() - before, 0);
}
