//! BK6: which pages an incremental backup reads, and that it gets the same as a full one.

use std::sync::Arc;

use super::fixture::{Knows, Model, PAGE_BYTES, Pages, Rig, Source, file_of, noise, options};
use super::*;
use crate::repository::manifest::{BackupKind, Statistics};
use crate::repository::store::Put;
use crate::view::tree::Content;

fn back_up(rig: &Rig, pages: &Arc<Pages>, wanted: Wanted) -> BackupFacts {
    let subject = Source::native(pages).subject();
    rig.backup(subject, &options(wanted)).unwrap().facts
}

/// The units that a backup read and those that were new.
fn cost(statistics: Statistics) -> (u64, u64) {
    (statistics.units_read, statistics.units_new)
}

/// BK6: with the changes known, nothing else is read, and the backup is complete all the same (BK5).
#[test]
fn only_what_changed_is_read() {
    let rig = Rig::new(1);
    let mut model = Model::new(1000);
    back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    model.commit([7, 8, 500]);
    model.commit([8, 999, 1000, 1001]);
    let view = model.view(Knows::Changes);
    let facts = back_up(&rig, &view, Wanted::Auto);
    assert_eq!(facts.kind, BackupKind::Incremental);
    assert_eq!(view.read_pages(), [0, 1, 7, 8, 500, 999, 1000, 1001]);
    assert_eq!(cost(facts.statistics), (8, 8));
    assert_eq!(facts.statistics.bytes_read, 8 * PAGE_BYTES as u64);
    assert_eq!(facts.statistics.units, 1002);
    assert!(rig.content(&facts, "data.pages") == model.bytes());
    let full = back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    assert_eq!(cost(full.statistics), (1002, 0));
    assert_eq!(full.digest, facts.digest);
}

/// BK6: a differential one is compared with the full one, whatever came between.
#[test]
fn a_differential_backup_reads_what_changed_since_the_full_one() {
    let rig = Rig::new(2);
    let mut model = Model::new(100);
    back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    model.commit([5]);
    back_up(&rig, &model.view(Knows::Changes), Wanted::Incremental);
    model.commit([6]);
    let view = model.view(Knows::Changes);
    let facts = back_up(&rig, &view, Wanted::Differential);
    assert_eq!(view.read_pages(), [0, 1, 5, 6]);
    // Page 5 is there from the incremental one.
    assert_eq!(cost(facts.statistics), (4, 3));
    assert!(rig.content(&facts, "data.pages") == model.bytes());
}

/// Nothing changed: nothing is read, and it is a whole backup all the same.
#[test]
fn the_same_commit_costs_nothing() {
    let rig = Rig::new(3);
    let model = Model::new(100);
    back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    let packs = rig.packs();
    for knows in [Knows::Changes, Knows::Nothing] {
        let view = model.view(knows);
        let facts = back_up(&rig, &view, Wanted::Incremental);
        assert!(view.read_pages().is_empty());
        assert_eq!(cost(facts.statistics), (0, 0));
        assert_eq!(rig.packs(), packs);
        assert!(rig.content(&facts, "data.pages") == model.bytes());
    }
}

/// BK6: where nobody knows the changes, the page's own LSN tells; every page is read.
#[test]
fn page_lsns_tell_what_changed_where_nobody_knows() {
    let rig = Rig::new(4);
    let mut model = Model::new(300);
    back_up(&rig, &model.view(Knows::Nothing), Wanted::Full);
    model.commit([20, 21, 300]);
    let view = model.view(Knows::Nothing);
    let facts = back_up(&rig, &view, Wanted::Incremental);
    assert_eq!(view.read_pages().len(), 301);
    assert_eq!(cost(facts.statistics), (301, 5));
    assert!(rig.content(&facts, "data.pages") == model.bytes());
}

/// BK6: a past was put back, by hand or with its machine, and went on: the commit of the parent is not of
/// this line although its number, its history and its LSN say so. Page 5 changed in the lost past, page 6
/// in both, with LSNs up to the parent's.
#[test]
fn commits_of_a_past_that_was_put_back_are_not_built_on() {
    for knows in [Knows::Changes, Knows::Nothing] {
        let rig = Rig::new(6);
        let mut model = Model::new(50);
        let mut lost = Model::new(50);
        lost.commit([5, 6]);
        let before = back_up(&rig, &lost.view(Knows::Changes), Wanted::Full);
        assert_eq!(
            before.databases[0].epoch.as_deref(),
            Some("0000000000000009")
        );
        model.epoch = crate::id::Epoch(10);
        model.commit([6]);
        assert_eq!(model.lsn, lost.lsn);
        let same_number = back_up(&rig, &model.view(knows), Wanted::Incremental);
        assert!(rig.content(&same_number, "data.pages") == model.bytes());
        let before = back_up(&rig, &lost.view(Knows::Changes), Wanted::Full);
        model.commit([8]);
        let view = model.view(knows);
        let facts = back_up(&rig, &view, Wanted::Incremental);
        assert_eq!(facts.parent, Some(before.id));
        assert_eq!(view.read_pages().len(), 50, "every page is looked at");
        assert!(rig.content(&facts, "data.pages") == model.bytes());
    }
}

/// BK6: a machine that was put back with its memory goes on as the same incarnation; its commits at the LSNs of
/// the lost past are other ones. And where nobody can say what was there, nothing is taken over either.
#[test]
fn commits_of_a_machine_that_was_put_back_are_not_built_on() {
    for knows in [Knows::Changes, Knows::Nothing] {
        for is_forgotten in [false, true] {
            let rig = Rig::new(11);
            let (mut model, mut lost) = (Model::new(50), Model::new(50));
            lost.commit([5, 6]);
            let before = back_up(&rig, &lost.view(Knows::Changes), Wanted::Full);
            model.wall_ns += 500;
            model.commit([6]);
            assert_eq!((model.lsn, model.epoch), (lost.lsn, lost.epoch));
            let view = |model: &Model| {
                let mut view = Arc::into_inner(model.view(knows)).unwrap();
                view.walls
                    .retain(|(lsn, _)| !is_forgotten || *lsn == model.lsn);
                Arc::new(view)
            };
            for _ in 0..2 {
                let facts = back_up(&rig, &view(&model), Wanted::Differential);
                assert_eq!(facts.full, before.id);
                assert!(rig.content(&facts, "data.pages") == model.bytes());
                model.commit([8]);
            }
        }
    }
}

/// A page whose LSN is old but whose bytes are not those of the parent would be taken over: so the
/// headers, whose LSN says nothing, are compared by their content.
#[test]
fn headers_are_never_taken_over_by_their_lsn() {
    let rig = Rig::new(5);
    let mut model = Model::new(10);
    back_up(&rig, &model.view(Knows::Nothing), Wanted::Full);
    model.commit([3]);
    let mut view = Arc::into_inner(model.view(Knows::Nothing)).unwrap();
    for page in 0..2 {
        let header = &mut view.bytes[page * PAGE_BYTES..][..PAGE_BYTES];
        crate::page::seal(header, crate::lsn::Lsn(1));
    }
    let expected = view.bytes.clone();
    let facts = back_up(&rig, &Arc::new(view), Wanted::Incremental);
    assert!(rig.content(&facts, "data.pages") == expected);
}

/// The control of this file: a source that leaves out a page that changed gives a wrong backup, and
/// these tests see it.
#[test]
fn a_lie_about_what_changed_would_be_noticed() {
    let rig = Rig::new(6);
    let mut model = Model::new(50);
    back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    model.commit([20, 21]);
    let facts = back_up(
        &rig,
        &model.view(Knows::ChangesBut(21)),
        Wanted::Incremental,
    );
    assert!(rig.content(&facts, "data.pages") != model.bytes());
    let full = back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    assert_ne!(full.digest, facts.digest);
}

/// A file that was cut and has grown again has nothing of the parent beyond the cut but what is read.
#[test]
fn a_file_that_was_cut_is_whole() {
    let rig = Rig::new(7);
    for knows in [Knows::Changes, Knows::Nothing] {
        let mut model = Model::new(80);
        back_up(&rig, &model.view(knows), Wanted::Full);
        model.cut(40);
        let facts = back_up(&rig, &model.view(knows), Wanted::Incremental);
        assert!(rig.content(&facts, "data.pages") == model.bytes());
        model.commit(40..60);
        let facts = back_up(&rig, &model.view(knows), Wanted::Incremental);
        assert!(rig.content(&facts, "data.pages") == model.bytes());
    }
}

/// BK1, BK5: what the parent names and the repository has lost is read and stored again.
#[test]
fn what_the_repository_lost_is_stored_again() {
    let rig = Rig::new(8);
    let mut model = Model::new(100);
    let full = back_up(&rig, &model.view(Knows::Changes), Wanted::Full);
    model.commit([50]);
    let store = rig.repository.store();
    let lost = rig.manifest(&full).packs;
    store.remove(&lost[0].object()).unwrap();
    let facts = back_up(&rig, &model.view(Knows::Changes), Wanted::Incremental);
    assert_eq!(facts.kind, BackupKind::Incremental);
    assert!(rig.content(&facts, "data.pages") == model.bytes());
    assert_eq!(cost(facts.statistics), (100, 100));
    // A directory that cannot be trusted is as good as none.
    let pack = rig.manifest(&facts).packs[0];
    store
        .put(&pack.object(), &[b"damaged"], Put::Replace)
        .unwrap();
    let facts = back_up(&rig, &model.view(Knows::Changes), Wanted::Incremental);
    assert!(rig.content(&facts, "data.pages") == model.bytes());
}

/// Pages without LSNs are known by their digests, and what is unchanged stays one long extent.
#[test]
fn other_pages_are_compared_by_their_digests() {
    let rig = Rig::new(9);
    let mut bytes = noise(1, 400 * 1024);
    let back_up = |bytes: &[u8]| {
        let pages = Arc::new(Pages::of(bytes.to_vec(), Some(1024)));
        let source = Source::new("sqlite").with("a.db", Content::Paged(pages));
        rig.backup(source.subject(), &options(Wanted::Auto))
            .unwrap()
            .facts
    };
    let first = back_up(&bytes);
    let extents = |facts| file_of(&rig.manifest(facts), "a.db").extents.len();
    assert!(extents(&first) <= 2, "{}", extents(&first));
    bytes[100 * 1024] ^= 1;
    bytes.extend(noise(2, 1024));
    let second = back_up(&bytes);
    assert_eq!(cost(second.statistics), (401, 2));
    assert!(rig.content(&second, "a.db") == bytes);
    assert!(extents(&second) <= extents(&first) + 3);
}

/// A unit of the parent is compared only if it has the same size.
#[test]
fn another_page_size_is_compared_with_nothing() {
    let rig = Rig::new(10);
    let bytes = noise(1, 64 * 1024);
    for page_bytes in [Some(1024), Some(4096), None] {
        let pages = Arc::new(Pages::of(bytes.clone(), page_bytes));
        let source = Source::new("sqlite").with("a.db", Content::Paged(pages));
        let report = rig
            .backup(source.subject(), &options(Wanted::Auto))
            .unwrap();
        assert!(rig.content(&report.facts, "a.db") == bytes);
    }
}
