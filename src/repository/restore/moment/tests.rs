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
/// what is archived anew: its number is that of a commit of the other past, too. A later start of the database,
/// which was not put back, goes on from it.
#[test]
fn backup_within_the_gap_of_a_machine_that_was_put_back_leads_nowhere() {
    for (epoch, is_covered) in [(5, false), (6, true)] {
        let keeper = Host::simulated(1);
        let repository = Repository::open_or_create(&keeper.host, Path::new("/r")).unwrap();
        store(&repository, (1, 5), 0, commit(1, 504));
        store(&repository, (2, epoch), 952, commit(3, 1400));
        let (database, history) = (ID.database, ID.history);
        let gap = format!(
            "log/{database}-{history}-{:08x}-{:016x}-{:016x}-gap",
            2, 504, 952
        );
        repository.store().put(&gap, &[], Put::New).unwrap();
        let catalog = LogCatalog::read(&repository).unwrap();
        let base = Base {
            backup: BackupId::new(5, [0; 4]),
            id: ID,
            commit: commit(2, 904),
        };
        let chart = Chart::new(vec![base], catalog.lines(), &|_, _| None);
        chart
            .way(ReplayTarget::Timestamp(Timestamp(2)), None)
            .unwrap();
        let way = chart.way(ReplayTarget::Timestamp(Timestamp(3)), None);
        assert_eq!(way.is_ok(), is_covered, "{way:?}");
    }
}
