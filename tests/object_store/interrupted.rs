//! A command that is cut off at one of its requests, before the server hears of it or after it has done it;
//! for good, or this once. Whatever it was, the repository is whole, no backup before it is lost, and the
//! next one succeeds.
//!
//! A few requests of each command; `STILLFS_ROUNDS=1000` takes every one.

use crate::bucket::{Bucket, REPO};
use crate::proxy::Act;
use crate::rig::code;
use crate::sample::{rounds, sample};
use crate::scene::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server hears nothing of it.
    Before,
    /// The server has done it, and the answer is lost.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing is answered from there on.
    Silence,
    /// The next request is answered.
    Calm,
}

const BACKUP: &[&str] = &["backup", "app.db", "--repo", REPO];
const PRUNE: &[&str] = &["forget", REPO, "--keep-last", "2", "--prune"];

/// A bucket, and what must be in it.
struct Lane {
    bucket: Bucket,
    /// Rows that are in the source.
    rows: u64,
    /// Of the backups that are known.
    known: Vec<(String, u64)>,
}

impl Lane {
    fn start() -> Option<Self> {
        let bucket = Bucket::new()?;
        bucket.make_app(0);
        let (rows, known) = (0, Vec::new());
        let mut lane = Self {
            bucket,
            rows,
            known,
        };
        lane.back_up();
        lane.back_up();
        Some(lane)
    }

    /// With a row more than the one before.
    fn back_up(&mut self) {
        self.bucket.step();
        self.rows += 1;
        self.known.push((self.bucket.backup(), self.rows));
    }

    /// Before a command: something to store, or to remove.
    fn prepare(&mut self, words: &[&str]) {
        self.bucket.step();
        self.rows += 1;
        if words == PRUNE {
            self.back_up();
        }
    }

    /// What backups there are is what must be, whatever the command came to.
    fn settle(&mut self, words: &[&str], is_done: bool, place: &str) {
        let listed = names(&self.bucket.folder().join("backups"));
        let last = self.known.last().unwrap().0.clone();
        let made: Vec<&String> = listed.iter().filter(|id| **id > last).collect();
        assert!(
            made.len() <= usize::from(words == BACKUP),
            "{place}: {listed:?}"
        );
        let made = made.first().map(|id| ((*id).clone(), self.rows));
        assert!(
            !is_done || words != BACKUP || made.is_some(),
            "{place}: {listed:?}"
        );
        let must_be = self.known.iter().enumerate().filter(|(at, (id, _))| {
            let stays = words == BACKUP || at + 2 >= self.known.len();
            assert!(
                !stays || listed.contains(id),
                "{place}: {id} is lost of {listed:?}"
            );
            stays || listed.contains(id)
        });
        self.known = must_be.map(|(_, known)| known.clone()).collect();
        self.known.extend(made);
        assert_eq!(self.known.len(), listed.len(), "{place}: {listed:?}");
        assert!(
            !is_done || words != PRUNE || listed.len() == 2,
            "{place}: {listed:?}"
        );
    }

    /// One more, every byte read, and the newest restored, or where `is_thorough` the oldest too. The next
    /// round finds about as many backups as this one did, and so makes the same requests.
    fn expect_whole(&mut self, is_thorough: bool) {
        self.back_up();
        self.bucket.verify();
        let (first, last) = (&self.known[0], &self.known[self.known.len() - 1]);
        for (id, rows) in [last, first].into_iter().take(1 + usize::from(is_thorough)) {
            self.bucket.expect_rows(id, *rows);
        }
        if self.known.len() > 4 {
            self.bucket.scene.ok(PRUNE);
            self.known.drain(..self.known.len() - 2);
        }
    }
}

fn interrupt(words: &'static [&str], cut: Cut, then: Then, few: usize) {
    let Some(mut lane) = Lane::start() else {
        return;
    };
    lane.prepare(words);
    lane.bucket.proxy.pass();
    lane.bucket.scene.ok(words);
    let count = lane.bucket.proxy.seen().len();
    lane.bucket.proxy.pass();
    lane.settle(words, true, "undisturbed");
    let turn = usize::from(cut == Cut::After);
    let numbers = sample(1..count + 1, rounds(few), (turn, 2));
    let (mut done, mut failed) = (0, 0);
    for number in numbers.iter().copied() {
        lane.prepare(words);
        lane.bucket
            .proxy
            .plan(move |request| match (request.number, cut) {
                (at, _) if at < number => Act::Pass,
                (at, Cut::After) if at == number => Act::Swallow,
                (at, _) if at > number && then == Then::Calm => Act::Pass,
                _ => Act::Refuse,
            });
        let output = lane.bucket.scene.run(words);
        let seen = lane.bucket.proxy.seen();
        lane.bucket.proxy.pass();
        let Some(request) = seen.get(number - 1) else {
            continue;
        };
        let place = format!("{then:?} {cut:?} {} {}", words[0], request.name());
        match (code(&output), then) {
            (0, _) => done += 1,
            (11 | 15, Then::Silence) => failed += 1,
            _ => panic!("{place}: {output:?}"),
        }
        lane.settle(words, code(&output) == 0, &place);
        lane.expect_whole(Some(&number) == numbers.last() || rounds(0) > 0);
    }
    println!(
        "{} {cut:?} {then:?}: {} of {count} requests interrupted, {done} runs done, {failed} failed",
        words[0],
        numbers.len()
    );
    assert!(failed != 0 || then == Then::Calm);
}

/// OS2.
#[test]
fn backup_that_is_never_answered_again_is_none_or_whole() {
    interrupt(BACKUP, Cut::Before, Then::Silence, 2);
}

/// OS2.
#[test]
fn backup_whose_last_answer_is_lost_is_none_or_whole() {
    interrupt(BACKUP, Cut::After, Then::Silence, 2);
}

/// OS2.
#[test]
fn backup_asks_again_for_what_was_not_heard() {
    interrupt(BACKUP, Cut::Before, Then::Calm, 2);
}

/// OS2.
#[test]
fn backup_goes_on_from_what_was_done_and_not_answered() {
    interrupt(BACKUP, Cut::After, Then::Calm, 2);
}

/// OS2.
#[test]
fn prune_that_is_never_answered_again_loses_nothing() {
    interrupt(PRUNE, Cut::Before, Then::Silence, 2);
}

/// OS2.
#[test]
fn prune_whose_last_answer_is_lost_loses_nothing() {
    interrupt(PRUNE, Cut::After, Then::Silence, 2);
}

/// OS2.
#[test]
fn prune_asks_again_for_what_was_not_heard() {
    interrupt(PRUNE, Cut::Before, Then::Calm, 2);
}

/// OS2.
#[test]
fn prune_goes_on_from_what_was_done_and_not_answered() {
    interrupt(PRUNE, Cut::After, Then::Calm, 2);
}
