//! The checksum of a page that differs in few places from one whose checksum is known.
//!
//! Without its two inversions a CRC is linear: those of two pages of one length differ by that of their difference,
//! which is zeros but for those places. And what comes before a zero byte is multiplied by x^8, modulo the
//! polynomial. So nothing has to be read but the places. Source: `crc32_combine` of zlib.

use std::iter;
use std::ops::Range;

use crc32fast::Hasher;

/// The polynomial of CRC-32; the coefficient of x^0 is the highest bit, here and in what it divides.
const POLYNOMIAL: u32 = 0xedb8_8320;
const ONE: u32 = 1 << 31;
/// What a zero byte multiplies by: x^8.
const ZERO_BYTE: u32 = ONE >> 8;
/// Bytes of which the difference is made at a time.
const PIECE_BYTES: usize = 64;

/// `ZERO_BYTE` to the powers of 0 to 255.
const BYTES: [u32; 256] = powers(ZERO_BYTE);
/// The same of 256 zero bytes.
const BLOCKS: [u32; 256] = powers(product(BYTES[255], ZERO_BYTE));

/// The product of two polynomials. No branch depends on their bits, which are as good as random.
const fn product(mut one: u32, mut other: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < u32::BITS {
        sum ^= other & 0_u32.wrapping_sub(one >> 31);
        one <<= 1;
        other = (other >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(other & 1));
        bit += 1;
    }
    sum
}

#[allow(
    clippy::indexing_slicing,
    reason = "below the length, and run by the compiler"
)]
const fn powers(of: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = product(powers[index - 1], of);
        index += 1;
    }
    powers
}

/// `sum`, of what comes before `bytes` zeros; they are fewer than 64 KiB.
fn before_zeros(sum: u32, bytes: usize) -> u32 {
    if sum == 0 {
        return 0;
    }
    let blocks = BLOCKS.get(bytes / BYTES.len());
    let blocks = *blocks.expect("pages have at most 64 KiB, and the checksum none of its own");
    let rest = BYTES.get(bytes % BYTES.len()).copied().unwrap_or(ONE);
    let sum = product(sum, rest);
    if blocks == ONE {
        sum
    } else {
        product(sum, blocks)
    }
}

/// `sum` and the difference of two places of one length that come after it.
fn with_difference(sum: u32, old: &[u8], new: &[u8]) -> u32 {
    // The crate inverts what goes in and what comes out.
    let mut hasher = Hasher::new_with_initial(!sum);
    for (old, new) in iter::zip(old.chunks(PIECE_BYTES), new.chunks(PIECE_BYTES)) {
        let mut piece = [0; PIECE_BYTES];
        for (byte, (old, new)) in iter::zip(&mut piece, iter::zip(old, new)) {
            *byte = old ^ new;
        }
        hasher.update(piece.get(..new.len()).unwrap_or_default());
    }
    !hasher.finalize()
}

/// The checksum of `after`, that of `before` being `crc`.
///
/// Shape: both have the same length, less than 64 KiB; `places` are all in which they differ, or more, ascending,
/// none of which reaches into the next.
pub(super) fn crc_after(
    crc: u32,
    before: &[u8],
    after: &[u8],
    places: impl Iterator<Item = Range<usize>>,
) -> u32 {
    let (mut sum, mut at) = (0, 0);
    for place in places {
        sum = before_zeros(sum, place.start - at);
        at = place.end;
        let (old, new) = (before.get(place.clone()), after.get(place));
        sum = with_difference(sum, old.unwrap_or_default(), new.unwrap_or_default());
    }
    crc ^ before_zeros(sum, after.len() - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn checksum_from_the_one_before_is_that_of_the_whole(
            length in 1_usize..65_533,
            seed in any::<u64>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut state = seed | 1;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            let before: Vec<u8> = (0..length).map(|_| draw()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
            cuts.sort_unstable();
            let places: Vec<Range<usize>> = cuts.as_chunks::<2>().0.iter().map(|&[a, b]| a..b).collect();
            let mut after = before.clone();
            for place in &places {
                after[place.clone()].iter_mut().for_each(|byte| *byte = draw());
            }
            let crc = crc_after(crc32fast::hash(&before), &before, &after, places.into_iter());
            prop_assert_eq!(crc, crc32fast::hash(&after));
        }
    }
}
