//! The machine's clock does what it likes.

use std::time::Duration;

use super::*;

fn commit(engine: &Engine) -> u64 {
    let mut write = engine.begin_write().unwrap();
    let value = write.base().0.to_le_bytes();
    write.put("t", b"k", &value).unwrap();
    write.commit().unwrap();
    engine.begin_read().snapshot().point().wall_ns
}

/// Commits' wall clocks rise strictly, over clean stops and crashes, whether the clock is set back by
/// hours or to 1970, or ahead of everything that a database can count.
#[test]
fn wall_clocks_of_commits_rise_whatever_the_clock_does() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut simulated = Host::simulated(31);
    let start = simulated.host.clock.wall_ns();
    let mut last = 0;
    let clocks = [
        start,
        start - 5 * HOUR_NS,
        0,
        start + HOUR_NS,
        0,
        u64::MAX,
        start,
        u64::MAX,
    ];
    for (number, clock) in clocks.into_iter().enumerate() {
        simulated.clock.set_wall_ns(clock);
        let engine = open(&simulated.host).unwrap();
        for _ in 0..3 {
            let wall = commit(&engine);
            assert!(wall > last, "{number}: {wall} after {last}");
            assert!(wall >= clock.min(1 << 62), "{number}");
            last = wall;
        }
        simulated.clock.set_wall_ns(clock / 2);
        assert!(commit(&engine) > last);
        last += 1;
        if number % 2 == 0 {
            engine.close().unwrap();
        }
        drop(engine);
        simulated = simulated.process_crash();
    }
    let engine = open(&simulated.crash(1).host).unwrap();
    assert_sound(&engine);
    assert_eq!(engine.begin_read().snapshot().point().wall_ns, last);
}

/// A database that is made while the clock stands past what can be counted opens again.
#[test]
fn database_made_under_an_impossible_clock_opens_again() {
    let simulated = Host::simulated(32);
    simulated.clock.set_wall_ns(u64::MAX);
    let engine = open(&simulated.host).unwrap();
    commit(&engine);
    engine.close().unwrap();
    drop(engine);
    let engine = open(&simulated.host).unwrap();
    assert!(commit(&engine) < 1 << 63);
}

/// Nothing waits by the wall clock: with it at a standstill and set back, transactions, checkpoints and
/// opens still end, and take no monotonic time.
#[test]
fn nothing_waits_for_the_wall_clock() {
    let simulated = Host::simulated(33);
    let engine = open(&simulated.host).unwrap();
    commit(&engine);
    simulated.clock.set_wall_ns(0);
    commit(&engine);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    assert_eq!(simulated.host.clock.monotonic(), Duration::ZERO);
}

/// A restored log may claim the last date that can be counted: then commits are refused as such, and
/// what is there stays readable.
#[test]
fn commits_past_the_last_date_are_refused_and_nothing_is_lost() {
    let simulated = Host::simulated(34);
    let engine = open(&simulated.host).unwrap();
    commit(&engine);
    let mut last = engine.begin_read().snapshot().point();
    last.wall_ns = (1 << 63) - 2;
    engine.shared.registry.advance_newest(last);
    commit(&engine);
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"k", b"v").unwrap();
    let refused = write.commit().unwrap_err();
    assert!(
        matches!(refused, EngineError::Exhausted { .. }),
        "{refused}"
    );
    drop(engine);
    let engine = open(&simulated.process_crash().host).unwrap();
    assert!(engine.begin_read().contains("t", b"k").unwrap());
    assert_sound(&engine);
}
