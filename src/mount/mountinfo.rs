//! The mount table of this process, `/proc/self/mountinfo`.
//!
//! It is asked instead of the mount point itself, because a `stat` of a mount whose daemon hangs, hangs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{MOUNT_TYPE, record_file};

/// Which mount. The kernel gives its numbers to another as soon as it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MountIdentity {
    /// Mount id.
    pub mount_id: u64,
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device; for FUSE also the name of its connection.
    pub minor: u32,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Which mount.
    pub identity: MountIdentity,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Type and subtype, like `fuse.stillfs`.
    pub file_system: OsString,
    /// What is mounted, as its file system chose to say.
    pub source: OsString,
}

impl MountEntry {
    /// Whether this is a mount of stillfs.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.file_system == OsStr::new(MOUNT_TYPE)
    }
}

/// Reads the mount table. Errors: `/proc` is not mounted or not readable.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let text = record_file::read_kernel_file(Path::new("/proc/self/mountinfo"))?;
    Ok(parse(&text))
}

/// The topmost mount whose mount point is `path`. Shape: `path` is absolute and canonical.
///
/// Errors: those of [`mounts`].
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let here = |entry: &MountEntry| entry.mount_point == path;
    Ok(mounts()?.into_iter().rev().find(here))
}

/// Lines that do not have the documented form are left out.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// Shape: `id parent major:minor root mount_point options [tag ...] - type source super_options`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_id = number(fields.next()?)?;
    let device = fields.nth(1)?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let (major, minor) = device.split_at_checked(colon)?;
    let identity = MountIdentity {
        mount_id,
        major: u32::try_from(number(major)?).ok()?,
        minor: u32::try_from(number(minor.get(1..)?)?).ok()?,
    };
    let mount_point = PathBuf::from(unescape(fields.nth(1)?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountEntry {
        identity,
        mount_point,
        file_system: unescape(fields.next()?),
        source: unescape(fields.next()?),
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes the kernel's escapes: `\` and three octal digits for space, tab, newline, `\` and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// What a mount shows, for a person.
pub(super) fn shown(source: &OsStr) -> String {
    String::from_utf8_lossy(source.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_identity_place_type_and_source() {
        let text =
            b"36 35 0:51 / /mnt/app ro,nosuid shared:1 master:2 - fuse.stillfs /var/lib/app ro\n";
        let entries = parse(text);
        assert_eq!(
            entries,
            [MountEntry {
                identity: MountIdentity {
                    mount_id: 36,
                    major: 0,
                    minor: 51
                },
                mount_point: "/mnt/app".into(),
                file_system: "fuse.stillfs".into(),
                source: "/var/lib/app".into(),
            }]
        );
        assert!(entries[0].is_ours());
    }

    #[test]
    fn a_line_without_tags_is_understood() {
        let entries = parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw");
        assert_eq!(entries.len(), 1);
        assert!(!entries[0].is_ours());
    }

    /// A mount point with a space would otherwise never be found again.
    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(
            unescape(br"/mnt/a\040b\011c\012d\134e"),
            "/mnt/a b\tc\nd\\e"
        );
        assert_eq!(unescape(br"\134040"), "\\040");
        assert_eq!(unescape(br"tail\04"), r"tail\04");
        assert_eq!(unescape(br"\999\400"), r"\999\400");
        assert_eq!(unescape(b"\xff\\377"), OsStr::from_bytes(b"\xff\xff"));
    }

    #[test]
    fn lines_of_another_form_are_left_out() {
        for line in [
            "",
            "36",
            "36 35 0 / /mnt ro - t s o",
            "36 35 0:5 / /mnt ro",
            "x 1 0:1 / / r - t s o",
        ] {
            assert_eq!(parse(line.as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
