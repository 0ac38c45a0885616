//! Forget, prune and copy, interrupted at every operation: what is listed afterwards is whole, and the job
//! can be done again.

use std::collections::BTreeMap;

use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Disk, SimulatedHost};
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::compression::Compression;
use crate::repository::copy::copy;
use crate::repository::error::Result;
use crate::repository::mark::Mark;
use crate::repository::progress::Control;
use crate::repository::prune::{Run, prune};
use crate::repository::retention::{Keep, forget};
use crate::repository::specimen::{
    Files, Specimen, UNIT, files, noise, read_back, units, verified,
};

/// A job on a repository, and the repository before it.
struct Scene {
    specimen: Specimen,
    /// What is copied from; the same machine, so that one crash is of both.
    source: Option<Specimen>,
    job: fn(&Scene, &Repository) -> Result<()>,
}

impl Scene {
    fn machine(&self) -> &SimulatedHost {
        &self.specimen.machine
    }

    /// All that any backup may have, whether it is there or not.
    fn contents(&self) -> BTreeMap<BackupId, Files> {
        let mut all = self.specimen.backups.clone();
        let source = self.source.as_ref();
        all.extend(
            source
                .map(|source| source.backups.clone())
                .unwrap_or_default(),
        );
        all
    }

    fn run(&self, repository: &Repository) -> Result<()> {
        (self.job)(self, repository)
    }

    /// Requires that every backup that is listed is whole, and that no manifest is missed.
    fn require_valid(&self, repository: &Repository, what: &str) {
        let report = verified(repository);
        assert_eq!(report.findings, [], "{what}");
        assert_eq!(report.verified, repository.ids().unwrap(), "{what}");
        let contents = self.contents();
        for id in &report.verified {
            let found = read_back(repository, id).unwrap();
            assert!(found == contents[id], "{what}: {id}");
        }
    }
}

/// Old backups that share packs with new ones in every way.
fn grown() -> Specimen {
    let mut specimen = Specimen::new(7, "/r");
    let old = files(&[("a", units("old", 9)), ("b", noise(1, 6 * UNIT))]);
    let mid = files(&[("a", noise(1, 6 * UNIT)), ("c", units("mid", 5))]);
    let new = files(&[("c", units("mid", 3)), ("f", noise(2, 4 * UNIT))]);
    specimen.back_up(1, &old, Compression::Lz4);
    let held = specimen.back_up(2, &mid, Compression::Zstd(3));
    specimen.back_up(3, &files(&[("e", noise(5, 3 * UNIT))]), Compression::None);
    specimen.back_up(4, &new, Compression::None);
    let hold = &mut |mark: &mut Mark| mark.is_held = true;
    specimen.repository.set_mark(&held, hold).unwrap();
    specimen
}

fn keep_last(repository: &Repository) -> Result<()> {
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    forget(repository, &keep, Run::Really).map(drop)
}

fn forgetting() -> Scene {
    Scene {
        specimen: grown(),
        source: None,
        job: |_, repository| keep_last(repository),
    }
}

fn pruning() -> Scene {
    let specimen = grown();
    keep_last(&specimen.repository).unwrap();
    Scene {
        specimen,
        source: None,
        job: |_, repository| prune(repository, Run::Really, &Control::default()).map(drop),
    }
}

fn copying() -> Scene {
    let source = grown();
    let mut specimen = Specimen::on(source.machine.clone(), "/s");
    let there = files(&[("x", [units("mid", 2), units("there", 2)].concat())]);
    specimen.back_up_of("/other", 9, &there, Compression::Lz4);
    Scene {
        specimen,
        source: Some(source),
        job: |scene, repository| {
            let source = scene.source.as_ref().unwrap();
            let place = source.repository.store().place();
            let source = Repository::open(repository.host(), place.as_ref())?;
            let ids = source.ids()?;
            copy(&source, repository, &ids, &Control::default()).map(drop)
        },
    }
}

/// A job by name, and what makes its scene.
type NamedScene = (&'static str, fn() -> Scene);

const SCENES: [NamedScene; 3] = [
    ("forget", forgetting),
    ("prune", pruning),
    ("copy", copying),
];

/// BK1, BK2: what power takes away leaves every backup that is listed whole.
#[test]
fn power_cut_at_every_change_leaves_a_valid_repository() {
    for (name, scene) in SCENES {
        let mut number = 0;
        loop {
            let scene = scene();
            let faults = Faults::power_off_before_change(number);
            let disk = &scene.machine().disk;
            disk.set_faults(faults);
            let result = scene.run(&scene.specimen.repository);
            let is_done = disk.list("/".as_ref()).is_ok();
            for seed in 0..3 {
                let seed = number * 10 + seed;
                let what = format!("{name}, change {number}, seed {seed}: {result:?}");
                let repository = scene.specimen.crash(seed);
                scene.require_valid(&repository, &what);
                scene.run(&repository).expect(&what);
                scene.require_valid(&repository, &what);
            }
            if is_done {
                break;
            }
            number += 1;
        }
        assert!(number > 10, "{name}: {number}");
    }
}

/// A killed writer's names are seen and yet not durable: whoever comes next must not build on them.
#[test]
fn power_cut_after_a_killed_forget_and_a_prune_leaves_a_valid_repository() {
    for cut in 0..6 {
        let mut number = 0;
        loop {
            let scene = forgetting();
            let faults = Faults::kill_before_change(number);
            scene.machine().disk.set_faults(faults);
            let is_done = scene.run(&scene.specimen.repository).is_ok();
            let machine = scene.machine().process_crash();
            let repository = Repository::open(&machine.host, "/r".as_ref()).unwrap();
            let faults = Faults::power_off_before_change(cut);
            machine.disk.set_faults(faults);
            // Where it stops makes no difference.
            drop(prune(&repository, Run::Really, &Control::default()));
            for seed in 0..20 {
                let seed = cut * 10_000 + number * 100 + seed;
                let what = format!("cut {cut}, change {number}, seed {seed}");
                let machine = machine.crash(seed);
                let repository = Repository::open(&machine.host, "/r".as_ref()).unwrap();
                scene.require_valid(&repository, &what);
            }
            if is_done {
                break;
            }
            number += 1;
        }
    }
}

/// BK2: nor does an error of the disk, whatever was tried.
#[test]
fn error_of_every_operation_leaves_a_valid_repository() {
    let operations = [
        Operation::Open,
        Operation::Read,
        Operation::Write,
        Operation::SyncData,
        Operation::SyncDir,
        Operation::Rename,
        Operation::Remove,
        Operation::List,
    ];
    let faults = operations.iter().map(|operation| (*operation, libc::EIO));
    let faults = faults.chain([
        (Operation::Write, libc::ENOSPC),
        (Operation::Open, libc::ENOSPC),
    ]);
    for (operation, code) in faults {
        for (name, scene) in SCENES {
            let mut number = 0;
            loop {
                let scene = scene();
                let disk = &scene.machine().disk;
                let before = disk.count(operation);
                disk.set_faults(Faults::none().with(Fault::errno(operation, code).after(number)));
                let result = scene.run(&scene.specimen.repository);
                let count = disk.count(operation) - before;
                disk.set_faults(Faults::none());
                let what = format!("{name}, {operation:?} {number} fails with {code}: {result:?}");
                let place = scene.specimen.repository.store().place();
                let host = &scene.machine().host;
                let repository = Repository::open(host, place.as_ref()).unwrap();
                scene.require_valid(&repository, &what);
                scene.run(&repository).expect(&what);
                scene.require_valid(&repository, &what);
                scene.require_valid(&scene.specimen.crash(number), &what);
                if number >= count {
                    break;
                }
                // Reads and opens are many and alike.
                number += match operation {
                    Operation::Read | Operation::Open | Operation::List => 1 + number / 8,
                    _ => 1,
                };
            }
        }
    }
}
