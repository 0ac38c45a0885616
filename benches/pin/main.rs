//! What a pin costs those who write: `scripts/bench-pin`.
//!
//! ```text
//! load a database -> rates of the engine -> pins under writers, in turns with quiet -> shared slots
//! ```
//!
//! A plain program, since what it measures is the tail of few long runs and not the mean of many
//! short ones. It says PASS or FAIL of its two targets and exits with 0 either way: what a machine
//! that others use does in one run is no reason to fail a build.

mod load;
mod options;
mod pins;
mod rates;
mod report;
mod sharing;
mod source;
mod traffic;

use std::error::Error;
use std::path::Path;

use stillfs::Database;
use stillfs::database::{EngineOptions, PinServing};
use stillfs::os::Host;

use options::{Asked, Options};
use report::Report;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Free space that is asked for beside one and a half times the database: log, shadow, copies.
const SPARE_BYTES: u64 = 3 << 30;
/// The one table of the database.
const TABLE: &str = "entries";

fn main() -> Outcome<()> {
    let options = match Options::parse(std::env::args().skip(1))? {
        Asked::Run(options) => options,
        Asked::Usage => {
            println!("{}", options::USAGE);
            return Ok(());
        }
    };
    let host = Host::system();
    if let Some(path) = &options.source {
        let pins = source::measure(&host, path, options.pins)?;
        println!("{}", serde_json::to_string_pretty(&pins)?);
        return Ok(());
    }
    let parent = options.parent();
    let needed = options.database_bytes / 2 * 3 + SPARE_BYTES;
    let free = host.disk.free_bytes(&parent)?;
    if free < needed {
        let (needed, free) = (needed >> 20, free >> 20);
        return Err(format!("{needed} MiB of free space are needed, {free} are there").into());
    }
    // It goes with this value, also when something fails.
    let dir = tempfile::Builder::new()
        .prefix("bench-pin.")
        .tempdir_in(&parent)?;
    let report = measure(&host, dir.path(), &options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(dir.close()?)
}

fn measure(host: &Host, dir: &Path, options: &Options) -> Outcome<Report> {
    let path = dir.join("database");
    eprintln!("loading {} MiB ...", options.database_bytes >> 20);
    let load = load::load(host, &path, options.database_bytes)?;
    let mut rates = None;
    if !options.only_pins {
        eprintln!("rates ...");
        rates = Some(rates::measure(host, dir, &path, load.entries, options)?);
    }
    let engine_options = EngineOptions {
        checkpoint_bytes: options.checkpoint_bytes,
        ..EngineOptions::default()
    };
    let database = Database::open(&path, &engine_options, PinServing::Off)?;
    eprintln!("{} pins under {} writers ...", options.pins, pins::WRITERS);
    let pins = pins::measure(host, &database, load.entries, options)?;
    let mut sharing = None;
    if !options.only_pins {
        eprintln!("shared slots ...");
        sharing = Some(sharing::measure(&database, load.entries)?);
    }
    database.close()?;
    Ok(Report {
        load,
        rates,
        pins,
        sharing,
    })
}
