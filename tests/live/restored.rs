//! A copy of a mount is a database.

use std::fs;

use crate::books::Books;
use crate::load::Load;
use crate::rig::{Engine, Rig, copy, status};

/// Two keys written by one transaction are both in the copy or neither is, and what was acknowledged
/// before the mount is in it (A1).
#[test]
fn a_copy_made_under_load_opens_as_a_committed_state() {
    let Some(rig) = Rig::new() else { return };
    let load = Load::start(rig.engine().address);
    let before = load.acknowledged();
    let mount = rig.mount("mnt", &[]);
    let after = load.acknowledged();
    load.progress();
    copy(&mount, &rig.path("copy"));
    load.progress();
    let restored = Engine::start(&rig.path("copy"));
    let books = Books::read(restored.address);
    books.audit();
    for (writer, count) in books.transfers().into_iter().enumerate() {
        // A transfer that is being acknowledged while the mount is made may be in it.
        let possible = before[writer]..=after[writer] + 1;
        assert!(possible.contains(&count), "{writer}: {count} {possible:?}");
    }
    load.stop();
}

/// What is copied is the pinned commit and not one key of what came later.
#[test]
fn a_copy_has_exactly_the_keys_of_its_commit() {
    let Some(rig) = Rig::new() else { return };
    Load::start(rig.engine().address).stop();
    let expected = Books::read(rig.engine().address);
    let mount = rig.mount("mnt", &[]);
    let load = Load::start(rig.engine().address);
    copy(&mount, &rig.path("copy"));
    load.progress();
    load.stop();
    let restored = Engine::start(&rig.path("copy"));
    assert!(Books::read(restored.address) == expected);
    assert!(Books::read(rig.engine().address) != expected);
}

/// A copy that is served goes its own way: its log must never be taken for the original's.
#[test]
fn a_served_copy_has_a_history_of_its_own() {
    let Some(rig) = Rig::new() else { return };
    let mount = rig.mount("mnt", &[]);
    let at = rig.path("copy");
    copy(&mount, &at);
    let told: serde_json::Value =
        serde_json::from_slice(&fs::read(at.join("snapshot.json")).unwrap()).unwrap();
    let restored = Engine::start(&at);
    let original = status(&rig.source)["engines"][0].clone();
    let copied = status(&at)["engines"][0].clone();
    assert_eq!(copied["database_id"], original["database_id"]);
    assert_eq!(told["parent_history_id"], original["history_id"]);
    assert_ne!(copied["history_id"], original["history_id"]);
    assert!(copied["history_id"].is_string(), "{copied}");

    let set = restored.client().command(&["SET", "only:here", "1"]);
    set.unwrap();
    Books::read(restored.address).audit();
    let there = rig.engine().client().command(&["EXISTS", "only:here"]);
    assert_eq!(there.unwrap(), crate::resp::Value::Integer(0));
    // The copy can be mounted in its turn, and stopped and started.
    drop(restored);
    let restored = Engine::start(&at);
    let here = restored.client().command(&["EXISTS", "only:here"]);
    assert_eq!(here.unwrap(), crate::resp::Value::Integer(1));
}
