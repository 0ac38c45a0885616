//! The steps of a set, with members that only count.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;

/// What happened to the members, in order: the step and the inode.
type Log = Arc<Mutex<Vec<(&'static str, u64)>>>;

#[derive(Debug)]
struct Member {
    inode: u64,
    log: Log,
    /// How often it refuses to stop its writers.
    busy: u32,
    is_unpinnable: bool,
}

impl Steps for Member {
    fn pins_by_copy(&self) -> bool {
        false
    }

    fn catch_up(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn stop_writers(&mut self) -> Result<(), SourceError> {
        if self.busy > 0 {
            self.busy -= 1;
            self.log.lock().push(("busy", self.inode));
            return Err(refused(self.inode));
        }
        self.log.lock().push(("stop", self.inode));
        Ok(())
    }

    fn pin(&mut self) -> Result<(), SourceError> {
        self.log.lock().push(("pin", self.inode));
        match self.is_unpinnable {
            true => Err(refused(self.inode)),
            false => Ok(()),
        }
    }

    fn let_writers_go(&mut self) {
        self.log.lock().push(("go", self.inode));
    }
}

fn refused(inode: u64) -> SourceError {
    let path = PathBuf::from(inode.to_string());
    let reason = "is busy".to_owned();
    SourceError::Part { path, reason }
}

/// Members of the given inodes; each says how often it is busy.
fn members(of: &[(u64, u32)]) -> (Vec<(Named, Member)>, Log) {
    let log = Log::default();
    let member = |&(inode, busy): &(u64, u32)| {
        let candidate = Candidate {
            folder: 0,
            name: OsStr::new("a.db").into(),
            identity: FileIdentity { device: 1, inode },
            link_count: 1,
            has_log: false,
            path: PathBuf::from(inode.to_string()),
        };
        let named = Named {
            candidate,
            other_names: Vec::new(),
            second_log: None,
        };
        let (log, is_unpinnable) = (log.clone(), false);
        let member = Member {
            inode,
            log,
            busy,
            is_unpinnable,
        };
        (named, member)
    };
    (of.iter().map(member).collect(), log)
}

fn inodes(pinned: &[(Named, Member)]) -> Vec<u64> {
    pinned.iter().map(|(_, member)| member.inode).collect()
}

#[test]
fn all_are_stopped_by_number_pinned_and_let_go() {
    let (open, log) = members(&[(9, 0), (3, 0), (5, 0)]);
    let host = Host::simulated(1).host;
    let mut failures = Vec::new();
    let (pinned, _) = pin_at_once(&host, open, Unpinned::Refused, &mut failures);
    assert_eq!(inodes(&pinned), [3, 5, 9]);
    let steps = |step, inodes: [u64; 3]| inodes.map(|inode| (step, inode));
    let expected = [
        steps("stop", [3, 5, 9]),
        steps("pin", [3, 5, 9]),
        steps("go", [9, 5, 3]),
    ];
    assert_eq!(*log.lock(), expected.concat());
    assert!(failures.is_empty());
}

/// Two daemons that each hold one of two databases, or a daemon and a writer, would otherwise wait for each
/// other.
#[test]
fn none_stays_stopped_for_one_that_is_busy() {
    let (open, log) = members(&[(1, 0), (2, 1000), (3, 0)]);
    let host = Host::simulated(2).host;
    let mut failures = Vec::new();
    let (pinned, _) = pin_at_once(&host, open, Unpinned::Refused, &mut failures);
    assert_eq!(inodes(&pinned), [1, 2, 3]);
    let log = log.lock();
    let busy = log.iter().filter(|one| **one == ("busy", 2)).count();
    assert_eq!(busy, 1000);
    let let_go = log.iter().position(|one| *one == ("go", 1)).unwrap();
    assert!(let_go < 200, "after {let_go} steps");
    // The one that was in the way is waited for with nothing held, and is taken first.
    assert!(
        log[let_go + 1..]
            .iter()
            .take(1000 - let_go)
            .all(|one| *one == ("busy", 2))
    );
    let stops = [("stop", 2), ("stop", 1), ("stop", 3)];
    assert!(log.windows(3).any(|three| three == stops));
}

/// One that never can be stopped is given up in time; the others go without it if they may.
#[test]
fn member_that_is_always_busy_is_named() {
    for unpinned in [Unpinned::Refused, Unpinned::LeftOut] {
        let (open, log) = members(&[(1, 0), (2, u32::MAX), (3, 0)]);
        let host = Host::simulated(3).host;
        let begun = host.clock.monotonic();
        let mut failures = Vec::new();
        let (pinned, _) = pin_at_once(&host, open, unpinned, &mut failures);
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].path, PathBuf::from("2"));
        let is_refused = unpinned == Unpinned::Refused;
        assert_eq!(
            inodes(&pinned),
            if is_refused { vec![] } else { vec![1, 3] }
        );
        let took = host.clock.monotonic() - begun;
        assert!(took >= PATIENCE && took < PATIENCE * 2);
        let count = |step, inode| {
            log.lock()
                .iter()
                .filter(|one| **one == (step, inode))
                .count()
        };
        for inode in [1, 3] {
            assert_eq!(
                count("stop", inode),
                count("go", inode),
                "nobody stays stopped"
            );
        }
    }
}

/// Writers go on whatever becomes of a pin.
#[test]
fn writers_go_on_when_a_pin_fails() {
    let (mut open, log) = members(&[(1, 0), (2, 0), (3, 0)]);
    open[1].1.is_unpinnable = true;
    let host = Host::simulated(4).host;
    let mut failures = Vec::new();
    let (pinned, _) = pin_at_once(&host, open, Unpinned::LeftOut, &mut failures);
    assert_eq!(inodes(&pinned), [1, 3]);
    assert_eq!(failures.len(), 1);
    for inode in 1..=3 {
        assert!(log.lock().contains(&("go", inode)));
    }
}

#[test]
fn work_on_several_threads_keeps_the_order() {
    let doubled = in_parallel((0..1000_u64).collect(), |number| number * 2);
    assert_eq!(
        doubled,
        (0..1000).map(|number| number * 2).collect::<Vec<_>>()
    );
    assert_eq!(
        in_parallel(Vec::<u64>::new(), |number| number),
        Vec::<u64>::new()
    );
}
