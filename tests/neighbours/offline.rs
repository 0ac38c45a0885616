//! Root mounts databases of other users on which no engine runs, and so writes a pin into them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::process::{Ended, end_of, eventually, is_root, stillfs, succeed};
use crate::rig::{Place, STRANGER, Served, as_user, can_mount, chmod};

/// Whose database it is.
const OWNER: u32 = 65_534;
const WORDS: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// A stopped database of [`OWNER`], or `None`, with a line, where that cannot be.
fn database_of_another(place: &Place, dir: &Path) -> Option<()> {
    if !is_root() || !can_mount() {
        return None;
    }
    let mut program = as_user("stillfs", OWNER)?;
    let served = Served::with(place, dir, &WORDS, &mut program);
    served.assert_serves();
    served.stop();
    Some(())
}

fn mount(dir: &Path, point: &Path) -> Ended {
    end_of(stillfs().arg("mount").arg(dir).arg(point))
}

fn umount(point: &Path) {
    succeed(stillfs().arg("umount").arg(point));
}

fn indexes(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("shadow")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "pin"))
        .collect()
}

fn assert_owned(path: &Path) {
    let found = fs::symlink_metadata(path).unwrap();
    assert_eq!(found.uid(), OWNER, "{}", path.display());
}

/// G26: what root makes there is the owner's, and the owner's engine goes on with it.
#[test]
fn a_pin_that_root_takes_belongs_to_the_owner_of_the_database() {
    let place = Place::new();
    let dir = place.path("theirs");
    if is_root() {
        place.dir_of("theirs", OWNER);
    }
    let Some(()) = database_of_another(&place, &dir) else {
        return;
    };
    // Nothing of the engine's is left that the mount would only write on.
    fs::remove_dir_all(dir.join("shadow")).unwrap();
    fs::remove_file(dir.join("LOCK")).unwrap();
    let point = place.dir("point", 0o755);
    let ended = mount(&dir, &point);
    assert!(ended.status.success(), "{ended:?}");
    let before = fs::read(point.join("data.pages")).unwrap();
    assert_eq!(indexes(&dir).len(), 1);
    for path in indexes(&dir) {
        assert_owned(&path);
    }
    for name in ["LOCK", "shadow", "shadow/slots"] {
        assert_owned(&dir.join(name));
    }

    let mut program = as_user("stillfs", OWNER).unwrap();
    let served = Served::with(&place, &dir, &WORDS, &mut program);
    eventually("the engine of the owner has taken the pin over", || {
        let text = succeed(stillfs().arg("status").arg(&dir).arg("--json"));
        text.contains("\"state\": \"held\"")
    });
    let mut client = served.client();
    for number in 0..300 {
        let key = format!("key{number}");
        client.command(&["SET", &key, &"new".repeat(100)]).unwrap();
    }
    client.command(&["CHECKPOINT"]).unwrap();
    assert_eq!(fs::read(point.join("data.pages")).unwrap(), before);
    umount(&point);
    served.stop();

    // And it is cleaned up with the same rights.
    let ended = mount(&dir, &point);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(indexes(&dir).len(), 1);
    umount(&point);
    eventually("nothing is left of the pin", || indexes(&dir).is_empty());
}

/// G26: whatever the owner plants in the directory, root makes, cuts and removes nothing beyond it.
#[test]
fn links_that_the_owner_plants_lead_root_nowhere() {
    let place = Place::new();
    let precious = place.dir("precious", 0o700);
    let kept = ["slots", "LOCK", "0.pin"];
    for name in kept {
        fs::write(precious.join(name), "precious").unwrap();
        chmod(&precious.join(name), 0o600);
    }
    let point = place.dir("point", 0o755);
    for (number, plant) in [
        "shadow",
        "shadow/slots",
        "LOCK",
        "wal",
        "2 LOCK",
        "2 shadow/slots",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("theirs{number}");
        let dir = place.path(&name);
        if is_root() {
            place.dir_of(&name, OWNER);
        }
        let Some(()) = database_of_another(&place, &dir) else {
            return;
        };
        let (is_second_name, plant) = match plant.strip_prefix("2 ") {
            Some(plant) => (true, plant),
            None => (false, plant),
        };
        let path = dir.join(plant);
        let last = Path::new(plant).file_name().unwrap();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        let target = match plant {
            "shadow" | "wal" => precious.clone(),
            _ => precious.join(last),
        };
        // A second name for a file needs no link to follow.
        if is_second_name {
            fs::hard_link(&target, &path).unwrap();
        } else {
            symlink(&target, &path).unwrap();
            std::os::unix::fs::lchown(&path, Some(OWNER), Some(OWNER)).unwrap();
        }
        let ended = mount(&dir, &point);
        // What stands in LOCK nobody needs, and a name that is no slot file of theirs is replaced.
        if ["shadow", "wal"].contains(&plant) {
            assert_eq!(ended.code(), 1, "{plant}: {ended:?}");
        } else if ended.status.success() {
            umount(&point);
        }
        for name in kept {
            let found = fs::read_to_string(precious.join(name)).unwrap();
            assert_eq!(found, "precious", "{plant}: {name}");
            assert_eq!(fs::metadata(precious.join(name)).unwrap().uid(), 0);
        }
        assert_eq!(fs::read_dir(&precious).unwrap().count(), kept.len());
    }
}

/// G26: where a third user could exchange the directory, nobody works, neither root nor its owner.
#[test]
fn a_directory_that_a_third_user_can_move_is_refused() {
    let place = Place::new();
    if !is_root() {
        return;
    }
    let outer = place.dir_of("outer", OWNER);
    let dir = outer.join("theirs");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
    let Some(()) = database_of_another(&place, &dir) else {
        return;
    };
    std::os::unix::fs::chown(&outer, Some(STRANGER), None).unwrap();
    let point = place.dir("point", 0o755);
    let ended = mount(&dir, &point);
    assert_eq!(ended.code(), 1, "{ended:?}");
    let text = format!("belongs to user {STRANGER}");
    assert!(ended.err.contains(&text), "{ended:?}");
    assert_eq!(indexes(&dir), [""; 0].map(PathBuf::from));
}
