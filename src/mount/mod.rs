//! Shows a still tree as a read-only file system, and keeps account of the mounts of a user.
//!
//! Runs in the mount daemon (`filesystem`, `session`, the held record), in `stillfs umount` and in
//! `stillfs ls` (`point`, `unmount`, `registry`). It knows trees and FUSE, and no engine.
//!
//! ```text
//!  copy tool            kernel                        daemon
//!  open, read  -->  page cache  --/dev/fuse-->  2..4 threads: TreeFilesystem --> Tree --> merged read
//!                        ^  |                       | a read finds the pin ended
//!                        |  |                       |   (its own thread, once per node)
//!                        '--|--- invalidate --------'
//!                           '--- live files: the kernel reads them itself where it can
//!
//!  stillfs mount:   MountPoint::check -> Registry::hold -> mount() -> MountedSession::wait
//!                   -> the daemon releases its pin -> drop(HeldRecord)
//!  stillfs umount:  Registry::watch -> unmount() -> RecordWatch::wait_gone
//! ```
//!
//! * M1 What `stat`, `readdir`, `listxattr` and `lookup` say never changes while mounted, so the kernel
//!   may cache it for ever. What does change, the status, is an attribute that is got and never listed;
//!   and what is said of a live file, of which only name, number and links are fixed (M8).
//! * M2 A reply to a read is the whole requested range up to the end of the file, or an error. FUSE
//!   takes a short reply for the end of the file, so a part is never sent.
//! * M3 Every attempt to write answers EROFS: from the kernel, since the mount is read-only, and from
//!   the daemon, should somebody remount it.
//! * M4 After a read of a node found its pin ended, every later read of that node that reaches the
//!   daemon answers EIO, and the kernel's cache of the node is dropped once.
//! * M5 Nothing unmounts but the user, the session's owner and an explicit `unmount`. If the daemon
//!   dies the mount point gives ENOTCONN and not an empty directory.
//! * M6 A session unmounts its own mount and no other: never by path alone, but only while the mount
//!   table shows the mount that it made.
//! * M7 A record in the registry is alive exactly while its lock is held; a process id is for people.
//! * M8 What `stat` says of a live file is at most a second old, and of one that is open it is asked
//!   every time; a file that is gone, or replaced, is shown as it was listed and cannot be opened. Each
//!   open reads what is there from then on, and no byte that was cached before it.
//! * M9 All who have one file open have it open in the same way: all by the kernel alone, through one
//!   descriptor, or all through the daemon. The kernel refuses a mixture with EIO.
//!
//! Locking and blocking: a read takes one read lock for the moment of a set look-up, then waits for
//! the disk only; nothing is held while it waits. Invalidation waits for page locks and therefore has
//! a thread of its own. A daemon that hangs never hangs `point` or `unmount`: the mount table and the
//! registry are asked first, and the daemon itself for two seconds at most.
//!
//! It does not pin, does not daemonise, does not handle signals, and does not decide when a pin ends.

pub mod errno;
mod filesystem;
mod kernel;
pub mod mountinfo;
pub mod options;
pub mod point;
pub mod record;
mod record_file;
pub mod registry;
pub mod session;
pub mod unmount;

pub use filesystem::StatusSource;
pub use kernel::{AttachError, DeviceError, HelperError, check_device, find_helper};
pub use options::MountOptions;
pub use point::MountPoint;
pub use record::MountRecord;
pub use registry::Registry;
pub use session::{MountedSession, mount};
pub use unmount::{Lazy, unmount};

/// File system subtype: what `findmnt -t fuse.stillfs` selects.
pub const SUBTYPE: &str = "stillfs";
/// Type of our mounts in the mount table.
pub const MOUNT_TYPE: &str = "fuse.stillfs";
