//! The packet path allocates nothing in steady state, from what the TUN device yields at one end to what it takes at
//! the other.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/core/path.rs"]
mod path;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use path::{Core, bulk, datagram};

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
fn bulk_and_small_packets_cross_both_ends_without_an_allocation() {
    let mut core = Core::new(1, 1 << 17);
    let (full, small) = (bulk(45), datagram(200));
    let mut carry = |read: &[u8]| {
        core.seal(0, read);
        core.open(0)
    };
    // The flows begin, and the pools fill.
    for read in [&full, &small] {
        carry(read);
    }

    let before = ALLOCATIONS.get();
    for _ in 0..1_000 {
        assert_eq!(carry(&full), (45, 1));
        assert_eq!(carry(&small), (1, 1));
    }

    assert_eq!(ALLOCATIONS.get() - before, 0);
}
