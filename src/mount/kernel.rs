//! How a FUSE mount is made and taken away: by the kernel directly for root, else by `fusermount3`.
//!
//! fuser can do both, but it is not let: when its session ends it unmounts the mount point by path
//! once more, whatever is mounted there by then (M6).

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::options::{Audience, Execution, MountOptions, Permissions};
use super::{SUBTYPE, record_file};
use crate::os::mount_table::MountIdentity;
use crate::os::mounting::{
    Lazy, MountRefusal, UnmountRefusal, ask_file_system, mount_fuse, unmount,
};
use crate::os::readiness::has_failed;
use crate::os::unix_socket::receive_with_fds;

const DEVICE: &str = "/dev/fuse";
/// Its numbers, which are assigned for good (the kernel's admin-guide/devices.txt).
const DEVICE_NUMBERS: (u32, u32) = (10, 229);
/// The setuid programs that mount and unmount for ordinary users, the usual one first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// Read-ahead of a mount: the kernel offers 128 KiB, and 1 MiB reads a fifth faster.
const READ_AHEAD_KIB: u32 = 1024;
/// How long a daemon may take to answer before it is left alone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why `/dev/fuse` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// It is not there.
    #[error(
        "/dev/fuse is missing: load the module (modprobe fuse), or give the container the device \
         (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    Missing,
    /// It is there and forbidden.
    #[error(
        "/dev/fuse cannot be opened: {source}; it needs mode 0666, and containers a device rule"
    )]
    Denied {
        /// What open said.
        source: io::Error,
    },
    /// Another device or a file is there, as sandboxes hide what they do not give.
    #[error("/dev/fuse is not the FUSE device: something else is mounted or made in its place")]
    Foreign,
    /// Something else.
    #[error("/dev/fuse cannot be opened: {source}")]
    Io {
        /// What open said.
        source: io::Error,
    },
}

/// Opens `/dev/fuse`. Errors: any [`DeviceError`].
pub(super) fn open_device() -> Result<File, DeviceError> {
    let device = record_file::open_device(Path::new(DEVICE)).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::Missing,
            Some(libc::EACCES | libc::EPERM) => DeviceError::Denied { source },
            _ => DeviceError::Io { source },
        }
    })?;
    let metadata = device
        .metadata()
        .map_err(|source| DeviceError::Io { source })?;
    let (major, minor) = DEVICE_NUMBERS;
    if metadata.file_type().is_char_device() && metadata.rdev() == libc::makedev(major, minor) {
        Ok(device)
    } else {
        Err(DeviceError::Foreign)
    }
}

/// Whether `/dev/fuse` can be opened. Errors: any [`DeviceError`].
pub fn check_device() -> Result<(), DeviceError> {
    open_device().map(drop)
}

/// The program that mounts for ordinary users, where the search path has one.
#[must_use]
pub fn find_helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let places = HELPERS
        .iter()
        .flat_map(|helper| dirs.iter().map(move |dir| dir.join(helper)));
    places.into_iter().find(|place| place.is_file())
}

/// Why the helper did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// There is no helper.
    #[error("fusermount3 was not found, which mounts for users other than root: install fuse3")]
    Missing,
    /// `allow_other` is root's to permit.
    #[error("allow_other needs the line 'user_allow_other' in /etc/fuse.conf")]
    AllowOther,
    /// The mount is in use.
    #[error("the mount is busy")]
    Busy,
    /// It said something else.
    #[error("fusermount3 refused: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// It cannot be run, or did not send the device.
    #[error("cannot run fusermount3: {source}")]
    Io {
        /// What the system said.
        source: io::Error,
    },
}

/// Why a mount was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No device.
    #[error(transparent)]
    Device(DeviceError),
    /// The helper failed.
    #[error(transparent)]
    Helper(HelperError),
    /// mount(2) failed.
    #[error("the kernel refused to mount: {source}")]
    Kernel {
        /// What it said.
        source: io::Error,
    },
}

/// Mounts at `point` and returns the device to serve it with. Asks the kernel first, and the helper
/// if this user may not mount.
///
/// Errors: any [`AttachError`]; nothing is mounted then.
pub(super) fn attach(
    point: &Path,
    options: MountOptions,
    source: &OsStr,
) -> Result<OwnedFd, AttachError> {
    let device = open_device().map_err(AttachError::Device)?;
    match attach_directly(&device, point, options, source) {
        Ok(()) => Ok(device.into()),
        Err(MountRefusal::NotPermitted) => {
            attach_by_helper(point, options, source).map_err(AttachError::Helper)
        }
        Err(MountRefusal::Other(source)) => Err(AttachError::Kernel { source }),
    }
}

fn attach_directly(
    device: &File,
    point: &Path,
    options: MountOptions,
    source: &OsStr,
) -> Result<(), MountRefusal> {
    let mut list = format!("subtype={SUBTYPE}");
    for word in kernel_words(options) {
        list.push(',');
        list.push_str(word);
    }
    mount_fuse(device.as_fd(), point, source, options.execution, &list)
}

/// The options that kernel and helper know by the same words.
fn kernel_words(options: MountOptions) -> Vec<&'static str> {
    let mut words = Vec::new();
    if options.audience == Audience::Everybody {
        words.push("allow_other");
    }
    // The fields are public, so that the rule is kept here as well as where options are parsed.
    if options.permissions == Permissions::Checked || options.audience == Audience::Everybody {
        words.push("default_permissions");
    }
    words
}

fn attach_by_helper(
    point: &Path,
    options: MountOptions,
    source: &OsStr,
) -> Result<OwnedFd, HelperError> {
    let io = |source| HelperError::Io { source };
    let (here, there) = UnixStream::pair().map_err(io)?;
    let list = helper_options(options, source);
    // The helper's end is its standard input, which needs no descriptor to survive exec.
    let output = run_helper(|command| {
        let there = there.try_clone()?;
        command
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(OwnedFd::from(there)))
            .arg("-o")
            .arg(&list)
            .arg("--")
            .arg(point);
        Ok(())
    })?;
    drop(there);
    if !output.status.success() {
        return Err(refusal(&output));
    }
    receive_device(&here).map_err(io)
}

/// Takes the device that the helper sends. Blocks until it sent it or closed its end.
///
/// Errors: `UnexpectedEof` if it closed its end, `InvalidData` for a message without exactly one
/// descriptor, and the system's.
fn receive_device(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let (count, mut descriptors) = receive_with_fds(socket, &mut byte, 1)?;
    descriptors.pop().ok_or_else(|| {
        let kind = match count {
            0 => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        kind.into()
    })
}

/// The helper splits its options at commas, and takes a backslash for "the next one is no end".
fn helper_options(options: MountOptions, source: &OsStr) -> OsString {
    let mut list = format!("ro,nosuid,nodev,noatime,subtype={SUBTYPE}");
    for word in kernel_words(options) {
        list.push(',');
        list.push_str(word);
    }
    if options.execution == Execution::Refused {
        list.push_str(",noexec");
    }
    list.push_str(",fsname=");
    let mut list = list.into_bytes();
    for byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(*byte);
    }
    OsString::from_vec(list)
}

/// Runs the first helper that exists. Blocks until it ends, which takes milliseconds.
fn run_helper(prepare: impl Fn(&mut Command) -> io::Result<()>) -> Result<Output, HelperError> {
    for helper in HELPERS {
        let mut command = Command::new(helper);
        // What it says is compared below, so it has to say it in one language.
        command.env("LC_ALL", "C").stdin(Stdio::null());
        prepare(&mut command).map_err(|source| HelperError::Io { source })?;
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(HelperError::Io { source }),
            Ok(output) => return Ok(output),
        }
    }
    Err(HelperError::Missing)
}

fn refusal(output: &Output) -> HelperError {
    let said: Cow<'_, str> = String::from_utf8_lossy(&output.stderr);
    if said.contains("user_allow_other") {
        HelperError::AllowOther
    } else if said.contains("busy") {
        HelperError::Busy
    } else {
        HelperError::Refused {
            said: said.trim().to_owned(),
        }
    }
}

/// Why a mount was not taken away.
#[derive(Debug)]
pub(super) enum DetachError {
    /// It is in use.
    Busy,
    /// Nothing is mounted there any more.
    NotMounted,
    /// The helper failed.
    Helper(HelperError),
    /// umount(2) failed.
    Kernel(io::Error),
}

/// Unmounts what is on top at `point`, which the caller has looked at just before. Asks the kernel
/// first, and the helper if this user may not unmount. Does not ask the daemon.
pub(super) fn detach(point: &Path, lazy: Lazy) -> Result<(), DetachError> {
    match unmount(point, lazy) {
        Ok(()) => Ok(()),
        Err(UnmountRefusal::Busy) => Err(DetachError::Busy),
        Err(UnmountRefusal::NotMounted) => Err(DetachError::NotMounted),
        Err(UnmountRefusal::NotPermitted) => detach_by_helper(point, lazy),
        Err(UnmountRefusal::Other(source)) => Err(DetachError::Kernel(source)),
    }
}

fn detach_by_helper(point: &Path, lazy: Lazy) -> Result<(), DetachError> {
    let output = run_helper(|command| {
        command.arg("-u");
        if lazy == Lazy::Yes {
            command.arg("-z");
        }
        command.arg("--").arg(point);
        Ok(())
    })
    .map_err(DetachError::Helper)?;
    match output.status.success() {
        true => Ok(()),
        false => match refusal(&output) {
            HelperError::Busy => Err(DetachError::Busy),
            other => Err(DetachError::Helper(other)),
        },
    }
}

/// Whether the daemon of the mount at `point` is dead: whoever does not answer in time is not.
///
/// Blocks up to [`PATIENCE`]; the thread that asks a daemon that hangs stays until the daemon or this
/// process ends.
pub(super) fn is_dead(point: &Path) -> bool {
    let (answer, answered) = channel();
    let asked = point.to_owned();
    let spawned = thread::Builder::new()
        .name("stillfs-probe".to_owned())
        .spawn(move || {
            // Nobody listens any more if this came too late.
            let _ = answer.send(ask_file_system(&asked).map_err(|error| error.kind()));
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread to ask a mount's daemon");
        return false;
    }
    matches!(
        answered.recv_timeout(PATIENCE),
        Ok(Err(
            io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted
        ))
    )
}

/// Whether the file system of a device is still mounted somewhere, or in use.
pub(super) fn is_connected(device: &OwnedFd) -> bool {
    // The device's one event that nobody has to ask for is the error that says "no longer".
    match has_failed(device.as_fd()) {
        Ok(is_gone) => !is_gone,
        Err(error) => {
            tracing::warn!(%error, "cannot ask whether a mount is still there");
            false
        }
    }
}

/// Raises the read-ahead of a mount, as far as this user may.
pub(super) fn raise_read_ahead(identity: MountIdentity) {
    let MountIdentity { major, minor, .. } = identity;
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let written = record_file::write_kernel_file(Path::new(&path), &READ_AHEAD_KIB.to_string());
    if let Err(error) = written {
        tracing::debug!(path, %error, "the kernel's default read-ahead stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::unix_socket::send_with_fds;

    #[test]
    fn the_sent_device_is_the_same_open_file() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send_with_fds(&there, b"x", &[file.as_fd()]).unwrap();
        let received = File::from(receive_device(&here).unwrap());
        file.set_len(17).unwrap();
        assert_eq!(received.metadata().unwrap().len(), 17);
    }

    #[test]
    fn the_end_and_a_message_without_a_device_are_told_apart() {
        let (here, there) = UnixStream::pair().unwrap();
        send_with_fds(&there, b"x", &[]).unwrap();
        let error = receive_device(&here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(there);
        let error = receive_device(&here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_source_with_commas_stays_one_option_of_the_helper() {
        let list = helper_options(MountOptions::default(), OsStr::new("/a,suid\\b"));
        let list = list.to_str().unwrap();
        assert!(list.ends_with(r",fsname=/a\,suid\\b"), "{list}");
        assert!(list.starts_with("ro,nosuid,nodev,"), "{list}");
    }

    /// Whoever sets the public field by hand must not open a view without comparing modes.
    #[test]
    fn everybody_never_comes_without_default_permissions() {
        let options = MountOptions {
            audience: Audience::Everybody,
            ..MountOptions::default()
        };
        assert_eq!(
            kernel_words(options),
            ["allow_other", "default_permissions"]
        );
        assert!(kernel_words(MountOptions::default()).is_empty());
    }
}
