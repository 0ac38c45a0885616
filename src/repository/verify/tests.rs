//! What a verification says, and of what.

use std::path::Path;

use super::*;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{OpenMode, write_all_at};
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{DatabaseFacts, Manifest};
use crate::repository::mark::Mark;
use crate::repository::restore::{RestoreOptions, restore};
use crate::repository::specimen::{Specimen, UNIT, read_back, require_whole, verified};
use crate::repository::store::Put;

fn at_depth(specimen: &Specimen, depth: Depth) -> VerifyReport {
    let options = VerifyOptions {
        backup: None,
        depth,
        restore_test: None,
    };
    verify(&specimen.repository, &options, &Control::default()).unwrap()
}

fn write_over(specimen: &Specimen, object: &str, offset: u64) {
    let path = Path::new("/r").join(object);
    let disk = &specimen.machine.host.disk;
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    write_all_at(file.as_ref(), b"\xee", offset).unwrap();
}

/// Where the content of a pack begins.
const FRAMES: u64 = 64;

fn pack(number: u8) -> String {
    format!("packs/{}", format!("{number:02x}").repeat(16))
}

/// BK10: neither names and sizes nor a sample are every byte.
#[test]
fn only_what_was_read_whole_is_called_verified() {
    let (specimen, ids) = Specimen::rich(1);
    for depth in [Depth::Structure, Depth::Sample(0.5), Depth::Sample(1.0)] {
        let report = at_depth(&specimen, depth);
        assert_eq!((report.findings.len(), report.verified.len()), (0, 0));
        let mut marks = ids.iter().map(|id| specimen.repository.mark(id).unwrap());
        assert!(marks.all(|mark| mark.verified.is_none()), "{depth:?}");
    }
    let report = at_depth(&specimen, Depth::ReadData);
    assert_eq!(report.verified, ids);
    assert_eq!((report.backup_count, report.pack_count), (3, 4));
    for id in &ids {
        let mark = specimen.repository.mark(id).unwrap();
        let verified = mark.verified.unwrap();
        let bytes: usize = specimen.backups[id].values().map(Vec::len).sum();
        assert_eq!(verified.bytes, bytes as u64);
        assert!(!verified.is_restore_tested);
    }
}

/// BK10: what is found later takes it back.
#[test]
fn later_finding_takes_back_that_a_backup_was_verified() {
    let (specimen, [first, second, third]) = Specimen::rich(1);
    require_whole(&specimen.repository, &specimen.backups);
    write_over(&specimen, &pack(3), FRAMES);
    assert_eq!(at_depth(&specimen, Depth::Structure).findings, []);
    let is_verified = |id| specimen.repository.mark(id).unwrap().verified.is_some();
    assert!(is_verified(&third));
    let report = at_depth(&specimen, Depth::Sample(1.0));
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].backups, std::slice::from_ref(&third));
    assert!(!is_verified(&third) && is_verified(&first) && is_verified(&second));
    assert!(specimen.repository.mark(&second).unwrap().is_held);
}

#[test]
fn finding_names_the_backups_and_the_files_that_it_spoils() {
    let (specimen, [first, second, _]) = Specimen::rich(1);
    write_over(&specimen, &pack(1), FRAMES);
    let report = verified(&specimen.repository);
    assert_eq!(report.findings.len(), 1);
    let finding = &report.findings[0];
    assert_eq!(finding.object, pack(1));
    assert_eq!(finding.backups, [first, second]);
    assert_eq!(finding.paths, [Path::new("a")]);
    assert!(finding.what.contains("checksum"), "{finding:?}");
}

#[test]
fn fault_that_spoils_nobody_is_told_all_the_same() {
    let (specimen, ids) = Specimen::rich(1);
    write_over(&specimen, &pack(4), FRAMES);
    let report = verified(&specimen.repository);
    assert_eq!(report.verified, ids);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].object, pack(4));
    assert!(report.findings[0].backups.is_empty());
}

#[test]
fn one_backup_is_looked_at_alone() {
    let (specimen, [first, _, third]) = Specimen::rich(1);
    write_over(&specimen, &pack(1), FRAMES);
    let one = |id| {
        let options = VerifyOptions {
            backup: Some(id),
            depth: Depth::ReadData,
            restore_test: None,
        };
        verify(&specimen.repository, &options, &Control::default())
    };
    let report = one(&third).unwrap();
    assert_eq!((report.backup_count, report.pack_count), (1, 1));
    assert_eq!(
        (report.verified, report.findings),
        (vec![third.clone()], Vec::new())
    );
    assert!(report.notes.is_empty());
    assert_eq!(one(&first).unwrap().findings.len(), 1);
    let nobody = BackupId::new(0, [0; 4]);
    let error = one(&nobody).unwrap_err();
    assert!(matches!(error, RepositoryError::NoBackup { .. }), "{error}");
}

#[test]
fn what_has_no_business_there_is_named_and_what_does_no_harm_is_noted() {
    let (specimen, ids) = Specimen::rich(1);
    let store = specimen.repository.store();
    for name in ["packs/x", "backups/latest", "marks/x", "y"] {
        store.put(name, &[b"?"], Put::New).unwrap();
    }
    let underway = Mark {
        is_underway: true,
        ..Mark::default()
    };
    let nobody = BackupId::new(0, [0; 4]);
    underway.write(store.as_ref(), &nobody).unwrap();
    let report = verified(&specimen.repository);
    let objects: Vec<_> = report.findings.iter().map(|f| f.object.as_str()).collect();
    assert_eq!(objects, ["backups/latest", "marks/x", "packs/x", "y"]);
    assert_eq!(report.verified, ids);
    let notes = report.notes.join("\n");
    assert!(notes.contains(&Mark::object(&nobody)), "{notes}");
    assert!(notes.contains("1 packs"), "{notes}");
}

/// A pack with less in it than a manifest says is the pack's fault, though all of its checksums are right.
#[test]
fn slot_that_was_emptied_though_it_is_needed_is_found() {
    use crate::repository::pack::{PackBuilder, PackDirectory, PackId, SealedFrame, Slot};
    let (specimen, [_, _, third]) = Specimen::rich(1);
    let (store, id) = (specimen.repository.store(), PackId([3; 16]));
    let directory = PackDirectory::read(store.as_ref(), specimen.repository.id(), id).unwrap();
    let mut builder = PackBuilder::new(specimen.repository.id(), id);
    let emptied = Slot {
        digest: crate::repository::digest::Digest([0; 32]),
        bytes: 0,
    };
    let compression = crate::repository::compression::Compression::None;
    builder.push(SealedFrame::seal(
        &[],
        vec![emptied; directory.slots.len()],
        compression,
    ));
    builder.finish(store.as_ref(), Put::Replace).unwrap();
    let report = at_depth(&specimen, Depth::Structure);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].object, pack(3));
    assert_eq!(report.findings[0].backups, std::slice::from_ref(&third));
    assert!(read_back(&specimen.repository, &third).is_err());
}

#[test]
fn verification_can_be_cancelled() {
    let (specimen, ids) = Specimen::rich(1);
    let control = Control::default();
    control.cancel();
    let options = VerifyOptions {
        backup: None,
        depth: Depth::ReadData,
        restore_test: None,
    };
    let error = verify(&specimen.repository, &options, &control).unwrap_err();
    assert!(matches!(error, RepositoryError::Cancelled), "{error}");
    let mark = specimen.repository.mark(&ids[0]).unwrap();
    assert_eq!(mark.verified, None);
}

/// BK10: a disk that fails once during a verification does not make a backup whole, nor go unsaid.
#[test]
fn backup_is_verified_or_spoilt_whatever_operation_fails() {
    for operation in [Operation::Open, Operation::Read] {
        let (specimen, ids) = Specimen::rich(1);
        for number in 0..70 {
            let fault = Fault::errno(operation, libc::EIO).after(number);
            specimen.machine.disk.set_faults(Faults::none().with(fault));
            let report = verified(&specimen.repository);
            specimen.machine.disk.set_faults(Faults::none());
            for id in &ids {
                let is_spoilt = report.findings.iter().any(|f| f.backups.contains(id));
                let is_verified = report.verified.contains(id);
                assert_ne!(is_spoilt, is_verified, "{operation:?} {number}: {report:?}");
            }
        }
    }
}

/// Knows of no engine; finds a file of a name unsound.
struct Words {
    unsound: &'static str,
}

impl Examine for Words {
    fn claim(&self, _: &Path) -> Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }

    fn walk(&self, path: &Path, _: &DatabaseFacts) -> Result<()> {
        assert!(crate::os::path::metadata(path).is_ok());
        let name = path.file_name().unwrap().to_str().unwrap();
        match name == self.unsound {
            true => Err(RepositoryError::Unsound {
                path: name.to_owned(),
                what: "a page is torn".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// Says of `path` in the backup that it is a database.
fn call_database(specimen: &Specimen, id: &BackupId, path: &str) {
    let mut manifest = specimen.repository.manifest(id).unwrap();
    let bytes = &specimen.backups[id][path];
    let units = bytes
        .chunks(UNIT)
        .map(crate::repository::digest::Digest::of);
    manifest.facts.databases.push(DatabaseFacts {
        path: path.to_owned(),
        kind: "sqlite".to_owned(),
        page_bytes: u32::try_from(UNIT).unwrap(),
        page_count: 6,
        database: None,
        history: None,
        lsn: None,
        timestamp: None,
        epoch: None,
        wall_ns: None,
        digest: crate::repository::digest::Digest::of_units(bytes.len() as u64, units),
    });
    let encoded = manifest.encode();
    let store = specimen.repository.store();
    store
        .put(&Manifest::object(id), &[&encoded], Put::Replace)
        .unwrap();
}

/// BK10: with a restore test it is said that it was one, and nothing stays of it.
#[test]
fn restore_test_walks_the_databases_and_leaves_nothing() {
    let (specimen, [first, second, third]) = Specimen::rich(1);
    call_database(&specimen, &first, "a");
    call_database(&specimen, &third, "c");
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("below/that");
    let options = VerifyOptions {
        backup: None,
        depth: Depth::ReadData,
        restore_test: Some(RestoreTest {
            scratch: &folder,
            examine: &Words { unsound: "c" },
        }),
    };
    let report = verify(&specimen.repository, &options, &Control::default()).unwrap();
    assert_eq!(report.verified, [first.clone(), second]);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].object, Manifest::object(&third));
    assert!(report.findings[0].what.contains("torn"), "{report:?}");
    let mark = specimen.repository.mark(&first).unwrap();
    assert!(mark.verified.unwrap().is_restore_tested);
    assert_eq!(specimen.repository.mark(&third).unwrap().verified, None);
    let left = crate::os::Host::system().disk.list(&folder).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// What verification finds, a restore that needs it refuses, and no other.
#[test]
fn restore_refuses_what_is_spoilt_and_nothing_else() {
    let (specimen, ids) = Specimen::rich(1);
    let objects = [1, 2, 3].map(pack);
    let objects = objects.into_iter().chain(ids.iter().map(Manifest::object));
    for object in objects {
        let path = Path::new("/r").join(&object);
        let disk = &specimen.machine.host.disk;
        let hidden = Path::new("/hidden");
        disk.rename(&path, hidden).unwrap();
        expect_refused(&specimen, &format!("{object} missing"));
        disk.rename(hidden, &path).unwrap();
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        let mut byte = [0];
        crate::os::read_exact_at(file.as_ref(), &mut byte, FRAMES).unwrap();
        write_all_at(file.as_ref(), &[!byte[0]], FRAMES).unwrap();
        expect_refused(&specimen, &format!("{object} damaged"));
        write_all_at(file.as_ref(), &byte, FRAMES).unwrap();
    }
    require_whole(&specimen.repository, &specimen.backups);
}

fn expect_refused(specimen: &Specimen, what: &str) {
    let report = verified(&specimen.repository);
    let examine = Words { unsound: "" };
    for (id, files) in &specimen.backups {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("t");
        let (options, control) = (RestoreOptions::default(), Control::default());
        let done = restore(
            &specimen.repository,
            id,
            &target,
            options,
            &examine,
            &control,
        );
        assert_eq!(
            done.is_ok(),
            report.verified.contains(id),
            "{what}: {id}: {done:?}"
        );
        let is_there = crate::os::path::metadata(&target).is_ok();
        assert_eq!(is_there, done.is_ok(), "{what}: {id}");
        if done.is_ok() {
            for (path, bytes) in files {
                let path = target.join(path);
                let found = crate::os::path::read_small_file(&path, 1 << 20).unwrap();
                assert!(found == *bytes, "{what}: {}", path.display());
            }
        }
    }
}
