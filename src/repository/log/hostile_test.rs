//! Pieces that lie, and small pieces that become large ones.

use crate::engine::LogSegmentHeader;
use crate::lsn::Lsn;
use crate::os::random::SeededRandom;
use crate::repository::catalog::Repository;
use crate::repository::log::check::check_piece;
use crate::repository::log::model_test::Site;
use crate::repository::log::name::LogName;
use crate::repository::log::piece::{PIECE_BYTES, read_facts};
use crate::repository::log::{LogCatalog, PieceFacts, read_piece};
use crate::repository::progress::Control;
use crate::repository::store::Put;
use crate::repository::verify::{Depth, VerifyOptions, verify};

fn object_bytes(repository: &Repository, object: &str) -> Vec<u8> {
    let store = repository.store();
    let mut bytes = vec![0; usize::try_from(store.size(object).unwrap()).unwrap()];
    store.read_at(object, 0, &mut bytes).unwrap();
    bytes
}

fn one_piece(seed: u64) -> (Site, PieceFacts) {
    let random = SeededRandom::new(seed);
    let mut site = Site::new(seed);
    site.start();
    for _ in 0..4 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();
    let catalog = LogCatalog::read(&site.repository()).unwrap();
    let facts = catalog.lines().next().unwrap().runs[0].pieces[0]
        .facts
        .clone();
    (site, facts)
}

/// LA2: whatever bit of a piece is flipped, and wherever it is cut, it is refused, and a verification names it.
#[test]
fn no_damage_to_a_piece_goes_unseen() {
    let (site, facts) = one_piece(1);
    let repository = site.repository();
    let object = facts.object();
    let (_, name) = object.split_once('/').unwrap();
    let whole = object_bytes(&repository, &object);
    check_piece(&repository, name, true).unwrap();
    let put = |bytes: &[u8]| {
        repository
            .store()
            .put(&object, &[bytes], Put::Replace)
            .unwrap()
    };
    for byte in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1 << (byte % 8);
        put(&bytes);
        assert!(check_piece(&repository, name, true).is_err(), "byte {byte}");
    }
    for length in (0..whole.len()).step_by(13) {
        put(&whole[..length]);
        assert!(
            check_piece(&repository, name, true).is_err(),
            "{length} bytes"
        );
    }
    put(&[&whole[..], b"x"].concat());
    assert!(check_piece(&repository, name, true).is_err(), "longer");
    let options = VerifyOptions {
        backup: None,
        depth: Depth::ReadData,
        restore_test: None,
    };
    let found = verify(&repository, &options, &Control::default()).unwrap();
    assert_eq!(found.findings.len(), 1, "{found:?}");
    assert_eq!(found.findings[0].object, object);
    put(&whole);
    let found = verify(&repository, &options, &Control::default()).unwrap();
    assert_eq!((found.findings.len(), found.log_piece_count), (0, 1));
}

/// A head that lies with a right checksum is believed in nothing that could harm: no LSN, no length, no time
/// that does not fit the rest.
#[test]
fn lying_heads_are_refused() {
    let (site, facts) = one_piece(2);
    let repository = site.repository();
    let object = facts.object();
    let name = LogName::parse(object.split_once('/').unwrap().1).unwrap();
    let whole = object_bytes(&repository, &object);
    let lie = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let crc = crc32fast::hash(&bytes[..692]);
        bytes[692..696].copy_from_slice(&crc.to_le_bytes());
        repository
            .store()
            .put(&object, &[&bytes], Put::Replace)
            .unwrap();
        let facts = read_facts(&repository, &name);
        facts
            .and_then(|facts| read_piece(&repository, &facts))
            .is_err()
    };
    let number = |value: u64| value.to_le_bytes();
    for (at, value) in [
        (8, &[9][..]),
        (12, &[7]),
        (16, &[1; 16]),
        (32, &[9]),
        (36, &[0; 4]),
        (40, &number(u64::MAX)),
        (48, &number(facts.end.0 + PIECE_BYTES * 2)),
        (48, &number(facts.first.0)),
        (56, &number(u64::MAX)),
        (56, &number(1)),
        (64, &number(facts.first_commit.unwrap().timestamp.0 + 1)),
        (80, &number(facts.first.0)),
        (104, &number(facts.end.0 + 8)),
        (144, &[0; 32]),
        (176, &[0; 8]),
    ] {
        assert!(lie(at, value), "offset {at}: {value:?}");
    }
    assert!(!lie(136, &number(5)), "any time of storing will do");
}

/// Many small pieces of one segment become one, and none is lost when the archiver dies between the two.
#[test]
fn small_pieces_become_one() {
    let random = SeededRandom::new(3);
    let mut site = Site::new(3);
    site.start();
    let count = |site: &Site| site.repository().store().list("log").unwrap().len();
    let mut most = 0;
    for _ in 0..60 {
        assert!(site.commit(&random));
        site.step().unwrap().unwrap();
        most = most.max(count(&site));
    }
    assert!((8..=16).contains(&most), "{most}");
    site.engine.as_ref().unwrap().checkpoint().unwrap();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    assert_eq!(count(&site), 2, "the sealed segment, and the open one");
    assert_eq!(site.expect_true(), 61);

    // One that was merged and not removed.
    let repository = site.repository();
    let catalog = LogCatalog::read(&repository).unwrap();
    let facts = catalog.lines().next().unwrap().runs[0].pieces[0]
        .facts
        .clone();
    let piece = read_piece(&repository, &facts).unwrap();
    let header = LogSegmentHeader::decode(&piece.segment).unwrap().unwrap();
    let end = usize::try_from(site.truth[2].lsn.0 - facts.first.0).unwrap();
    let (length, commits) =
        crate::engine::whole_log_records(&header, facts.first, &piece.records[..end], usize::MAX);
    let commits: Vec<_> = commits.iter().map(super::CommitStamp::of).collect();
    let draft = super::piece::Draft {
        line: facts.line,
        fork: None,
        generation: facts.generation,
        segment: &piece.segment,
        first: Lsn(facts.first.0),
        commits: &commits,
        records: &piece.records[..length],
    };
    super::piece::store_draft(&repository, &draft).unwrap();
    assert_eq!((count(&site), site.expect_true()), (3, 61));
    site.archiver = None;
    site.step().unwrap().unwrap();
    assert_eq!((count(&site), site.expect_true()), (2, 61));
}
