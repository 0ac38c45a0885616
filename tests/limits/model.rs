//! Random pins, commits, checkpoints and sizes of the disk, from a seed: whatever happens, a pin that
//! lasts reads as pinned, one that ended fails, `break` delays no checkpoint, and no commit fails while
//! there is a pin whose space it could have.

use std::time::Duration;

use stillfs::database::{OnFull, Pin, PinOptions};
use stillfs::engine::error::ErrorKind;
use stillfs::os::random::SeededRandom;
use stillfs::os::{Disk, Random};

use crate::rig::{MIB, PAGE_BYTES, Rig, free, is_over, whole};

const KEYS: u64 = 300;

struct Kept {
    pin: Pin,
    expected: Vec<u8>,
    on_full: OnFull,
}

struct Run {
    rig: Rig,
    random: SeededRandom,
    pins: Vec<Kept>,
    round: u32,
    ended: u32,
    held: u32,
}

impl Run {
    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn step(&mut self) {
        match self.below(12) {
            0..=3 => self.commit(),
            4..=6 => self.checkpoint(),
            7..=8 => self.take_pin(),
            9 if !self.pins.is_empty() => {
                let at = usize::try_from(self.below(self.pins.len() as u64)).expect("small");
                drop(self.pins.swap_remove(at));
            }
            10 => self.resize_disk(),
            _ => {
                self.rig
                    .machine
                    .clock
                    .advance(Duration::from_secs(self.below(200)));
                self.rig.database.tend();
            }
        }
        self.compare();
    }

    fn commit(&mut self) {
        self.round += 1;
        let (first, count) = (self.below(KEYS), self.below(60));
        let mut write = self.rig.database.begin_write().expect("a transaction");
        for key in first..(first + count).min(KEYS) {
            let value = [key, u64::from(self.round)].map(u64::to_le_bytes).concat();
            write
                .put("t", &key.to_be_bytes(), &value.repeat(75))
                .expect("a put");
        }
        if let Err(error) = write.commit() {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            let left = self.rig.database.stats();
            assert_eq!(
                (left.pins, left.shadow_bytes),
                (0, 0),
                "nothing was left to give"
            );
        }
    }

    fn checkpoint(&mut self) {
        match self.rig.database.checkpoint() {
            Ok(report) if report.is_held => {
                self.held += 1;
                let holds =
                    |kept: &Kept| kept.on_full == OnFull::Hold && kept.pin.ended().is_none();
                assert!(self.pins.iter().any(holds), "break delays nothing");
            }
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                assert_eq!(
                    self.rig.database.stats().pins,
                    0,
                    "nothing was left to give"
                );
            }
        }
    }

    fn take_pin(&mut self) {
        self.rig.machine.clock.advance(Duration::from_millis(10));
        let on_full = [OnFull::Break, OnFull::Hold][usize::from(self.below(2) == 0)];
        let options = PinOptions {
            max_age: Duration::from_secs(100 + self.below(1000)),
            on_full,
            shadow_limit_bytes: (self.below(2) == 0).then(|| (2 + self.below(150)) * PAGE_BYTES),
        };
        match self.rig.database.pin_with(&options) {
            Ok(pin) => {
                let expected = whole(&pin).expect("a granted pin");
                self.pins.push(Kept {
                    pin,
                    expected,
                    on_full,
                });
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
    }

    fn resize_disk(&mut self) {
        let free_bytes = match self.below(4) {
            0 => self.below(20) * PAGE_BYTES,
            1 => MIB + self.below(50) * PAGE_BYTES,
            _ => 4 * MIB + self.below(10) * MIB,
        };
        self.rig.leave_free(free_bytes);
    }

    /// L1, L2, L5, S1, S3: every pin gives its bytes or has ended, and none keeps more than its limit.
    fn compare(&mut self) {
        for kept in &self.pins {
            let counts = kept.pin.counts();
            let limit = kept.pin.limits().shadow_limit_bytes.expect("each has one");
            assert!(counts.shadowed_pages * PAGE_BYTES <= limit);
            match kept.pin.ended() {
                None => assert!(whole(&kept.pin).expect("it lasts") == kept.expected),
                Some(_) => assert!(is_over(&kept.pin)),
            }
            assert_eq!(kept.pin.view().counts().failed_checks, 0);
        }
        let before = self.pins.len();
        self.pins.retain(|kept| kept.pin.ended().is_none());
        self.ended += u32::try_from(before - self.pins.len()).expect("few");
    }
}

fn run(seed: u64) -> (u32, u32) {
    let rig = Rig::new(seed, 3 * MIB);
    rig.put(0..u32::try_from(KEYS).expect("few"), 0);
    rig.database.checkpoint().expect("a checkpoint");
    let mut run = Run {
        rig,
        random: SeededRandom::new(seed),
        pins: Vec::new(),
        round: 0,
        ended: 0,
        held: 0,
    };
    for _ in 0..120 {
        run.step();
    }
    // Whatever happened, there is space again: everything goes through, and nothing leaked.
    run.pins.clear();
    run.rig.machine.disk.set_capacity(None);
    run.commit();
    assert!(!run.rig.database.checkpoint().expect("a checkpoint").is_held);
    let stats = run.rig.database.stats();
    assert_eq!(
        (stats.pins, stats.shadow_slots, stats.shadow_bytes),
        (0, 0, 0)
    );
    assert!(run.rig.database.check().expect("a check").is_clean());
    assert!(free(&run.rig.machine.disk) > MIB);
    assert_eq!(
        run.rig
            .machine
            .disk
            .list("/db/shadow".as_ref())
            .expect("names"),
        ["slots"]
    );
    (run.ended, run.held)
}

/// L1, L2, L3, L4, L5: see the head of the file. `STILLFS_LIMIT_SEED` repeats one run.
#[test]
fn pins_within_limits_read_as_pinned_and_delay_no_writer() {
    if let Ok(seed) = std::env::var("STILLFS_LIMIT_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let first = {
        let mut bytes = [0; 8];
        stillfs::os::random::SystemRandom
            .fill(&mut bytes)
            .expect("randomness");
        u64::from_le_bytes(bytes) >> 16
    };
    let (mut ended, mut held) = (0, 0);
    for seed in first..first + 20 {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let Ok((more_ended, more_held)) = outcome else {
            panic!("STILLFS_LIMIT_SEED={seed} repeats it");
        };
        (ended, held) = (ended + more_ended, held + more_held);
    }
    assert!(
        ended > 20 && held > 20,
        "{ended} ended, {held} held: too calm"
    );
}
