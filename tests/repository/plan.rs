//! What a seed draws: how its database is made, and the steps that happen.

use stillfs::page::PageSize;

use crate::draw::Draw;

/// How a database is made, and what is written to it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) page_size: PageSize,
    pub(crate) cache_bytes: u64,
    pub(crate) log_bytes_max: u64,
    /// What pins leave of the disk.
    pub(crate) floor_bytes: u64,
    pub(crate) tables: u64,
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    /// One value in so many is long.
    pub(crate) long_values: u64,
}

impl Config {
    pub(crate) fn draw(draw: &Draw) -> Self {
        let page_bytes = draw.pick(&[4096, 4096, 4096, 8192]);
        Self {
            page_size: PageSize::new(page_bytes).expect("a size that pages can have"),
            cache_bytes: draw.pick(&[0, 8, 1000]) * page_bytes,
            log_bytes_max: draw.pick(&[300, 1 << 20]) * page_bytes,
            floor_bytes: 0,
            tables: draw.between(1, 4),
            keys: draw.pick(&[30, 100, 300]),
            key_bytes: draw.pick(&[2, 20, 300]),
            long_values: draw.pick(&[3, 8, 30]),
        }
    }
}

/// What happens in one step; the details follow from the step's own seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    WriteMuch,
    Checkpoint,
    /// The engine stops, or its process or machine does, and it starts again.
    Restart,
    Clock,
    Backup,
    /// Two backups of one commit, of which nothing but the way can differ.
    Twins,
    Restore,
    /// The application goes on with what was restored.
    RollBack,
    Forget,
    Prune,
    Hold,
    Copy,
    Verify,
    /// The process or the machine of a repository ends between two of its jobs.
    Reopen,
}

/// How often each kind is drawn, among their sum.
const WEIGHTS: &[(Kind, u64)] = &[
    (Kind::Write, 120),
    (Kind::WriteMuch, 20),
    (Kind::Checkpoint, 50),
    (Kind::Restart, 30),
    (Kind::Clock, 30),
    (Kind::Backup, 130),
    (Kind::Twins, 20),
    (Kind::Restore, 110),
    (Kind::RollBack, 12),
    (Kind::Forget, 40),
    (Kind::Prune, 40),
    (Kind::Hold, 12),
    (Kind::Copy, 20),
    (Kind::Verify, 20),
    (Kind::Reopen, 20),
];

/// A step: what happens, and the seed of how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) seed: u64,
}

/// The steps of a seed.
pub(crate) fn draw_steps(draw: &Draw, count: usize) -> Vec<Step> {
    let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let steps = (0..count).map(|_| {
        let mut at = draw.below(total);
        let found = WEIGHTS.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.wrapping_sub(*weight);
            is_it
        });
        Step {
            kind: found.map_or(Kind::Write, |(kind, _)| *kind),
            seed: draw.next(),
        }
    });
    steps.collect()
}
