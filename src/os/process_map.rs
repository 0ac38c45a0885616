//! Which files a process has mapped into its memory: what `/proc/N/maps` tells.
//!
//! For people and for advice, as [`super::lock_table`]. The names are those that the process sees.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::os::path::read_small_file;

const TEXT_BYTES_MAX: u64 = 64 << 20;

/// A file, a part of which is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Its inode number; its device is told differently by file systems that have many.
    pub inode: u64,
    /// Its path in the file system of the process.
    pub path: PathBuf,
    /// Whether that part is code: a program or a library.
    pub is_code: bool,
    /// Whether that part is shared memory that the process may write.
    pub is_shared: bool,
}

/// The mapped files of a process in the order of their addresses, each part by itself.
///
/// Errors: the system's; `PermissionDenied` for a process of somebody else.
pub fn mapped_files(process: u32) -> io::Result<Vec<MappedFile>> {
    let text = read_small_file(Path::new(&format!("/proc/{process}/maps")), TEXT_BYTES_MAX)?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// The path by which this process reaches what `process` calls `path`.
#[must_use]
pub fn path_seen_by(process: u32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{process}/root"));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// `7f0a-7f0b rw-s 00000000 fe:00 10062876   /path/with spaces`
fn parse_line(line: &[u8]) -> Option<MappedFile> {
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let tail = rest.get(start..)?;
        let end = tail.iter().position(|byte| *byte == b' ')?;
        let (word, after) = tail.split_at(end);
        rest = after;
        str::from_utf8(word).ok()
    };
    let (_addresses, rights) = (word()?, word()?.to_owned());
    let (_offset, _device) = (word()?, word()?);
    let inode = word()?.parse().ok()?;
    let start = rest.iter().position(|byte| *byte != b' ')?;
    let path = rest.get(start..).filter(|path| path.starts_with(b"/"))?;
    Some(MappedFile {
        inode,
        path: OsString::from_vec(path.to_vec()).into(),
        is_code: rights.contains('x'),
        is_shared: rights.ends_with('s') && rights.contains('w'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_other_memory() {
        let line = b"7f0a7ec90000-7f0a7ec98000 rw-s 00000000 fe:00 10062876      /tmp/a b-shm";
        let expected = MappedFile {
            inode: 10_062_876,
            path: "/tmp/a b-shm".into(),
            is_code: false,
            is_shared: true,
        };
        assert_eq!(parse_line(line), Some(expected));
        for line in [
            &b"7ffd-7ffe rw-p 00000000 00:00 0                          [stack]"[..],
            b"7ffd-7ffe rw-p 00000000 00:00 0 ",
            b"7ffd-7ffe rw-p 00000000 00:00",
            b"7ffd-7ffe rw-p 00000000 00:00 x /a",
            b"",
        ] {
            assert_eq!(parse_line(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn own_program_is_mapped_as_code() {
        let me = std::process::id();
        let mapped = mapped_files(me).unwrap();
        let program = std::env::current_exe().unwrap();
        assert!(
            mapped
                .iter()
                .any(|file| file.is_code && file.path == program)
        );
        let seen = path_seen_by(me, &program);
        assert!(crate::os::path::metadata(&seen).is_ok(), "{seen:?}");
        assert!(mapped_files(u32::MAX).is_err());
    }
}
