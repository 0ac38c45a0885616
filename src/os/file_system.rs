//! Which file systems neither an engine nor a mount may rely on.
//!
//! A page cache that other machines do not see, locks that they do not see, and files that go away
//! under a reader: all of that breaks a pin silently. So such places are refused, by `f_type`.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// A kind of file system whose files are shared with other machines, or served by a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteKind {
    name: &'static str,
}

impl RemoteKind {
    /// The name that people know it by, such as `nfs`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for RemoteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Why a place is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedFileSystem {
    /// It is not a local file system.
    #[error("the file system is {0}")]
    Remote(RemoteKind),
    /// Its kind cannot be told.
    #[error("cannot tell the kind of the file system: {0}")]
    Unknown(#[source] io::Error),
}

/// Refuses `path` if it lies on a network, cluster, VM-share or FUSE file system.
///
/// A kind that this list does not know passes. A link in the last part is followed.
/// Errors: `Remote`; `Unknown` if statfs fails, for example because nothing is at `path`.
pub fn refuse_remote(path: &Path) -> Result<(), RefusedFileSystem> {
    let stat =
        nix::sys::statfs::statfs(path).map_err(|error| RefusedFileSystem::Unknown(error.into()))?;
    // Some architectures have a signed 32-bit f_type; the magic is the low 32 bits everywhere.
    #[allow(clippy::useless_conversion)]
    let bits = i64::from(stat.filesystem_type().0) & i64::from(u32::MAX);
    let magic = u32::try_from(bits).expect("masked to 32 bits above");
    match remote_kind(magic) {
        Some(kind) => Err(RefusedFileSystem::Remote(kind)),
        None => Ok(()),
    }
}

/// Refuses `dir` if what lies in it is shared with other machines, or made up by the kernel.
///
/// Errors: as those of [`refuse_remote`].
pub fn refuse_foreign(dir: impl AsFd) -> Result<(), RefusedFileSystem> {
    let stat =
        nix::sys::statfs::fstatfs(dir).map_err(|error| RefusedFileSystem::Unknown(error.into()))?;
    #[allow(clippy::useless_conversion)]
    let bits = i64::from(stat.filesystem_type().0) & i64::from(u32::MAX);
    let magic = u32::try_from(bits).expect("masked to 32 bits above");
    let is_of = |table: &[(u32, &'static str)]| {
        let found = table.iter().find(|(known, _)| *known == magic);
        found.map(|(_, name)| RemoteKind { name })
    };
    match is_of(REMOTE).or_else(|| is_of(PSEUDO)) {
        Some(kind) => Err(RefusedFileSystem::Remote(kind)),
        None => Ok(()),
    }
}

/// Whether a file system of this type, as the mount table calls it, is shared with other machines, served
/// by a process, or made up by the kernel.
#[must_use]
pub fn foreign_name(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let known = REMOTE.iter().chain(PSEUDO).map(|(_, name)| *name);
    let plain = name.split('.').next().unwrap_or(name);
    known
        .chain(OTHER_NAMES.iter().copied())
        .any(|known| known == plain)
}

/// Whether copies of files can share their blocks there, as far as the kind of the file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflink {
    /// Yes.
    Yes,
    /// If it was made for it.
    Perhaps,
    /// No, or nobody knows.
    No,
}

/// Whether files on the file system of `path` can be copied by sharing blocks (`cp --reflink`).
///
/// Nothing is tried, since that would write. Errors: the system's.
pub fn reflink(path: &Path) -> io::Result<Reflink> {
    use nix::sys::statfs as magic;
    let found = magic::statfs(path)?.filesystem_type();
    Ok(match found {
        magic::BTRFS_SUPER_MAGIC => Reflink::Yes,
        magic::XFS_SUPER_MAGIC => Reflink::Perhaps,
        _ => Reflink::No,
    })
}

/// Bytes of the file system of `path`, used and free. Errors: the system's.
pub fn size_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    // These are c_ulong, whose width is the machine's.
    #[allow(clippy::useless_conversion)]
    let (blocks, block_bytes) = (u64::from(stat.blocks()), u64::from(stat.fragment_size()));
    Ok(blocks.saturating_mul(block_bytes))
}

/// The kind that `magic` (the low 32 bits of `f_type`) stands for, if it is one that is refused.
fn remote_kind(magic: u32) -> Option<RemoteKind> {
    REMOTE
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| RemoteKind { name })
}

/// Source: linux/magic.h, the file systems' own headers, and the table in coreutils' stat.c.
const REMOTE: &[(u32, &str)] = &[
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0000_517b, "smb"),
    (0x0000_564c, "ncp"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    // Covers sshfs, glusterfs, s3fs and virtiofs, which have this magic too.
    (0x6573_5546, "fuse"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
    (0x7c7c_6673, "prl_fs"),
    (0x00c0_ffee, "hostfs"),
    (0x0bd0_0bd0, "lustre"),
    (0x2003_0528, "orangefs"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0xaad7_aaea, "panfs"),
    (0x6163_6673, "acfs"),
    (0xbeef_dead, "snfs"),
];

/// File systems whose files are made up by the kernel. Source: linux/magic.h and the kernel's fs/.
const PSEUDO: &[(u32, &str)] = &[
    (0x0000_9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x0000_1cd1, "devpts"),
    (0xcafe_4a11, "bpf"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x6265_6570, "configfs"),
    (0x1980_0202, "mqueue"),
    (0x6573_5543, "fusectl"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6e73_6673, "nsfs"),
    (0x6759_6969, "rpc_pipefs"),
    (0x0000_0187, "autofs"),
    (0xf97c_ff8c, "selinuxfs"),
];

/// What the mount table calls some of them besides.
const OTHER_NAMES: &[&str] = &["nfs4", "smb3", "virtiofs", "fuseblk", "glusterfs"];

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn local_file_systems_pass() {
        let dir = tempfile::tempdir().unwrap();
        refuse_remote(dir.path()).unwrap();
        refuse_remote(Path::new("/dev/shm")).unwrap();
        let magics = [
            nix::sys::statfs::EXT4_SUPER_MAGIC,
            nix::sys::statfs::XFS_SUPER_MAGIC,
            nix::sys::statfs::BTRFS_SUPER_MAGIC,
            nix::sys::statfs::TMPFS_MAGIC,
            nix::sys::statfs::OVERLAYFS_SUPER_MAGIC,
            nix::sys::statfs::F2FS_SUPER_MAGIC,
        ];
        for magic in magics {
            assert_eq!(remote_kind(u32::try_from(magic.0).unwrap()), None);
        }
        assert_eq!(remote_kind(0x2fc1_2fc1), None, "zfs");
    }

    /// The table is typed by hand; where libc knows a magic, it must agree.
    #[test]
    fn magics_are_those_of_libc() {
        use nix::sys::statfs as magic;
        let known = [
            (magic::NFS_SUPER_MAGIC, "nfs"),
            (magic::SMB_SUPER_MAGIC, "smb"),
            (magic::NCP_SUPER_MAGIC, "ncp"),
            (magic::FUSE_SUPER_MAGIC, "fuse"),
            (magic::AFS_SUPER_MAGIC, "afs"),
            (magic::CODA_SUPER_MAGIC, "coda"),
            (magic::HOSTFS_SUPER_MAGIC, "hostfs"),
            (magic::OCFS2_SUPER_MAGIC, "ocfs2"),
        ];
        for (magic, name) in known {
            let kind = remote_kind(u32::try_from(magic.0).unwrap());
            assert_eq!(kind.map(RemoteKind::name), Some(name));
        }
    }

    #[test]
    fn made_up_and_remote_places_are_not_entered() {
        let open = |path: &str| std::fs::File::open(path).unwrap();
        refuse_foreign(open("/proc")).unwrap_err();
        refuse_foreign(open("/sys")).unwrap_err();
        refuse_foreign(open("/dev/shm")).unwrap();
        for name in [
            "proc",
            "nfs4",
            "fuse.stillfs",
            "fuse",
            "fuseblk",
            "cifs",
            "autofs",
        ] {
            assert!(foreign_name(OsStr::new(name)), "{name}");
        }
        for name in [
            "ext4",
            "xfs",
            "btrfs",
            "tmpfs",
            "overlay",
            "zfs",
            "ext4.proc",
        ] {
            assert!(!foreign_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn unknown_magic_passes() {
        assert_eq!(remote_kind(0x1234_5678), None);
    }

    #[test]
    fn missing_path_is_neither_refused_as_remote_nor_passed() {
        let error = refuse_remote(Path::new("/no/such/place")).unwrap_err();
        let RefusedFileSystem::Unknown(source) = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }
}
