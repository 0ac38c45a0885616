//! What is asked of the kernel when a session begins.

use fuser::{InitFlags, KernelConfig};

/// Requests that the kernel may have under way on its own account, read-ahead above all.
const BACKGROUND_REQUESTS_MAX: u16 = 64;
/// Largest request; the kernel derives the size of reads from the size of writes.
pub(super) const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Threads of a session, however many processors there are: each waits for the disk. A second one halves
/// the latency even of a single reader; four answer four readers of a cold file, and more gain nothing.
pub(in crate::mount) const THREADS: usize = 4;
/// How many file systems may stand on each other: ours on one that stands on the disk. An overlay on top
/// of ours is then still possible, and what lies on an overlay is read through the daemon.
const STACK_DEPTH: u32 = 1;

/// What is always asked for if it is offered.
///
/// Not `ABORT_ERROR`: without it a session that was aborted ends like one that was unmounted.
const ALWAYS: [InitFlags; 7] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

/// What depends on the tree and on the mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// There are live files.
    pub(super) has_live: bool,
    /// There are files that the kernel can read by itself.
    pub(super) has_descriptors: bool,
    /// The kernel compares modes with the caller.
    pub(super) has_permissions: bool,
}

/// Asks for what helps and is offered. Returns whether the kernel can read files by itself.
pub(super) fn configure(config: &mut KernelConfig, wanted: Wanted) -> bool {
    for capability in ALWAYS {
        add(config, capability);
    }
    // Pinned content is invalidated only when a pin ends, and then explicitly. Of a live file that has
    // another size or time the kernel must drop what it has by itself: else the end of the last page,
    // which is zeros, would be taken for content when the file has grown.
    add(
        config,
        match wanted.has_live {
            true => InitFlags::FUSE_AUTO_INVAL_DATA,
            false => InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        },
    );
    // Where modes are compared, the lists that go beyond modes have to be, too: without this the bits of
    // the group, which are their mask, would let the group in.
    if wanted.has_live && wanted.has_permissions {
        add(config, InitFlags::FUSE_POSIX_ACL);
    }
    // Each of these gives the nearest value that is possible, where the wanted one is not.
    if let Err(nearest) = config.set_max_background(BACKGROUND_REQUESTS_MAX) {
        let _ = config.set_max_background(nearest);
    }
    if let Err(nearest) = config.set_max_write(REQUEST_BYTES_MAX) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES_MAX) {
        let _ = config.set_max_readahead(nearest);
    }
    wanted.has_descriptors
        && add(config, InitFlags::FUSE_PASSTHROUGH)
        && config.set_max_stack_depth(STACK_DEPTH).is_ok()
}

fn add(config: &mut KernelConfig, capability: InitFlags) -> bool {
    let is_offered = config.add_capabilities(capability).is_ok();
    if !is_offered {
        tracing::debug!(?capability, "the kernel does not offer a capability");
    }
    is_offered
}
