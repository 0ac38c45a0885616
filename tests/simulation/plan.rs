//! What a seed draws: the configuration of a world and the steps that happen in it.

use stillfs::page::PageSize;

use crate::draw::Draw;

/// How a world is made.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) mood: Mood,
    pub(crate) page_size: PageSize,
    pub(crate) cache_bytes: u64,
    pub(crate) log_bytes_max: u64,
    /// Bytes that the disk has when it is small.
    pub(crate) capacity_bytes: u64,
    /// What pins leave of it.
    pub(crate) floor_bytes: u64,
    pub(crate) tables: u64,
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    /// One value in so many is long.
    pub(crate) long_values: u64,
}

/// What kind of trouble a world sees. In a calm one every error is a failure of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Calm,
    Crashes,
    Faults,
    SmallDisk,
    Neighbours,
    Everything,
}

/// What happens in one step; the details follow from the step's own seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Write,
    WriteMany,
    Rollback,
    BeginRead,
    CheckRead,
    EndRead,
    Checkpoint,
    Check,
    Pin,
    Daemon,
    ReadPages,
    ReadWhole,
    ReadAmidEngine,
    Release,
    DaemonDeath,
    Tend,
    Reclaim,
    Books,
    Clock,
    Stop,
    Kill,
    PowerOff,
    CrashImages,
    CopyPages,
    DeleteShadow,
    MovePages,
    PutPagesBack,
    ReplaceSlots,
    DamageSlots,
    DiskSize,
}

/// A step. `fault` is the seed of what goes wrong in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) seed: u64,
    pub(crate) fault: Option<u64>,
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) steps: Vec<Step>,
}

/// How often each kind is drawn in an ordinary world, among their sum.
const WEIGHTS: &[(Kind, u64)] = &[
    (Kind::Write, 280),
    (Kind::WriteMany, 30),
    (Kind::Rollback, 25),
    (Kind::BeginRead, 25),
    (Kind::CheckRead, 40),
    (Kind::EndRead, 20),
    (Kind::Checkpoint, 120),
    (Kind::Check, 15),
    (Kind::Pin, 45),
    (Kind::Daemon, 45),
    (Kind::ReadPages, 160),
    (Kind::ReadWhole, 60),
    (Kind::ReadAmidEngine, 60),
    (Kind::Release, 40),
    (Kind::DaemonDeath, 15),
    (Kind::Tend, 25),
    (Kind::Reclaim, 50),
    (Kind::Books, 25),
    (Kind::Clock, 15),
    (Kind::Stop, 8),
    (Kind::Kill, 14),
];

const CRASHES: &[(Kind, u64)] = &[
    (Kind::PowerOff, 25),
    (Kind::Kill, 15),
    (Kind::CrashImages, 30),
];
const NEIGHBOURS: &[(Kind, u64)] = &[
    (Kind::DeleteShadow, 10),
    (Kind::MovePages, 15),
    (Kind::PutPagesBack, 25),
    (Kind::ReplaceSlots, 8),
    (Kind::CopyPages, 8),
    (Kind::DamageSlots, 8),
];
const SMALL_DISK: &[(Kind, u64)] = &[(Kind::DiskSize, 40)];

impl Mood {
    fn draw(draw: &Draw) -> Self {
        draw.pick(&[
            Self::Calm,
            Self::Crashes,
            Self::Crashes,
            Self::Faults,
            Self::SmallDisk,
            Self::Neighbours,
            Self::Everything,
            Self::Everything,
        ])
    }

    fn weights(self) -> Vec<(Kind, u64)> {
        let more: &[&[(Kind, u64)]] = match self {
            Self::Calm => &[],
            Self::Crashes | Self::Faults => &[CRASHES],
            Self::SmallDisk => &[CRASHES, SMALL_DISK],
            Self::Neighbours => &[CRASHES, NEIGHBOURS],
            Self::Everything => &[CRASHES, NEIGHBOURS, SMALL_DISK],
        };
        [&[WEIGHTS], more].concat().concat()
    }

    pub(crate) fn has_crashes(self) -> bool {
        self != Self::Calm
    }

    /// One step in so many goes wrong.
    fn fault_chances(self) -> Option<u64> {
        match self {
            Self::Calm | Self::SmallDisk | Self::Neighbours => None,
            Self::Crashes => Some(20),
            Self::Faults => Some(7),
            Self::Everything => Some(12),
        }
    }
}

impl Config {
    fn draw(draw: &Draw) -> Self {
        let page_bytes = match draw.below(16) {
            0 => 65536,
            1 => 8192,
            _ => 4096,
        };
        let page_size = PageSize::new(page_bytes).expect("a size that pages can have");
        Self {
            mood: Mood::draw(draw),
            page_size,
            cache_bytes: draw.pick(&[0, 4, 16, 1000]) * page_bytes,
            log_bytes_max: draw.pick(&[20, 60, 1 << 20]) * page_bytes,
            capacity_bytes: draw.between(60, 300) * page_bytes,
            floor_bytes: draw.pick(&[0, 5, 30]) * page_bytes,
            tables: draw.between(1, 4),
            keys: draw.pick(&[6, 30, 100]),
            key_bytes: draw.pick(&[2, 20, 300]),
            long_values: draw.pick(&[3, 8, 30]),
        }
    }
}

impl Plan {
    /// The world of `seed`, with `step_count` steps.
    pub(crate) fn draw(seed: u64, step_count: usize) -> Self {
        let draw = Draw::new(seed);
        let config = Config::draw(&draw);
        let mut weights = config.mood.weights();
        for (kind, weight) in &mut weights {
            // With the page checks off, nothing would notice damaged images.
            if *kind == Kind::DamageSlots && are_page_checks_off() {
                *weight = 0;
            }
            // Some worlds hardly take checkpoints, some hardly pin, and so on.
            if draw.one_in(6) && *kind != Kind::Write {
                *weight /= 8;
            }
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        let steps = (0..step_count).map(|_| {
            let mut at = draw.below(total);
            let found = weights.iter().find(|(_, weight)| {
                let is_it = at < *weight;
                at = at.wrapping_sub(*weight);
                is_it
            });
            let kind = found.map_or(Kind::Write, |(kind, _)| *kind);
            let seed = draw.next();
            let goes_wrong = config.mood.fault_chances().is_some_and(|n| draw.one_in(n));
            let fault = draw.next();
            Step {
                kind,
                seed,
                fault: goes_wrong.then_some(fault),
            }
        });
        Self {
            seed,
            steps: steps.collect(),
            config,
        }
    }
}

/// Whether a negative control has switched the page checks off, to see that the rest suffices.
fn are_page_checks_off() -> bool {
    cfg!(feature = "faults")
        && std::env::var("STILLFS_FAULT").is_ok_and(|faults| faults.contains("page-checks-off"))
}
