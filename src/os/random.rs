//! Randomness: the system's, and one that a seed repeats.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::os::Random;

/// The kernel's randomness (`getrandom`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        getrandom::fill(out).map_err(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other("the system gives no random bytes"),
        })
    }
}

/// The same bytes for the same seed, whatever the sizes of the requests are rounded up to 8 bytes.
///
/// Threads that draw at once get different bytes, in the order in which they came.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// A generator that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(seed),
        }
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        mix(self
            .state
            .fetch_add(GOLDEN_GAMMA, Ordering::Relaxed)
            .wrapping_add(GOLDEN_GAMMA))
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias of the remainder is of no matter here.
    pub fn below(&self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        for part in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            for (target, byte) in part.iter_mut().zip(bytes) {
                *target = byte;
            }
        }
        Ok(())
    }
}

/// A random number that is not 0, which formats use for "none".
///
/// Errors: the source's.
pub fn nonzero(random: &dyn Random) -> io::Result<u64> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation's first values for this seed.
    #[test]
    fn seeded_numbers_are_those_of_splitmix64() {
        let random = SeededRandom::new(1_234_567);
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn same_seed_gives_the_same_bytes_and_another_seed_others() {
        let bytes = |seed| {
            let mut out = [0; 21];
            SeededRandom::new(seed).fill(&mut out).unwrap();
            out
        };
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn number_below_a_bound_stays_below_it() {
        let random = SeededRandom::new(1);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn system_bytes_differ_from_call_to_call() {
        let mut both = [[0; 16]; 2];
        for out in &mut both {
            SystemRandom.fill(out).unwrap();
        }
        assert_ne!(both[0], both[1]);
    }
}
