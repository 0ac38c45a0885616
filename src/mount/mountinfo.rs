//! Which mounts of the mount table are of stillfs, and how they are named to people.

use std::ffi::OsStr;

use super::MOUNT_TYPE;
use crate::os::mount_table::MountEntry;

/// Whether this is a mount of stillfs.
#[must_use]
pub fn is_ours(entry: &MountEntry) -> bool {
    entry.file_system == OsStr::new(MOUNT_TYPE)
}

/// What a mount shows, for a person.
pub(super) fn shown(source: &OsStr) -> String {
    source.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use crate::os::mount_table::MountIdentity;

    use super::*;

    /// A subtype tells our mounts from those of other FUSE file systems, whatever they show.
    #[test]
    fn only_the_type_makes_a_mount_ours() {
        let of_type = |file_system: &str| MountEntry {
            identity: MountIdentity {
                mount_id: 36,
                major: 0,
                minor: 51,
            },
            mount_point: "/mnt/app".into(),
            file_system: file_system.into(),
            source: "stillfs".into(),
            options: Vec::new(),
        };
        assert!(is_ours(&of_type("fuse.stillfs")));
        for other in ["ext4", "fuse", "stillfs", "fuse.stillfs2"] {
            assert!(!is_ours(&of_type(other)), "{other}");
        }
    }
}
