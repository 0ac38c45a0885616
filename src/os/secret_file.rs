//! A file that holds a secret and that nobody else may look into.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::path::metadata_of;
use super::process::effective_user;
use super::real_disk::RealDisk;
use super::{Disk, OpenMode, read_up_to};

/// Why a secret cannot be taken from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFault {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The name is a link's, which somebody else may turn.
    #[error("it is a symbolic link: name the file itself")]
    Link,
    /// A folder, a pipe or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Somebody else owns it.
    #[error("it belongs to user {uid}; it must belong to the user who runs this, or to root")]
    ForeignOwner {
        /// Who.
        uid: u32,
    },
    /// Others may read it, or write it.
    #[error("its mode is {mode:04o}, so others may use it: chmod 600 it")]
    OpenToOthers {
        /// Its mode.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than a secret may be.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// How long one may be.
        limit: usize,
    },
    /// It has more than one line.
    #[error("it has more than one line")]
    SeveralLines,
}

/// The secret in the file at `path`: its content without the line end behind it.
///
/// What is checked is the open file, so that nobody exchanges it between look and use. Errors: any
/// [`SecretFault`].
pub fn read_secret(path: &Path, bytes_max: usize) -> Result<Vec<u8>, SecretFault> {
    let secret = read_secret_lines(path, bytes_max)?;
    match secret.contains(&b'\n') {
        true => Err(SecretFault::SeveralLines),
        false => Ok(secret),
    }
}

/// As [`read_secret`], of a file that may have several lines. Errors: any other [`SecretFault`].
pub fn read_secret_lines(path: &Path, bytes_max: usize) -> Result<Vec<u8>, SecretFault> {
    let file = RealDisk.open(path, OpenMode::Read).map_err(open_fault)?;
    let fd = file.as_fd().ok_or(SecretFault::NotRegular)?;
    let facts = metadata_of(fd).map_err(SecretFault::Io)?;
    if facts.uid != 0 && facts.uid != effective_user() {
        return Err(SecretFault::ForeignOwner { uid: facts.uid });
    }
    if facts.mode & 0o077 != 0 {
        return Err(SecretFault::OpenToOthers { mode: facts.mode });
    }
    // A line end of two bytes, and one byte more to tell that it is too long.
    let mut secret = vec![0; bytes_max + 3];
    let count = read_up_to(&*file, &mut secret, 0).map_err(SecretFault::Io)?;
    secret.truncate(count);
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    if secret.is_empty() {
        Err(SecretFault::Empty)
    } else if secret.len() > bytes_max {
        Err(SecretFault::TooLong { limit: bytes_max })
    } else {
        Ok(secret)
    }
}

fn open_fault(error: io::Error) -> SecretFault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => SecretFault::Link,
        // What `RealDisk` answers for anything but a file, and open for a socket.
        Some(Errno::EINVAL | Errno::EISDIR | Errno::ENXIO) => SecretFault::NotRegular,
        _ => SecretFault::Io(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn written(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn one_line_end_is_no_part_of_the_secret() {
        for (content, secret) in [
            (&b"abc"[..], &b"abc"[..]),
            (b"abc\n", b"abc"),
            (b"abc\r\n", b"abc"),
            (b" a b \n", b" a b "),
            (b"12345678\r\n", b"12345678"),
        ] {
            let (_dir, path) = written(content, 0o600);
            assert_eq!(read_secret(&path, 8).unwrap(), secret);
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let fault = |content: &[u8]| {
            let (_dir, path) = written(content, 0o400);
            read_secret(&path, 8).unwrap_err()
        };
        assert!(matches!(fault(b""), SecretFault::Empty));
        assert!(matches!(fault(b"\r\n"), SecretFault::Empty));
        assert!(matches!(fault(b"123456789"), SecretFault::TooLong { .. }));
        assert!(matches!(fault(&[b'x'; 5000]), SecretFault::TooLong { .. }));
        assert!(matches!(fault(b"a\nb\n"), SecretFault::SeveralLines));
    }

    /// G4: any bit for others is too much.
    #[test]
    fn a_file_that_others_may_use_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
            let (_dir, path) = written(b"x", mode);
            let fault = read_secret(&path, 8).unwrap_err();
            assert!(
                matches!(fault, SecretFault::OpenToOthers { mode: found } if found == mode),
                "{fault}"
            );
        }
    }

    #[test]
    fn links_folders_and_pipes_are_refused() {
        let (dir, path) = written(b"x", 0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read_secret(&link, 8), Err(SecretFault::Link)));
        assert!(matches!(
            read_secret(dir.path(), 8),
            Err(SecretFault::NotRegular)
        ));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            read_secret(&fifo, 8),
            Err(SecretFault::NotRegular)
        ));
        assert!(matches!(
            read_secret(&dir.path().join("none"), 8),
            Err(SecretFault::Io(_))
        ));
    }
}
