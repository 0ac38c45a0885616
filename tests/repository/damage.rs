//! What is said of a backup of which a byte has changed in the repository.

use std::path::Path;

use stillfs::os::{Disk, OpenMode, read_exact_at, write_all_at};
use stillfs::repository::backup::{BackupOptions, backup};
use stillfs::repository::restore::{RestoreOptions, restore};
use stillfs::repository::{Control, Depth, RestoreTest, VerifyOptions, verify};

use crate::application::Application;
use crate::depot::{Catalog, Depot};
use crate::draw::Draw;
use crate::plan::Config;
use crate::yard::{Alone, scratch};

/// Flips a bit of the byte at a share of `path`.
fn flip(depot: &Depot, path: &Path) {
    let disk = &depot.machine.disk;
    let file = disk.open(path, OpenMode::ReadWrite).expect("a file");
    let at = file.len().expect("a size") / 3;
    let mut byte = [0];
    read_exact_at(&*file, &mut byte, at).expect("a byte");
    write_all_at(&*file, &[byte[0] ^ 4], at).expect("a write");
}

/// A verification that reads says what is wrong and marks nothing; one that does not read marks
/// nothing either; a restore refuses, and its target does not come to be.
pub(crate) fn flipped_byte(seed: u64) {
    let draw = Draw::new(seed);
    let application = Application::new(seed, Config::draw(&draw));
    application.write(&draw, 100);
    let depot = Depot::on(application.another_machine(seed), Catalog::new());
    let repository = &depot.repository;
    let options = BackupOptions::default();
    let report = backup(
        repository,
        application.subject(),
        &options,
        &Control::default(),
    );
    let id = report.expect("a backup").facts.id;
    let scratch = scratch();
    let look = |depth, is_tested: bool| {
        let restore_test = is_tested.then_some(RestoreTest {
            scratch: scratch.path(),
            examine: &Alone,
        });
        let options = VerifyOptions {
            backup: None,
            depth,
            restore_test,
        };
        verify(repository, &options, &Control::default()).expect("a verification")
    };
    let marked = || repository.mark(&id).expect("a mark").verified;

    // Every bit of a pack is content or says where content is; the middle is content.
    let packs = depot.machine.disk.list(&Depot::dir().join("packs"));
    let packs = packs.expect("a list");
    assert_eq!(packs.len(), 1, "a small database is one pack");
    let pack = Depot::dir().join("packs").join(&packs[0]);
    flip(&depot, &pack);
    let structure = look(Depth::Structure, false);
    assert_eq!(
        (&structure.findings[..], &structure.verified[..]),
        (&[][..], &[][..])
    );
    assert_eq!(marked(), None, "nothing was read");
    let whole = look(Depth::ReadData, false);
    assert_eq!(whole.verified, []);
    assert_eq!(whole.findings.len(), 1, "{:?}", whole.findings);
    let finding = &whole.findings[0];
    assert!(pack.ends_with(&finding.object), "{finding:?}");
    assert_eq!(finding.backups, std::slice::from_ref(&id));
    assert_eq!(marked(), None, "it is damaged");

    let target = scratch.path().join("target");
    let options = RestoreOptions::default();
    let control = Control::default();
    let refused = restore(repository, &id, &target, options, &Alone, &control);
    refused.expect_err("a restore of what is damaged");
    let is_there = stillfs::os::path::symlink_metadata(&target).is_ok();
    assert!(!is_there, "the target of a restore that failed");

    flip(&depot, &pack);
    assert_eq!(look(Depth::ReadData, true).findings, []);
    let mark = marked().expect("it was read and is whole");
    assert!(mark.is_restore_tested);
    let report = restore(repository, &id, &target, options, &Alone, &control);
    report.expect("a restore");
}
