//! No single allocation beyond what any input here can need: a length that lies ends the run.
//!
//! libFuzzer's own limit needs a sanitizer's allocator, and its limit of the resident size does not see
//! memory that was asked for and never touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

/// The largest single allocation in bytes. Inputs have some kilobytes, caches a few megabytes.
const ALLOCATION_BYTES_MAX: usize = 96 << 20;

struct Limited;

#[global_allocator]
static LIMITED: Limited = Limited;

fn check(bytes: usize) {
    if bytes > ALLOCATION_BYTES_MAX {
        // Nothing here may allocate.
        let _ = std::io::stderr().write_all(b"an allocation by a lying length\n");
        std::process::abort();
    }
}

// SAFETY: the system's allocator does the work; what is added only ends the process.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        check(bytes);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}
