//! Every file of a repository, damaged in every way, one at a time: found, named, and refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::os::random::SeededRandom;
use crate::os::{Disk, OpenMode, read_exact_at, write_all_at};
use crate::repository::error::RepositoryError;
use crate::repository::manifest::Manifest;
use crate::repository::specimen::{Specimen, read_back, require_whole, verified};

/// The object files of a repository on a simulated disk, and a way to change them under its feet.
struct Objects {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl Objects {
    fn of(specimen: &Specimen) -> Self {
        Self {
            disk: Arc::clone(&specimen.machine.host.disk),
            root: PathBuf::from(specimen.repository.store().place()),
        }
    }

    /// All names, as `packs/00ff...`.
    fn names(&self) -> Vec<String> {
        let mut names = vec!["LOCK".to_owned(), "repository.json".to_owned()];
        for folder in ["backups", "marks", "packs"] {
            let below = self.disk.list(&self.root.join(folder)).unwrap();
            let below = below.iter().map(|name| name.to_str().unwrap());
            names.extend(below.map(|name| format!("{folder}/{name}")));
        }
        names
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let file = self.open(name, OpenMode::Read);
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        read_exact_at(file.as_ref(), &mut bytes, 0).unwrap();
        bytes
    }

    /// Gives the object these bytes, or takes it away.
    fn set(&self, name: &str, bytes: Option<&[u8]>) {
        let path = self.root.join(name);
        match (bytes, self.disk.open(&path, OpenMode::ReadWrite)) {
            (None, Ok(_)) => self.disk.remove(&path).unwrap(),
            (None, Err(_)) => {}
            (Some(bytes), Ok(file)) => {
                file.set_len(0).unwrap();
                write_all_at(file.as_ref(), bytes, 0).unwrap();
            }
            (Some(bytes), Err(_)) => {
                let file = self.disk.open(&path, OpenMode::CreateNew).unwrap();
                write_all_at(file.as_ref(), bytes, 0).unwrap();
            }
        }
    }

    fn open(&self, name: &str, mode: OpenMode) -> Arc<dyn crate::os::File> {
        self.disk.open(&self.root.join(name), mode).unwrap()
    }
}

/// Bytes at either end of a file that are all flipped; between, one in [`STRIDE`].
const ENDS: usize = 64;
const STRIDE: usize = 5;

/// What `bytes` may become, and what was done to them; `None` if the file goes.
fn damages(bytes: &[u8], siblings: &[Vec<u8>], seed: u64) -> Vec<(String, Option<Vec<u8>>)> {
    let random = SeededRandom::new(seed);
    let mut damages = vec![("removed".to_owned(), None)];
    for at in 0..bytes.len() {
        let is_end = at < ENDS || at + ENDS >= bytes.len();
        if is_end || at % STRIDE == 0 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << random.below(8);
            damages.push((format!("flipped at {at}"), Some(flipped)));
        }
    }
    let size = bytes.len();
    let lengths = [
        0,
        1,
        size / 3,
        size / 2,
        size.saturating_sub(32),
        size.saturating_sub(1),
    ];
    for length in lengths.into_iter().filter(|length| *length < size) {
        damages.push((format!("cut at {length}"), Some(bytes[..length].to_vec())));
    }
    for tail in [&b"\0"[..], b"more", bytes]
        .into_iter()
        .filter(|tail| !tail.is_empty())
    {
        let what = format!("{} bytes appended", tail.len());
        damages.push((what, Some([bytes, tail].concat())));
    }
    damages.push(("of zeros".to_owned(), Some(vec![0; size])));
    let others = siblings.iter().filter(|sibling| *sibling != bytes);
    damages
        .extend(others.map(|sibling| ("replaced by a sibling".to_owned(), Some(sibling.clone()))));
    damages
}

/// Objects in whose place nothing has to be found: what LOCK has in it says nothing.
fn is_silent(name: &str) -> bool {
    name == "LOCK"
}

#[test]
fn damage_of_any_file_is_found_and_named_and_spoils_only_whom_it_must() {
    let (specimen, _) = Specimen::rich(1);
    require_whole(&specimen.repository, &specimen.backups);
    let objects = Objects::of(&specimen);
    let names = objects.names();
    let mut count = 0;
    for name in &names {
        let bytes = objects.read(name);
        let folder = Path::new(name).parent();
        let siblings = names
            .iter()
            .filter(|other| Path::new(other).parent() == folder);
        let siblings: Vec<_> = match name.contains('/') {
            true => siblings.map(|other| objects.read(other)).collect(),
            false => Vec::new(),
        };
        for (what, damaged) in damages(&bytes, &siblings, count) {
            objects.set(name, damaged.as_deref());
            expect_found(
                &specimen,
                name,
                &format!("{name}: {what}"),
                damaged.is_none(),
            );
            objects.set(name, Some(&bytes));
            count += 1;
        }
    }
    assert!(count > 1000, "{count}");
    require_whole(&specimen.repository, &specimen.backups);
}

fn expect_found(specimen: &Specimen, name: &str, what: &str, is_removed: bool) {
    let repository = &specimen.repository;
    let report = verified(repository);
    let spoilt: BTreeSet<_> = report.findings.iter().flat_map(|f| &f.backups).collect();
    let is_needless = !specimen.backups.keys().any(|id| {
        let manifest = repository.manifest(id);
        let packs = manifest.map(|manifest| manifest.packs).unwrap_or_default();
        packs.iter().any(|pack| pack.object() == name)
    });
    if is_silent(name) || (is_removed && name.starts_with("packs/") && is_needless) {
        assert_eq!(report.findings, [], "{what}");
    } else {
        let is_named = report.findings.iter().any(|finding| finding.object == name);
        assert!(is_named, "{what}: {:?}", report.findings);
        let others = report
            .findings
            .iter()
            .filter(|finding| finding.object != name);
        assert_eq!(others.count(), 0, "{what}: {:?}", report.findings);
    }
    for (id, files) in &specimen.backups {
        if is_removed && name == Manifest::object(id) {
            assert!(!report.verified.contains(id));
            continue;
        }
        let is_verified = report.verified.contains(id);
        assert_eq!(is_verified, !spoilt.contains(id), "{what}: {id}");
        let is_content = name.starts_with("packs/") || name.starts_with("backups/");
        match read_back(repository, id) {
            Ok(found) => {
                assert!(found == *files, "{what}: {id} has other content");
                assert!(is_verified || !is_content, "{what}: {id} is not spoilt");
            }
            Err(error) => assert!(!is_verified && is_content, "{what}: {id}: {error}"),
        }
        if !is_verified && !name.starts_with("marks/") {
            let mark = repository.mark(id).unwrap();
            assert_eq!(mark.verified, None, "{what}: {id}");
        }
    }
    if name == "repository.json" {
        let error = Repository::open(&specimen.machine.host, Path::new("/r")).unwrap_err();
        let is_told = match error {
            RepositoryError::NotARepository { .. } => is_removed,
            error => error.to_string().contains(name),
        };
        assert!(is_told, "{what}");
    }
}
