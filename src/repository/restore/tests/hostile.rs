//! Manifests that lie, and neighbours who put links in the way.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::rig::*;
use crate::os::beneath::OpenDir;
use crate::repository::manifest::{Entry, EntryContent};
use crate::repository::restore::*;

fn entry(path: &str, content: EntryContent) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        content,
    }
}

/// A manifest that no decoder lets through, as an outline takes it.
fn outlined(rig: &Rig, entries: Vec<Entry>) -> (Manifest, Result<()>) {
    let id = rig.back_up("tree", &[("a", content(1, 1, 0))]);
    let mut manifest = rig.repository.manifest(&id).unwrap();
    let file = manifest.entries[1].content.clone();
    manifest.entries.truncate(1);
    manifest
        .entries
        .extend(entries.into_iter().map(|mut entry| {
            if matches!(&entry.content, EntryContent::HardLink(first) if first.is_empty()) {
                entry.content = file.clone();
            }
            entry
        }));
    manifest.facts.digest = Manifest::digest_of(&manifest.entries);
    let outline = Outline::of(&manifest).map(|_| ());
    (manifest, outline)
}

/// Stands for a file with content.
fn file() -> EntryContent {
    EntryContent::HardLink(Vec::new())
}

#[test]
fn a_manifest_that_leads_out_is_refused_and_nothing_is_written_outside() {
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().to_str().unwrap().to_owned();
    let link = || EntryContent::Link(to.clone().into_bytes());
    let cases = [
        vec![entry("../x", file())],
        vec![entry("/x", file())],
        vec![entry("a/../../x", file())],
        vec![entry("a//x", file())],
        vec![entry("x\0y", file())],
        vec![entry("link", link()), entry("link/x", file())],
        vec![
            entry("link", link()),
            entry("link/x", EntryContent::Directory),
        ],
        vec![entry("link", link()), entry("link/x", link())],
        vec![
            entry("link", link()),
            entry("x", EntryContent::HardLink(b"link/secret".to_vec())),
        ],
        vec![entry("x", EntryContent::HardLink(b"../secret".to_vec()))],
    ];
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let before = picture(outside.path());
    for entries in cases {
        let rig = Rig::new();
        let shown = format!("{entries:?}");
        let (manifest, outline) = outlined(&rig, entries);
        let made = rig.path("made");
        fs::create_dir(&made).unwrap();
        // As if what is made last had been there from the start.
        symlink(outside.path(), made.join("link")).unwrap();
        let outcome = outline.and_then(|()| make(&rig, &manifest, &made));
        assert!(outcome.is_err(), "{shown}");
        assert_eq!(picture(outside.path()), before, "{shown}");
        // And the decoder lets none through.
        assert!(Manifest::decode("backups/x", &manifest.encode()).is_err());
    }
}

fn make(rig: &Rig, manifest: &Manifest, made: &Path) -> Result<()> {
    let outline = Outline::of(manifest)?;
    let tree = OpenDir::open(made).unwrap();
    dress::make_directories(&tree, &outline, false)?;
    let (reader, control) = (BlobReader::new(&rig.repository), Control::default());
    let writer = Writer {
        tree: &tree,
        reader: &reader,
        syncs_files: true,
        control: &control,
        made: &Made::default(),
    };
    for_each_piece(&outline, &control, &writer)?;
    dress::make_links(&tree, &outline)?;
    dress::dress(&tree, &outline, &mut Vec::new())
}

/// Content that has its digest, but not the one that the manifest says for the file.
#[test]
fn units_in_another_order_are_refused_before_anything_is_written() {
    let rig = Rig::new();
    let plain = rig.back_up("tree", &[("a", content(1, 4, 0))]);
    let mut manifest = rig.repository.manifest(&plain).unwrap();
    if let EntryContent::File(content) = &mut manifest.entries[1].content {
        let first = content.extents[0];
        assert_eq!(first.count, 4);
        let one = |slot| crate::repository::Extent {
            count: 1,
            slot,
            ..first
        };
        content.extents = vec![one(1), one(0), one(2), one(3)];
    }
    rig.repository
        .store()
        .remove(&Manifest::object(&plain))
        .unwrap();
    let id = rig.publish("tree", manifest.entries, manifest.packs, |_| {});
    for read_back in [ReadBack::Yes, ReadBack::No] {
        let options = RestoreOptions {
            read_back,
            ..REPLACE
        };
        let outcome = rig.restore_with(&id, &rig.path("target"), options, &Control::default());
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, RepositoryError::OtherContent { .. }),
            "{error}"
        );
        assert!(rig.names().is_empty());
    }
}

#[test]
fn entries_with_another_digest_than_the_facts_are_refused() {
    let rig = Rig::new();
    let plain = rig.back_up("tree", &[("a", content(1, 4, 0))]);
    let manifest = rig.repository.manifest(&plain).unwrap();
    rig.repository
        .store()
        .remove(&Manifest::object(&plain))
        .unwrap();
    let id = rig.publish("tree", manifest.entries, manifest.packs, |manifest| {
        manifest.entries[1].mode = 0o4777;
    });
    let error = rig.restore(&id, &rig.path("target")).unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(id.as_str()), "{error}");
}

/// Whoever may write beside the target may put something under the workspace's name first.
#[test]
fn a_workspace_that_is_not_ours_alone_is_refused() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &[("a", content(1, 4, 0))]);
    let (target, theirs) = (rig.path("target"), rig.path(".target.stillfs-restore"));
    let outside = tempfile::tempdir().unwrap();
    let refused = |case: &str| {
        let error = rig.restore(&id, &target).unwrap_err();
        assert!(
            matches!(error, RepositoryError::Target { .. }),
            "{case}: {error}"
        );
        assert!(names(outside.path()).is_empty(), "{case}");
        assert!(!target.exists());
    };
    symlink(outside.path(), &theirs).unwrap();
    refused("a link");
    fs::remove_file(&theirs).unwrap();
    fs::write(&theirs, b"").unwrap();
    refused("a file");
    fs::remove_file(&theirs).unwrap();
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
    refused("open to others");
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    if crate::os::process::effective_user() == 0 {
        std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
        refused("of somebody else");
        std::os::unix::fs::chown(&theirs, Some(0), None).unwrap();
    }
    // An empty one of ours is taken over.
    rig.restore(&id, &target).unwrap();
    assert_eq!(rig.names(), ["target"]);
}

/// A target that is exchanged while the restore works is not the one that was claimed.
#[test]
fn something_else_at_the_target_is_not_replaced() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &[("a", content(1, 4, 0))]);
    let (target, aside) = (rig.path("target"), rig.path("aside"));
    fs::create_dir(&target).unwrap();
    let watch = |step| {
        if step == swap::Step::Exchange {
            fs::rename(&target, &aside).unwrap();
            fs::create_dir(&target).unwrap();
            fs::write(target.join("theirs"), b"x").unwrap();
        }
        Ok(())
    };
    let error = rig.replace_watched(&id, &target, &watch).unwrap_err();
    assert!(error.to_string().contains("meanwhile"), "{error}");
    assert_eq!(names(&target), ["theirs"]);
}
