//! Ways that must not be taken.

use std::path::Path;

use super::*;
use crate::engine::LogSegmentHeader;
use crate::id::Epoch;
use crate::os::Host;
use crate::repository::catalog::Repository;
use crate::repository::log::{Draft, LogCatalog, store_draft};
use crate::repository::store::Put;

const ID: LineId = LineId {
    database: DatabaseId([1; 16]),
    history: HistoryId([2; 16]),
};

fn commit(timestamp: u64, lsn: u64) -> CommitStamp {
    CommitStamp {
        timestamp: Timestamp(timestamp),
        wall_ns: 1_000_000 * timestamp,
        lsn: Lsn(lsn),
    }
}

/// Stores a piece that is all of its segment, and ends with one commit.
fn store(repository: &Repository, (generation, epoch): (u32, u64), first: u64, last: CommitStamp) {
    let header = LogSegmentHeader {
        page_size: 4096,
        database: ID.database,
        history: ID.history,
        sequence: 1,
        start: Lsn(first),
        salt: 9,
        epoch: Epoch(epoch),
        created_ns: 1,
    };
    let draft = Draft {
        line: ID,
        fork: None,
        generation: Generation(generation),
        segment: &header.encode(),
        first: Lsn(first),
        commits: &[last],
        records: &vec![7; usize::try_from(last.lsn.0 - first).unwrap()],
    };
    store_draft(repository, &draft).unwrap();
}

/// RP2, LA9: a backup of what was given up by a machine that was put back with its memory may lie in the gap before
/// what is archived anew: its number is that of a commit of the other past, too, whether there still are pieces of
/// what was archived first or not. A later start of the database, which was not put back, goes on from it.
#[test]
fn backup_within_the_gap_of_a_machine_that_was_put_back_leads_nowhere() {
    let known = Some(Epoch(5));
    for (epoch, of_base, has_former, is_covered) in [
        (5, known, true, false),
        (5, known, false, false),
        (5, None, false, false),
        (6, known, true, true),
        (6, known, false, true),
    ] {
        let keeper = Host::simulated(1);
        let repository = Repository::open_or_create(&keeper.host, Path::new("/r")).unwrap();
        // Of an earlier incarnation, or of this one; or pruned since.
        if has_former {
            store(&repository, (1, 5), 0, commit(1, 504));
        } else {
            store(&repository, (1, 4), 0, commit(1, 504));
        }
        assert_covered(&repository, (epoch, of_base), is_covered);
        let keeper = Host::simulated(1);
        let repository = Repository::open_or_create(&keeper.host, Path::new("/r")).unwrap();
        assert_covered(&repository, (epoch, of_base), is_covered);
    }
}

/// Whether the commit after a backup in the gap is covered, which is of an incarnation `epoch`.
#[track_caller]
fn assert_covered(repository: &Repository, (epoch, of_base): (u64, Option<Epoch>), expected: bool) {
    store(repository, (2, epoch), 952, commit(3, 1400));
    let (database, history) = (ID.database, ID.history);
    let gap = format!(
        "log/{database}-{history}-{:08x}-{:016x}-{:016x}-gap",
        2, 504, 952
    );
    repository.store().put(&gap, &[], Put::New).unwrap();
    let catalog = LogCatalog::read(repository).unwrap();
    let base = Base {
        backup: BackupId::new(5, [0; 4]),
        id: ID,
        commit: commit(2, 904),
        epoch: of_base,
    };
    let chart = Chart::new(vec![base], catalog.lines(), &|_, _| None);
    chart
        .way(ReplayTarget::Timestamp(Timestamp(2)), None)
        .unwrap();
    let way = chart.way(ReplayTarget::Timestamp(Timestamp(3)), None);
    assert_eq!(way.is_ok(), expected, "{epoch} {of_base:?} {way:?}");
}

/// LA5, LA9, RP2: where a piece is damaged whose log is gone, that much is lost, and what comes after it counts.
#[test]
fn damaged_piece_takes_nothing_along_that_comes_after_it() {
    let keeper = Host::simulated(1);
    let repository = Repository::open_or_create(&keeper.host, Path::new("/r")).unwrap();
    store(&repository, (1, 5), 0, commit(1, 504));
    store(&repository, (1, 5), 504, commit(2, 952));
    store(&repository, (1, 5), 952, commit(3, 1400));
    let (database, history) = (ID.database, ID.history);
    let of_lost = format!(
        "log/{database}-{history}-{:08x}-{:016x}-{:016x}",
        1, 504, 952
    );
    let objects = repository.store();
    let mut bytes = vec![0; usize::try_from(objects.size(&of_lost).unwrap()).unwrap()];
    objects.read_at(&of_lost, 0, &mut bytes).unwrap();
    bytes[20] ^= 1;
    objects.put(&of_lost, &[&bytes], Put::Replace).unwrap();
    let gap = format!("{of_lost}-gap");
    objects.put(&gap, &[], Put::New).unwrap();
    let catalog = LogCatalog::read(&repository).unwrap();
    assert_eq!(catalog.damaged().len(), 1);
    let base = Base {
        backup: BackupId::new(5, [0; 4]),
        id: ID,
        commit: commit(2, 952),
        epoch: Some(Epoch(5)),
    };
    let chart = Chart::new(vec![base], catalog.lines(), &|_, _| None);
    let way = chart.way(ReplayTarget::Timestamp(Timestamp(3)), None);
    assert_eq!(way.unwrap().steps.len(), 1);
}
