//! Where an ordinary user's mount records are, and what an attacker may have put there before.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::process::end_of;
use crate::rig::{Place, STRANGER, as_user, chmod};

/// A user of this test's own, as the directory in `/tmp` has one name.
const USER: u32 = 47_112;

/// Takes the directory in `/tmp` away, whatever it is by then.
struct Shared(PathBuf);

impl Shared {
    fn clear(&self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `stillfs status` of that user: its exit code and what it says is wrong.
fn status(runtime: Option<&Path>) -> (i32, String) {
    let mut command = as_user("stillfs", USER).unwrap();
    if let Some(runtime) = runtime {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    let ended = end_of(command.arg("status"));
    (ended.code(), ended.err)
}

/// G24: records go to a directory of the user's own, or nowhere.
#[test]
fn records_are_kept_in_a_directory_of_ones_own_or_not_at_all() {
    if as_user("stillfs", USER).is_none() {
        return;
    }
    let place = Place::new();
    let shared = Shared(PathBuf::from(format!("/tmp/stillfs-{USER}")));
    shared.clear();
    let own = place.dir_of("own", USER);
    assert_eq!(status(Some(&own)).0, 0);
    let made = fs::metadata(own.join("stillfs")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (USER, 0o700));
    assert!(!shared.0.exists());

    // After `su` the variable names a directory of somebody else.
    let foreign = place.dir_of("foreign", STRANGER);
    chmod(&foreign, 0o777);
    for runtime in [None, Some(&*foreign), Some(Path::new("relative"))] {
        assert_eq!(status(runtime).0, 0);
        let made = fs::symlink_metadata(&shared.0).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (USER, 0o700));
        assert!(!foreign.join("stillfs").exists());
        shared.clear();
    }

    // An attacker who was there first.
    let trap = place.dir_of("trap", STRANGER);
    chmod(&trap, 0o777);
    symlink(&trap, &shared.0).unwrap();
    let (code, said) = status(None);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("is not a directory") && said.contains("XDG_RUNTIME_DIR"),
        "{said}"
    );
    shared.clear();
    fs::create_dir(&shared.0).unwrap();
    chmod(&shared.0, 0o777);
    chown(&shared.0, Some(STRANGER), None).unwrap();
    let (code, said) = status(None);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&format!("belongs to user {STRANGER}")),
        "{said}"
    );
    chown(&shared.0, Some(USER), None).unwrap();
    let (code, said) = status(None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("chmod 700"), "{said}");
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);

    // One's own directory in a folder where others could exchange it.
    let open = place.dir_of("open", USER);
    chmod(&open, 0o777);
    let (code, said) = status(Some(&open));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("may be written by others"), "{said}");
}
