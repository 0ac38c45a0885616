//! How exact the times of files are.

use std::path::Path;

use nix::sys::statfs as magic;

/// The first kernel that gives a change a time of its own once the time before was looked at.
const FINE_SINCE: (u32, u32) = (6, 13);

/// Whether two changes of a file on the file system of `path` have different times of change if somebody
/// looked at the time between. `false` also where that cannot be told.
#[must_use]
pub fn are_fine(path: &Path) -> bool {
    let Ok(system) = nix::sys::utsname::uname() else {
        return false;
    };
    let Ok(stat) = magic::statfs(path) else {
        return false;
    };
    // Those that have FS_MGTIME in Linux 6.13.
    let is_known = [
        magic::EXT4_SUPER_MAGIC,
        magic::BTRFS_SUPER_MAGIC,
        magic::XFS_SUPER_MAGIC,
        magic::TMPFS_MAGIC,
    ]
    .contains(&stat.filesystem_type());
    is_known && version(&system.release().to_string_lossy()) >= Some(FINE_SINCE)
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.9.0"), Some((6, 9)));
        assert!(version("6.9.0") < Some(FINE_SINCE));
        assert!(version("10.0-rc1") > Some(FINE_SINCE));
        assert_eq!(version("unknown"), None);
        assert!(!are_fine(Path::new("/proc")));
    }
}
