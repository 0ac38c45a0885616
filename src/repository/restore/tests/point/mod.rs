//! Points in time against a model: histories that fork, archives with holes, machines that stop.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation)]

mod world;

use std::sync::Arc;

use crate::engine::ReplayTarget;
use crate::lsn::{Lsn, Timestamp};
use crate::repository::RepositoryError;
use crate::repository::log::CommitStamp;
use crate::repository::restore::moment::Base;
use world::{Model, World, content_of};

/// Restores of all seeds together.
const RESTORES_MIN: u64 = 500;
const SEEDS: u64 = 8;

#[derive(Default, Debug)]
struct Tally {
    restored: u64,
    refused: u64,
    forks: u64,
    killed: u64,
    replayed_commits: u64,
    equal_to_a_backup: u64,
}

/// Databases are written, checkpointed, stopped, backed up and archived in any order.
fn live(world: &mut World, steps: u64, lost: u64) {
    for _ in 0..steps {
        let branch = world.random.below(world.branches.len() as u64) as usize;
        match world.random.below(20) {
            0..13 => world.commit(branch),
            13 | 14 => world.archive(branch, lost),
            15 | 16 => world.checkpoint(branch),
            17 => world.reopen(branch),
            18 => world.back_up(branch),
            _ => world.crash(),
        }
    }
    for branch in 0..world.branches.len() {
        if world.random.below(4) > 0 {
            world.archive(branch, lost);
        }
    }
}

/// A moment, and which commit of the line is the last that is not after it; `None` if there is none.
fn draw(
    world: &World,
    line: &[(usize, CommitStamp, Arc<Model>)],
) -> (ReplayTarget, Option<usize>, bool) {
    let index = world.random.below(line.len() as u64) as usize;
    let commit = line[index].1;
    let shift = match world.random.below(3) {
        0 => 0,
        1 => 1,
        _ => world.random.below(1 << 31),
    };
    let target = match world.random.below(3) {
        0 => ReplayTarget::Timestamp(Timestamp(commit.timestamp.0 + shift.min(40))),
        1 => ReplayTarget::Lsn(Lsn(commit.lsn.0 + shift % 5000)),
        _ => ReplayTarget::Wall((commit.wall_ns + shift).saturating_sub(1 << 30)),
    };
    let place =
        |commit: &CommitStamp| target.place_of(commit.timestamp, commit.wall_ns, commit.lsn);
    let last = line
        .iter()
        .rposition(|(_, commit, _)| place(commit).is_le());
    let is_exact = last.is_some_and(|last| place(&line[last].1).is_eq());
    (target, last, is_exact)
}

fn restore_one(world: &mut World, tally: &mut Tally, seed: u64) {
    let branch = world.random.below(world.branches.len() as u64) as usize;
    let line = world.line(branch);
    let (target, last, is_exact) = draw(world, &line);
    let at = format!("seed {seed}, {target:?} on branch {branch}, commit {last:?}");
    let way = world.way(target, branch);
    let Some(last) = last.filter(|last| world.is_covered(branch, *last, is_exact)) else {
        assert!(
            matches!(
                way,
                // Of a history that is not archived yet nobody knows.
                Err(RepositoryError::NotCovered { .. } | RepositoryError::NoMoments { .. })
            ),
            "{at} is not covered: {way:?}"
        );
        tally.refused += 1;
        return;
    };
    let way = way.unwrap_or_else(|error| panic!("{at}: {error}"));
    let (replayed, machine, file) = world.replay(&way);
    let (owner, wanted, model) = &line[last];
    assert_eq!(world::stamp(replayed.point), *wanted, "{at}");
    let walks = tally.restored.is_multiple_of(8);
    let (found, content) = content_of(&machine.host, file.clone(), walks);
    assert_eq!((found, &content), (*wanted, &**model), "{at}");
    tally.restored += 1;
    tally.replayed_commits += replayed.commits;
    let bases = world.bases.clone();
    let is_other = |base: &Base| base.commit != *wanted;
    world.bases.retain(|(base, _)| is_other(base));
    let bytes = bases
        .iter()
        .find(|(base, _)| !is_other(base) && base.id == world.branches[*owner].id);
    if let Some((_, bytes)) = bytes.filter(|_| world.is_covered(branch, last, is_exact)) {
        // From an older backup to the commit of a later one.
        let way = world
            .way(target, branch)
            .unwrap_or_else(|error| panic!("{at}: {error}"));
        let (_, _, file) = world.replay(&way);
        let mut found = vec![0; file.len().unwrap() as usize];
        crate::os::read_exact_at(&*file, &mut found, 0).unwrap();
        assert!(
            found == *bytes,
            "{at}: the view of that commit has other bytes"
        );
        tally.equal_to_a_backup += 1;
    }
    world.bases = bases;
    if world.branches.len() < 4 && world.random.below(12) == 0 {
        world.fork(branch, last + 1, &*file);
        tally.forks += 1;
        live(world, 6, 1000);
    }
}

/// BK13, RP2, RP3, RP5: every covered moment is restored to the last commit that is not after it, content and
/// number, and to the byte where a backup of the same commit tells; every other is refused.
#[test]
fn every_covered_moment_is_restored_and_every_other_refused() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let lost = [25, 1000][(seed % 2) as usize];
        for _ in 0..5 {
            live(&mut world, 30, lost);
            for _ in 0..20 {
                restore_one(&mut world, &mut tally, seed);
            }
        }
        tally.killed += world.killed;
    }
    eprintln!("{tally:?}");
    assert!(tally.restored >= RESTORES_MIN, "{tally:?}");
    assert!(
        tally.refused > 50 && tally.forks > 10 && tally.killed > 20,
        "{tally:?}"
    );
    assert!(tally.equal_to_a_backup > 20, "{tally:?}");
}

/// RP2, LA6: a backup of a past that was given up is passed over where the log has another commit in its place.
#[test]
fn backup_of_a_past_that_was_given_up_is_passed_over() {
    let mut tested = 0;
    for seed in 0..6 {
        let mut world = World::new(seed + 700);
        (0..3).for_each(|_| world.commit(0));
        let (past, commits) = (
            world.machine.disk.image_after_crash(seed),
            world.line(0).len(),
        );
        world.commit(0);
        world.back_up(0);
        let given_up = world.bases[1].0.commit;
        world.archive(0, u64::MAX);
        world.put_back(past, commits);
        (0..8).for_each(|_| world.commit(0));
        world.archive(0, u64::MAX);
        let line = world.line(0);
        tested += u32::from(line.last().unwrap().1.lsn > given_up.lsn);
        for (_, commit, model) in &line[1..] {
            let way = world.way(ReplayTarget::Timestamp(commit.timestamp), 0);
            let (replayed, machine, file) = world.replay(&way.unwrap());
            assert_eq!(world::stamp(replayed.point), *commit, "seed {seed}");
            assert_eq!(content_of(&machine.host, file, false).1, **model);
        }
    }
    assert!(tested > 0);
}

/// RP2, LA5: numbers that follow each other over a gap lead nowhere if a past may have been put back in it.
#[test]
fn no_way_leads_over_a_gap_into_another_past() {
    let mut tested = 0;
    for seed in 0..8 {
        let mut world = World::new(seed + 800);
        (0..3).for_each(|_| world.commit(0));
        let (past, commits) = (
            world.machine.disk.image_after_crash(seed),
            world.line(0).len(),
        );
        world.commit(0);
        world.archive(0, u64::MAX);
        world.put_back(past, commits);
        // Another one of that number, and it is lost.
        world.commit(0);
        let (first, end) = world.lose_log(2);
        if first >= end {
            continue;
        }
        (0..2).for_each(|_| world.commit(0));
        world.archive(0, u64::MAX);
        let newest = world.line(0).last().unwrap().1;
        let way = world.way(ReplayTarget::Timestamp(newest.timestamp), 0);
        assert!(
            matches!(way, Err(RepositoryError::NotCovered { .. })),
            "seed {seed}: {way:?}"
        );
        tested += 1;
    }
    assert!(tested > 0);
}
