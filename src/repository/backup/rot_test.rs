//! What the repository cannot give any more is not referred to.

use std::path::Path;

use super::fixture::{Rig, Source, noise, options};
use super::*;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{OpenMode, read_exact_at, write_all_at};
use crate::repository::backup::blob_index::BlobIndex;
use crate::repository::prune::{Run, prune};
use crate::repository::retention::forget_named;
use crate::repository::specimen::{Specimen, verified};

/// Flips a byte in the first frame of the only pack.
fn flip(rig: &Rig, pack: &str) {
    let path = Path::new("/repo/packs").join(pack);
    let disk = &rig.machine.host.disk;
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    read_exact_at(&*file, &mut byte, 70).unwrap();
    write_all_at(&*file, &[!byte[0]], 70).unwrap();
}

fn records(rig: &Rig) -> Vec<String> {
    rig.repository.store().list("damaged").unwrap()
}

/// BK5: what a verification found rotten is stored again by the next backup, of whatever kind, which is
/// whole then, and the record goes with what it is about.
#[test]
fn rotten_content_is_stored_again_once_it_was_found() {
    for wanted in [Wanted::Full, Wanted::Incremental] {
        let rig = Rig::new(1);
        let bytes = noise(9, 20 * (64 << 10));
        let backup = |wanted| {
            let source = Source::new("tree").file("a", &bytes);
            rig.backup(source.subject(), &options(wanted))
                .unwrap()
                .facts
        };
        let first = backup(Wanted::Full);
        let pack = rig.repository.store().list("packs").unwrap().remove(0);
        flip(&rig, &pack);
        assert_eq!(verified(&rig.repository).findings.len(), 1);
        assert_eq!(records(&rig), [pack.as_str()]);
        let second = backup(wanted);
        let stored = second.statistics.units_new;
        assert!((1..20).contains(&stored), "{stored} units of one frame");
        let report = verified(&rig.repository);
        assert_eq!(report.verified, std::slice::from_ref(&second.id));
        assert!(rig.content(&second, "a") == bytes);
        assert_eq!(backup(wanted).statistics.units_new, 0);

        flip(&rig, &pack);
        assert_eq!(verified(&rig.repository).findings, []);
        assert!(records(&rig).is_empty());
        flip(&rig, &pack);
        verified(&rig.repository);
        let ids = rig.repository.ids().unwrap();
        assert!(ids.contains(&first.id));
        forget_named(&rig.repository, &ids, Run::Really).unwrap();
        let dry = prune(&rig.repository, Run::Dry, &Control::default()).unwrap();
        assert_eq!(records(&rig).len(), 1);
        let done = prune(&rig.repository, Run::Really, &Control::default()).unwrap();
        assert_eq!(dry, done);
        assert!(records(&rig).is_empty());
    }
}

/// A record that cannot be read says that anything may be damaged.
#[test]
fn pack_of_a_record_that_cannot_be_read_is_not_believed() {
    let rig = Rig::new(2);
    let backup = || {
        let source = Source::new("tree").file("a", b"content");
        rig.backup(source.subject(), &options(Wanted::Full))
            .unwrap()
            .facts
    };
    backup();
    let pack = rig.repository.store().list("packs").unwrap().remove(0);
    let store = rig.repository.store();
    store
        .put(
            &format!("damaged/{pack}"),
            &[b"{}"],
            crate::repository::store::Put::New,
        )
        .unwrap();
    assert_eq!(backup().statistics.units_new, 1);
    // All was read and found whole.
    assert_eq!(verified(&rig.repository).findings, []);
    assert!(records(&rig).is_empty());
}

/// BK4: a disk that cannot read one pack stops no backup; its content is stored once more.
#[test]
fn pack_that_cannot_be_read_counts_as_not_there() {
    let (specimen, _) = Specimen::rich(1);
    for operation in [Operation::Open, Operation::Read] {
        for number in 0..20 {
            let fault = Fault::kind(operation, std::io::ErrorKind::Other).after(number);
            specimen.machine.disk.set_faults(Faults::none().with(fault));
            let loaded = BlobIndex::load(&specimen.repository, &Control::default());
            specimen.machine.disk.set_faults(Faults::none());
            assert!(loaded.is_ok(), "{operation:?} {number}: {:?}", loaded.err());
        }
    }
}
