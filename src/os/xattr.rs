//! Extended attributes.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The value of the attribute `name` of the file at `path`, links followed.
///
/// Errors: `InvalidInput` for a name or path with a zero byte; the system's, `ENODATA` among them;
/// `InvalidData` where the value has more than `limit_bytes`.
pub fn get(path: &Path, name: &str, limit_bytes: usize) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
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
