//! The mounts that this process sees (`/proc/self/mountinfo`).
//!
//! ```text
//! 36 35 98:0 /root /mnt/a\040b rw,noatime master:1 ... - ext4 /dev/sda1 rw,errors=continue
//! id parent major:minor root mount-point options optional-fields - type source super-options
//! ```
//!
//! It is asked instead of the mount point itself, because a `stat` of a mount whose daemon hangs, hangs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::os::path::read_small_file;

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

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Which mount.
    pub identity: MountIdentity,
    /// Where it is mounted, seen from this process's root.
    pub mount_point: PathBuf,
    /// The type, such as `ext4` or `fuse.stillfs`.
    pub file_system: OsString,
    /// What is mounted; any text that the mounter chose.
    pub source: OsString,
    /// Options of the mount, then of the file system, each as it stands there (`rw,noatime`).
    pub options: Vec<OsString>,
}

/// All mounts, in the kernel's order: a mount that covers another comes after it.
///
/// Lines that do not parse are left out. Errors: the system's; `FileTooLarge` past 64 MiB of text.
pub fn entries() -> io::Result<Vec<MountEntry>> {
    let text = read_small_file(Path::new("/proc/self/mountinfo"), TEXT_BYTES_MAX)?;
    Ok(parse(&text))
}

/// The mount at exactly `mount_point` that is on top there.
///
/// Shape: `mount_point` is absolute and free of links, dots and doubled slashes (see `canonical`).
/// Errors: those of [`entries`].
pub fn find(mount_point: &Path) -> io::Result<Option<MountEntry>> {
    Ok(entries()?
        .into_iter()
        .rfind(|entry| entry.mount_point == mount_point))
}

const TEXT_BYTES_MAX: u64 = 64 << 20;

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
    let _root = fields.next()?;
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let mount_options = fields.next()?;
    // Any number of optional fields stands between the options and a single hyphen.
    fields.by_ref().find(|field| *field == b"-")?;
    let file_system = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = fields.next().unwrap_or_default();
    let options = [mount_options, super_options]
        .into_iter()
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|option| !option.is_empty())
        .map(unescape)
        .collect();
    Some(MountEntry {
        identity: MountIdentity {
            mount_id,
            major: u32::try_from(major).ok()?,
            minor: u32::try_from(minor).ok()?,
        },
        mount_point,
        file_system,
        source,
        options,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    OsStr::from_bytes(digits).to_str()?.parse().ok()
}

/// Turns `\ooo` (three octal digits) back into its byte; any other backslash stands for itself.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', digits @ ..] = text.get(..4)? else {
        return None;
    };
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_with_escapes_and_optional_fields_is_understood() {
        let line = br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 shared:2 - fuse.x\011y /dev/ro\012ot ro,errors=continue";
        let entry = parse_line(line).unwrap();
        let identity = MountIdentity {
            mount_id: 36,
            major: 98,
            minor: 0,
        };
        assert_eq!(entry.identity, identity);
        assert_eq!(entry.mount_point, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.file_system, "fuse.x\ty");
        assert_eq!(entry.source, "/dev/ro\not");
        assert_eq!(entry.options, ["rw", "noatime", "ro", "errors=continue"]);
    }

    /// A mounter may give an empty source, and a file system no options of its own.
    #[test]
    fn line_with_empty_fields_is_understood() {
        let entry = parse_line(b"1 0 0:5 / /x rw - tmpfs  rw").unwrap();
        assert_eq!(entry.source, "");
        assert_eq!(entry.options, ["rw", "rw"]);
        assert_eq!(
            parse_line(b"1 0 0:5 / /x rw - tmpfs none ")
                .unwrap()
                .options,
            ["rw"]
        );
    }

    #[test]
    fn broken_lines_give_nothing() {
        let whole = b"36 35 98:0 /mnt1 /mnt2 rw master:1 - ext3 /dev/root rw";
        assert!(parse_line(whole).is_some());
        // Without a source nothing before its field can be a whole entry.
        for length in 0..whole.len() - b" /dev/root rw".len() {
            assert_eq!(parse_line(&whole[..length]), None, "cut at {length}");
        }
        for line in ["", "36 35 98 / /mnt rw - a b c", "x 35 98:0 / / rw - a b c"] {
            assert_eq!(parse_line(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse_line(b"1 35 99999999999:0 / / rw - a b c"), None);
    }

    #[test]
    fn a_broken_line_does_not_hide_those_around_it() {
        let text = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\nbroken\n2 1 0:5 / /x rw - tmpfs t rw\n";
        let points: Vec<_> = parse(text)
            .into_iter()
            .map(|entry| entry.mount_point)
            .collect();
        assert_eq!(points, [Path::new("/"), Path::new("/x")]);
    }

    #[test]
    fn backslash_that_begins_no_escape_stands_for_itself() {
        assert_eq!(unescape(br"\04"), OsStr::new(r"\04"));
        assert_eq!(unescape(br"\048"), OsStr::new(r"\048"));
        assert_eq!(unescape(br"\777"), OsStr::new(r"\777"));
        assert_eq!(unescape(br"\999\400"), OsStr::new(r"\999\400"));
        assert_eq!(unescape(br"\\040"), OsStr::new(r"\ "));
        assert_eq!(unescape(br"\134040"), OsStr::new(r"\040"));
        assert_eq!(unescape(b"\xff\\377"), OsStr::from_bytes(b"\xff\xff"));
    }

    #[test]
    fn root_and_proc_are_mounted_here() {
        let proc = find(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(proc.file_system, "proc");
        assert!(
            entries()
                .unwrap()
                .iter()
                .any(|entry| entry.mount_point == Path::new("/"))
        );
        assert_eq!(find(Path::new("/no/such/mount")).unwrap(), None);
    }
}
