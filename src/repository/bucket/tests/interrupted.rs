//! A repository in a bucket, whose writer ends at every request: what is listed afterwards is whole, and the
//! job can be done again.

use super::troubled::{Fate, Troubled};
use super::*;
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::compression::Compression;
use crate::repository::copy::copy;
use crate::repository::crypt::{NewKeys, Unlock};
use crate::repository::error::Result;
use crate::repository::progress::Control;
use crate::repository::prune::{Run, prune};
use crate::repository::retention::{Keep, forget};
use crate::repository::specimen::{
    Files, Specimen, UNIT, files, noise, read_back, units, verified,
};

use std::collections::BTreeMap;

/// Locks that are left to become stale are waited for.
const SHORT: Duration = Duration::from_millis(80);

fn store(objects: &Arc<Troubled>) -> BucketStore {
    store_on(&Host::system(), objects, SHORT)
}

type Contents = BTreeMap<BackupId, Files>;
type Job = fn(&Repository) -> Result<()>;

fn open(objects: &Arc<Troubled>) -> Result<Repository> {
    let host = Host::simulated(1).host;
    Repository::open_store(&host, Arc::new(store(objects)), &Unlock::none())
}

/// A repository with backups that share packs.
fn grown(objects: &Arc<Troubled>) -> Contents {
    let machine = Host::simulated(7);
    let made =
        Repository::create_store(&machine.host, Arc::new(store(objects)), &NewKeys::default());
    grow(Specimen::of(machine, made.unwrap()))
}

fn grow(mut specimen: Specimen) -> Contents {
    let old = files(&[("a", units("old", 9)), ("b", noise(1, 6 * UNIT))]);
    let mid = files(&[("a", noise(1, 6 * UNIT)), ("c", units("mid", 5))]);
    let new = files(&[("c", units("mid", 3)), ("f", noise(2, 4 * UNIT))]);
    specimen.back_up(1, &old, Compression::Lz4);
    specimen.back_up(2, &mid, Compression::None);
    specimen.back_up(3, &new, Compression::None);
    specimen.backups
}

fn forgetting(repository: &Repository) -> Result<()> {
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    forget(repository, &keep, Run::Really)?;
    prune(repository, Run::Really, &Control::default()).map(drop)
}

fn other() -> Specimen {
    Specimen::new(8, "/other")
}

/// A backup is written as a copy is: packs, a mark, a manifest.
fn copying(repository: &Repository) -> Result<()> {
    let mut source = other();
    let there = files(&[("x", [units("mid", 2), units("there", 9)].concat())]);
    source.back_up_of("/srv2", 9, &there, Compression::Lz4);
    let ids = source.repository.ids()?;
    copy(&source.repository, repository, &ids, &Control::default()).map(drop)
}

fn require_valid(objects: &Arc<Troubled>, contents: &Contents, what: &str) {
    let repository = open(objects).expect(what);
    let report = verified(&repository);
    assert_eq!(report.findings, [], "{what}");
    assert_eq!(report.verified, repository.ids().unwrap(), "{what}");
    for id in &report.verified {
        let found = read_back(&repository, id).unwrap();
        let expected = contents.get(id);
        assert!(expected.is_none_or(|files| found == *files), "{what}: {id}");
    }
}

/// BK1, BK2, OS1: the writer is gone before or after each of its requests.
#[test]
fn writer_that_ends_at_any_request_leaves_a_valid_repository() {
    let jobs: [(&str, Job); 2] = [("forget", forgetting), ("copy", copying)];
    for (name, job) in jobs {
        for fate in [Fate::DeadBefore, Fate::DeadAfter] {
            let mut number = 0;
            loop {
                let objects = Troubled::new();
                let contents = grown(&objects);
                let repository = open(&objects).unwrap();
                objects.at_change(number, fate);
                let result = job(&repository);
                drop(repository);
                let is_hit = objects.heal();
                let what = format!("{name}, {fate:?} change {number}: {result:?}");
                assert!(is_hit || result.is_ok(), "{what}");
                bury(&objects);
                require_valid(&objects, &contents, &what);
                job(&open(&objects).unwrap()).expect(&what);
                require_valid(&objects, &contents, &what);
                if !is_hit {
                    break;
                }
                number += 1;
            }
            assert!(number > 5, "{name}: {number}");
        }
    }
}

/// OS2, OS3: one answer or one request is lost, whichever: the job is done all the same.
#[test]
fn job_is_done_whichever_request_is_lost() {
    let jobs: [(&str, Job); 2] = [("forget", forgetting), ("copy", copying)];
    for (name, job) in jobs {
        for fate in [Fate::Dropped, Fate::Unanswered] {
            let mut number = 0;
            loop {
                let objects = Troubled::new();
                let contents = grown(&objects);
                let repository = open(&objects).unwrap();
                objects.at_request(number, fate);
                let what = format!("{name}, {fate:?} request {number}");
                job(&repository).expect(&what);
                drop(repository);
                let is_hit = objects.heal();
                require_valid(&objects, &contents, &what);
                if !is_hit {
                    break;
                }
                // Reads are many and alike.
                number += 1 + number / 8;
            }
            assert!(number > 20, "{name}: {number}");
        }
    }
}

/// The making of a repository is interrupted at every request, and gone on with.
#[test]
fn repository_whose_making_was_interrupted_is_finished_by_the_next() {
    let make = |objects: &Arc<Troubled>| {
        let host = Host::simulated(1).host;
        Repository::open_or_create_store(&host, Arc::new(store(objects)), &Unlock::none())
    };
    for fate in [Fate::DeadBefore, Fate::DeadAfter] {
        let mut number = 0;
        loop {
            let objects = Troubled::new();
            objects.at_request(number, fate);
            let made = make(&objects).map(|repository| repository.id());
            let is_hit = objects.heal();
            bury(&objects);
            let again = make(&objects).unwrap();
            assert!(made.is_err() || made.unwrap() == again.id());
            again.ids().unwrap();
            if !is_hit {
                break;
            }
            number += 1;
        }
        assert!(number > 4);
    }
}

/// What is in the place of a repository and is none is left alone.
#[test]
fn only_an_empty_prefix_becomes_a_repository() {
    let objects = Troubled::new();
    objects.set("hosts/earth/letter.txt", b"");
    let host = Host::simulated(1).host;
    let make = |objects| {
        Repository::open_or_create_store(&host, Arc::new(store(objects)), &Unlock::none())
    };
    let error = make(&objects).unwrap_err();
    assert!(
        matches!(error, RepositoryError::NotARepository { .. }),
        "{error}"
    );
    let error = open(&Troubled::new()).unwrap_err();
    assert!(
        matches!(error, RepositoryError::NoRepository { .. }),
        "{error}"
    );
}
