//! What a restore does when nothing goes wrong, and what it refuses.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::rig::*;
use crate::engine::{Engine, EngineOptions, PAGE_FILE};
use crate::os::Host;
use crate::repository::manifest::{Entry, EntryContent, FileVersion};
use crate::repository::pack::PackId;
use crate::repository::restore::*;

fn tree() -> Vec<(&'static str, What)> {
    vec![
        ("a", content(1, 20, 17)),
        ("empty", What::Content(Vec::new())),
        ("folder", What::Folder),
        ("folder/inner", What::Folder),
        ("folder/inner/big", content(2, 2100, 0)),
        ("folder/link", What::Link("../a")),
        ("folder/hard", What::HardLink("a")),
        ("zeros", What::Content(vec![0; 10 * UNIT + 5])),
    ]
}

/// BK8: what stands at the target is, to the byte and the attribute, what was backed up.
#[test]
fn a_tree_comes_back_whole_and_nothing_is_left_beside_it() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &tree());
    let target = rig.path("target");
    let plan = plan(
        &rig.repository,
        &id,
        &target,
        RestoreOptions::default(),
        &Nobody,
    )
    .unwrap();
    assert!(rig.names().is_empty(), "a plan writes nothing");
    let report = rig.restore(&id, &target).unwrap();
    assert_eq!(rig.names(), ["target"]);
    assert_eq!((plan.files, plan.bytes), (report.files, report.bytes));
    assert_eq!((report.files, report.bytes_resumed), (6, 0));
    assert_eq!((plan.packs, plan.replaces, plan.resumes), (2, false, false));
    for (path, what) in tree() {
        if let What::Content(bytes) = what {
            assert!(fs::read(target.join(path)).unwrap() == bytes, "{path}");
        }
    }
    let facts = fs::metadata(target.join("a")).unwrap();
    assert_eq!((facts.nlink(), facts.mode() & 0o7777), (2, 0o640));
    assert_eq!(
        (facts.mtime(), facts.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    for folder in ["", "folder", "folder/inner"] {
        let facts = fs::metadata(target.join(folder)).unwrap();
        assert_eq!(facts.mode() & 0o7777, 0o750, "{folder}");
        assert_eq!(facts.mtime(), 1_234_567_890, "{folder}");
    }
    let zeros = fs::metadata(target.join("zeros")).unwrap();
    assert_eq!((zeros.len(), zeros.blocks()), (10 * 4096 + 5, 0));
    assert_eq!(
        fs::read_link(target.join("folder/link")).unwrap(),
        Path::new("../a")
    );
    // Again, over what is there, and without reading back.
    let before = picture(&target);
    let refused = rig.restore(&id, &target);
    assert!(matches!(refused, Err(RepositoryError::TargetExists { .. })));
    fs::write(target.join("foreign"), b"x").unwrap();
    let options = RestoreOptions {
        read_back: ReadBack::No,
        ..REPLACE
    };
    let control = Control::default();
    rig.restore_with(&id, &target, options, &control).unwrap();
    assert_eq!(picture(&target), before);
    assert_eq!(rig.names(), ["target"]);
    assert_eq!(control.progress().fraction, 1.0);
}

/// BK9: two restores of one backup have two histories, neither of them the old one; and no log.
#[test]
fn a_native_database_opens_and_goes_on_in_a_history_of_its_own() {
    let rig = Rig::new();
    let source = rig.path("source");
    let (host, options) = (Host::system(), EngineOptions::default());
    let engine = Engine::open(&host, &source, &options, None).unwrap();
    let mut transaction = engine.begin_write().unwrap();
    transaction.put("t", b"key", b"value").unwrap();
    transaction.commit().unwrap();
    let old = engine.identity();
    engine.close().unwrap();
    drop(engine);
    let bytes = fs::read(source.join(PAGE_FILE)).unwrap();
    let whats = [
        (PAGE_FILE, What::Content(bytes)),
        ("snapshot.json", content(1, 0, 9)),
    ];
    let plain = rig.back_up("stillfs", &whats);
    let mut manifest = rig.repository.manifest(&plain).unwrap();
    if let EntryContent::File(content) = &mut manifest.entries[1].content {
        content.version = Some(FileVersion {
            database: old.database,
            history: old.history,
            lsn: crate::lsn::Lsn(1),
        });
    }
    let store = rig.repository.store();
    store.remove(&Manifest::object(&plain)).unwrap();
    let id = rig.publish("stillfs", manifest.entries, manifest.packs, |_| {});
    let mut seen = vec![old.history.to_string()];
    for name in ["one", "two"] {
        let target = rig.path(name);
        let report = rig.restore(&id, &target).unwrap();
        assert_eq!(names(&target), [PAGE_FILE]);
        assert_eq!(report.histories.len(), 1);
        let engine = Engine::open(&host, &target, &options, None).unwrap();
        let history = engine.identity().history.to_string();
        assert_eq!(report.histories[0], (PAGE_FILE.to_owned(), history.clone()));
        assert_eq!(engine.identity().database, old.database);
        assert!(!seen.contains(&history));
        seen.push(history);
        let found = engine.begin_read().get("t", b"key").unwrap();
        assert_eq!(found.as_deref(), Some(&b"value"[..]));
        assert!(engine.check().unwrap().is_clean());
        engine.close().unwrap();
    }
    // BK9: over a database that was not closed, whose log must not survive.
    let target = rig.path("one");
    fs::write(target.join("wal").join("left"), b"old").unwrap();
    rig.replace(&id, &target).unwrap();
    assert_eq!(names(&target), [PAGE_FILE]);
}

/// BK5, BK8: what is missing or damaged is named, and the target is as before.
#[test]
fn a_backup_that_is_not_whole_is_refused_by_name() {
    for read_back in [ReadBack::Yes, ReadBack::No] {
        for damage in ["missing", "flipped", "cut"] {
            let rig = Rig::new();
            let id = rig.back_up("tree", &tree());
            let pack = rig.repository.manifest(&id).unwrap().packs[1].object();
            let path = rig.path("repository").join(&pack);
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "missing" => fs::remove_file(&path).unwrap(),
                "cut" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                _ => {
                    // In the middle of the frames: only reading them finds it.
                    let middle = bytes.len() / 3;
                    bytes[middle] ^= 1;
                    fs::write(&path, &bytes).unwrap();
                }
            }
            let target = rig.path("target");
            fs::create_dir(&target).unwrap();
            fs::write(target.join("old"), b"old").unwrap();
            let options = RestoreOptions {
                read_back,
                ..REPLACE
            };
            let outcome = rig.restore_with(&id, &target, options, &Control::default());
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(&pack), "{damage}: {error}");
            assert_eq!(names(&target), ["old"]);
        }
    }
}

/// BK8: what the disk gives back is compared, not what was written.
#[test]
fn a_byte_that_changed_on_the_disk_is_found_by_reading_back() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &tree());
    let manifest = rig.repository.manifest(&id).unwrap();
    let outline = Outline::of(&manifest).unwrap();
    let made = rig.path("made");
    fs::create_dir(&made).unwrap();
    let dir = crate::os::beneath::OpenDir::open(&made).unwrap();
    dress::make_directories(&dir, &outline, false).unwrap();
    let reader = BlobReader::new(&rig.repository);
    let control = Control::default();
    let writer = Writer {
        tree: &dir,
        reader: &reader,
        syncs_files: true,
        control: &control,
        made: &Made::default(),
    };
    for_each_piece(&outline, &control, &writer).unwrap();
    dress::make_links(&dir, &outline).unwrap();
    let checker = Checker {
        tree: &dir,
        reader: &reader,
    };
    let check = || {
        for_each_piece(&outline, &control, &checker)?;
        dress::compare_names(&dir, &outline)
    };
    check().unwrap();
    for (path, at) in [("zeros", 9 * UNIT), ("folder/inner/big", 1700 * UNIT + 1)] {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(made.join(path))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
        let error = check().unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
        file.write_all_at(&byte, at as u64).unwrap();
        check().unwrap();
    }
    let longer = fs::OpenOptions::new()
        .append(true)
        .open(made.join("a"))
        .unwrap();
    std::io::Write::write_all(&mut &longer, b"x").unwrap();
    assert!(check().unwrap_err().to_string().contains('a'));
    longer.set_len(20 * 4096 + 17).unwrap();
    fs::write(made.join("folder/foreign"), b"").unwrap();
    let error = check().unwrap_err().to_string();
    assert!(error.contains("folder/foreign"), "{error}");
    fs::remove_file(made.join("folder/foreign")).unwrap();
    fs::remove_file(made.join("folder/link")).unwrap();
    assert!(matches!(check(), Err(RepositoryError::Unsound { .. })));
}

#[test]
fn targets_that_cannot_be_are_refused_with_a_reason() {
    let rig = Rig::new();
    let folder = rig.back_up("tree", &tree());
    let file = rig.back_up("sqlite", &[("app.db", content(1, 3, 0))]);
    fs::create_dir(rig.path("dir")).unwrap();
    fs::write(rig.path("file"), b"x").unwrap();
    symlink("dir", rig.path("link")).unwrap();
    symlink("file", rig.path("file-link")).unwrap();
    let inner = rig.path("repository/new");
    let above = rig.place.path().to_owned();
    let refused = [
        (&folder, Path::new("/").to_owned(), "no name"),
        (&folder, rig.path("dir/.."), "no name"),
        (&folder, rig.path("none/x"), "does not exist"),
        (&folder, rig.path("link"), "symbolic link"),
        (&folder, rig.path("file"), "no folder"),
        (&folder, inner.clone(), "in the repository"),
        (&folder, above, "the repository lies in it"),
        (&folder, rig.path("repository"), "in the repository"),
        (&file, inner, "in the repository"),
        (&file, rig.path("dir"), "name a file in it"),
        (&file, rig.path("file-link"), "symbolic link"),
        (&folder, Path::new("/proc").to_owned(), "mounted"),
    ];
    let before = picture(rig.place.path());
    for (id, target, why) in refused {
        for error in [
            rig.replace(id, &target).unwrap_err(),
            plan(&rig.repository, id, &target, REPLACE, &Nobody).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, RepositoryError::Target { .. }), "{text}");
            assert!(text.contains(why), "{}: {text}", target.display());
        }
    }
    assert_eq!(picture(rig.place.path()), before);
    rig.restore(&folder, &rig.path("dir")).unwrap();
}

/// BK9: what has the name of a log of SQLite's is left out if it could be one, with its other names.
#[test]
fn files_beside_a_database_are_left_out_and_directories_are_not() {
    let rig = Rig::new();
    let whats = [
        ("app.db", content(1, 3, 0)),
        ("app.db-shm", What::HardLink("plain")),
        ("app.db-wal", What::Folder),
        ("app.db-wal/inner", content(2, 1, 0)),
        ("app.db-wal2", content(3, 1, 0)),
        ("other", What::HardLink("app.db-wal2")),
        ("plain", content(4, 1, 0)),
    ];
    let mut whats = whats.to_vec();
    // A first name stands before the others.
    whats.swap(1, 6);
    let id = rig.back_up("tree", &whats);
    let report = rig.restore(&id, &rig.path("target")).unwrap();
    assert_eq!(
        names(&rig.path("target")),
        ["app.db", "app.db-wal", "plain"]
    );
    assert_eq!(names(&rig.path("target/app.db-wal")), ["inner"]);
    for path in ["app.db-shm", "app.db-wal2", "other"] {
        let says = |note: &String| note.starts_with(&format!("{path} is left out: "));
        assert!(report.notes.iter().any(says), "{path}: {:?}", report.notes);
    }
}

/// BK8: who has the target open keeps it.
#[test]
fn a_target_that_somebody_has_open_is_refused_before_anything_is_written() {
    struct Somebody;
    impl Examine for Somebody {
        fn claim(&self, target: &Path) -> Result<Box<dyn Send>> {
            let (path, user) = (target.to_owned(), "engine 7".to_owned());
            Err(RepositoryError::TargetInUse { path, user })
        }
        fn walk(&self, _path: &Path, _facts: &DatabaseFacts) -> Result<()> {
            Ok(())
        }
    }
    let rig = Rig::new();
    let id = rig.back_up("tree", &tree());
    let target = rig.path("target");
    let control = Control::default();
    let outcome = restore(&rig.repository, &id, &target, REPLACE, &Somebody, &control);
    assert!(matches!(outcome, Err(RepositoryError::TargetInUse { .. })));
    let outcome = plan(&rig.repository, &id, &target, REPLACE, &Somebody);
    assert!(matches!(outcome, Err(RepositoryError::TargetInUse { .. })));
    assert!(rig.names().is_empty());
    assert_eq!(control.progress().phase, Phase::Failed);
}

#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &tree());
    let small = rig.path("small");
    fs::create_dir(&small).unwrap();
    let run = |program: &str, words: &[&str]| {
        let done = std::process::Command::new(program)
            .args(words)
            .arg(&small)
            .status();
        done.is_ok_and(|status| status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=8m", "none"]) {
        println!("SKIPPED: needs the right to mount");
        return;
    }
    let outcome = rig.restore(&id, &small.join("target"));
    let left = names(&small);
    assert!(run("umount", &["-l"]));
    let error = outcome.unwrap_err();
    assert!(matches!(error, RepositoryError::NoSpace { .. }), "{error}");
    assert!(left.is_empty());
}

/// BK9: what an engine would take for the log of a restored database is not made.
#[test]
fn files_that_would_be_replayed_over_a_database_are_left_out() {
    let rig = Rig::new();
    let whats = [
        ("app.db", content(1, 3, 0)),
        ("app.db-wal", content(2, 3, 0)),
        ("app.db-journal", content(2, 1, 0)),
        ("other-wal", content(3, 1, 0)),
        (".stillfs", What::Folder),
        (".stillfs/snapshot.json", content(4, 0, 5)),
    ];
    let id = rig.back_up("tree", &whats);
    let target = rig.path("target");
    let report = rig.restore(&id, &target).unwrap();
    assert_eq!(names(&target), ["app.db", "other-wal"]);
    let is_about_logs = |note: &&String| note.contains("replayed over app.db");
    let notes = report.notes.iter().filter(is_about_logs);
    assert_eq!(notes.count(), 2, "{:?}", report.notes);
}

#[test]
fn modes_that_keep_their_owner_out_are_set_in_the_end_and_replaced_again() {
    let rig = Rig::new();
    let plain = rig.back_up("tree", &tree());
    let mut manifest = rig.repository.manifest(&plain).unwrap();
    for entry in &mut manifest.entries {
        entry.mode = match entry.content {
            EntryContent::Directory => 0o500,
            _ => 0o4400,
        };
        entry.uid = 12345;
        entry.mtime_ns = -7_000_000_001;
    }
    rig.repository
        .store()
        .remove(&Manifest::object(&plain))
        .unwrap();
    let (entries, packs): (Vec<Entry>, Vec<PackId>) = (manifest.entries, manifest.packs);
    let id = rig.publish("tree", entries, packs, |_| {});
    let target = rig.path("target");
    for _ in 0..2 {
        let report = rig.replace(&id, &target).unwrap();
        let facts = |path: &str| fs::symlink_metadata(target.join(path)).unwrap();
        let is_root = crate::os::process::effective_user() == 0;
        assert_eq!(
            report.notes.len(),
            usize::from(!is_root),
            "{:?}",
            report.notes
        );
        let mode = |path: &str| facts(path).permissions().mode() & 0o7777;
        assert_eq!((mode(""), mode("folder/inner")), (0o500, 0o500));
        assert_eq!(mode("a"), if is_root { 0o4400 } else { 0o400 });
        assert_eq!(
            (facts("a").mtime(), facts("a").mtime_nsec()),
            (-8, 999_999_999)
        );
        assert_eq!(facts("").mtime(), -8);
        if is_root {
            assert!(
                ["", "a", "folder", "folder/link"]
                    .iter()
                    .all(|path| facts(path).uid() == 12345)
            );
        }
    }
    assert_eq!(rig.names(), ["target"]);
}
