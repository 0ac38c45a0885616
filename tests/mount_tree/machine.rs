//! System calls that neither std nor nix offers here.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

fn text(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap()
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The names of the extended attributes at `path`; a link is a link.
pub fn xattr_names(path: &Path) -> io::Result<Vec<OsString>> {
    let path = text(path.as_os_str());
    let mut names = vec![0_u8; 64 << 10];
    // SAFETY: the path ends in zero and the buffer is as long as is said.
    let count = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(checked(count)?);
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    Ok(names
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

/// One of them; `None` if there is none.
pub fn xattr(path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = (text(path.as_os_str()), text(name));
    let mut value = vec![0_u8; 64 << 10];
    // SAFETY: both names end in zero and the buffer is as long as is said.
    let count = unsafe {
        let room = value.as_mut_ptr().cast();
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), room, value.len())
    };
    match checked(count) {
        Ok(count) => {
            value.truncate(count);
            Ok(Some(value))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets one.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (text(path.as_os_str()), text(OsStr::new(name)));
    // SAFETY: both names end in zero and the value is as long as is said.
    let result = unsafe {
        let value_at = value.as_ptr().cast();
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value_at, value.len(), 0)
    };
    checked(result.try_into().unwrap()).map(drop)
}

/// Takes from this thread, and from those that it starts, the right to administer the system, without
/// which the kernel reads no file for a daemon.
pub fn drop_administration() {
    const VERSION_3: u32 = 0x2008_0522;
    const SYS_ADMIN: u32 = 1 << 21;
    let mut header = [VERSION_3, 0];
    // Effective, permitted and inheritable, of capabilities 0 to 31 and of 32 to 63.
    let mut sets = [0_u32; 6];
    // SAFETY: header and sets have the layout of version 3.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(got, 0);
    sets[0] &= !SYS_ADMIN;
    sets[1] &= !SYS_ADMIN;
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0);
}
