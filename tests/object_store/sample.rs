//! Which requests are interrupted: some, or by hand all.

use std::ops::Range;

/// How many requests of a command are taken: `STILLFS_ROUNDS`, or `few`.
pub(crate) fn rounds(few: usize) -> usize {
    let named = std::env::var("STILLFS_ROUNDS");
    named.map_or(few, |text| {
        text.parse().expect("STILLFS_ROUNDS is a number")
    })
}

/// At most `count` of `all`, evenly; `turn` of `turns` moves them, so that others take what lies between.
pub(crate) fn sample(all: Range<usize>, count: usize, (turn, turns): (usize, usize)) -> Vec<usize> {
    let len = all.len();
    if count >= len {
        return all.collect();
    }
    let at = |index: usize| all.start + (index * turns + turn) * len / (count * turns);
    (0..count).map(at).collect()
}
