//! The arguments.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;

pub(crate) const USAGE: &str = "\
usage: scripts/bench-pin [--gib N] [--pins N] [--held N] [--dir DIRECTORY] [--json] [--only-pins] [--quick]
       scripts/bench-pin --source PATH [--pins N]
  --gib N          size of the database, default 4
  --pins N         pins to take, default 1000
  --held N         pins that are held at the same time beside the one being taken, default 4
  --dir DIRECTORY  where to work, in a folder that is removed; default below the target directory
  --json           print one JSON object
  --only-pins      measure neither rates nor shared slots
  --source PATH    take pins of what is there, one after the other, and print one JSON object
  --quick          256 MiB and 200 pins: says whether it works, not how fast it is";

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) database_bytes: u64,
    pub(crate) pins: u64,
    /// Pins that are held at the same time beside the one being taken, so that checkpoints capture for some.
    pub(crate) held: usize,
    /// Log bytes between two checkpoints in the background.
    pub(crate) checkpoint_bytes: u64,
    /// How long each rate is measured.
    pub(crate) rate_time: Duration,
    pub(crate) json: bool,
    /// Neither rates nor shared slots.
    pub(crate) only_pins: bool,
    /// What is pinned instead of a database made for it.
    pub(crate) source: Option<PathBuf>,
    dir: Option<PathBuf>,
}

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Asked {
    Run(Options),
    Usage,
}

impl Options {
    /// Cargo passes `--bench` to benchmarks; `cargo test --benches` passes nothing, and must not
    /// start gigabytes of work.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Asked> {
        let mut options = Self {
            database_bytes: 4 << 30,
            pins: 1000,
            held: 4,
            checkpoint_bytes: 64 << 20,
            rate_time: Duration::from_secs(4),
            json: false,
            only_pins: false,
            source: None,
            dir: None,
        };
        let mut is_asked = false;
        while let Some(argument) = arguments.next() {
            is_asked = true;
            let mut value = || arguments.next().ok_or(USAGE);
            match argument.as_str() {
                "--bench" => {}
                "--gib" => options.database_bytes = value()?.parse::<u64>()? << 30,
                "--pins" => options.pins = value()?.parse()?,
                "--dir" => options.dir = Some(value()?.into()),
                "--held" => options.held = value()?.parse()?,
                "--json" => options.json = true,
                "--only-pins" => options.only_pins = true,
                "--source" => options.source = Some(value()?.into()),
                "--quick" => {
                    options.database_bytes = 256 << 20;
                    options.pins = 200;
                    options.checkpoint_bytes = 8 << 20;
                    options.rate_time = Duration::from_millis(500);
                }
                "--help" | "-h" => return Ok(Asked::Usage),
                _ => return Err(format!("unknown argument {argument}\n{USAGE}").into()),
            }
        }
        Ok(if is_asked {
            Asked::Run(options)
        } else {
            Asked::Usage
        })
    }

    /// The directory to work below: on the disk that builds are on, since a temporary directory
    /// may be in memory.
    pub(crate) fn parent(&self) -> PathBuf {
        let default = || PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        self.dir.clone().unwrap_or_else(default)
    }
}
