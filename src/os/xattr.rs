//! Extended attributes.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The largest value, and the longest list of names, that the kernel gives.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// The value of the attribute `name` of the file at `path`, links followed.
///
/// Errors: `InvalidInput` for a name or path with a zero byte; the system's, `ENODATA` among them;
/// `InvalidData` where the value has more than `limit_bytes`.
pub fn get(path: &Path, name: impl AsRef<OsStr>, limit_bytes: usize) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name.as_ref().as_bytes())?;
    let mut value = vec![0u8; limit_bytes];
    // SAFETY: both names are strings that end in zero, and the buffer is `value.len()` bytes long;
    // all of them outlive the call.
    let found = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match usize::try_from(found) {
        Ok(bytes) => {
            value.truncate(bytes);
            Ok(value)
        }
        Err(_) => Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ERANGE) => {
                io::ErrorKind::InvalidData.into()
            }
            error => error,
        }),
    }
}

/// The names of the attributes of the file at `path`, links followed; none where there can be none.
///
/// Errors: `InvalidInput` for a path with a zero byte; the system's.
pub fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut list = vec![0u8; VALUE_BYTES_MAX];
    // SAFETY: the path ends in zero, and the buffer is `list.len()` bytes long; both outlive the call.
    let found = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let Ok(bytes) = usize::try_from(found) else {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            error => Err(error),
        };
    };
    list.truncate(bytes);
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    Ok(names
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

/// Whether `error` says that there is no such attribute, or can be none.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP))
}
