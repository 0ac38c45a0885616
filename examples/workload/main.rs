//! The load of `scripts/demo`: real files go in, writers keep a sum, and a copy is compared with what
//! went in. A client like any other: it speaks the Redis protocol and knows nothing of stillfs.
//!
//! ```text
//! workload load ADDRESS FOLDER BYTES LIST   store the files below FOLDER, BYTES of them in all,
//!                                           and write down in LIST what was stored
//! workload write ADDRESS LIST               write until standard input ends; each line of it is
//!                                           answered by a line about the time since the last one
//! workload compare ADDRESS LIST             compare whatever no writer touches with LIST
//! ```
//!
//! Database 0 holds the files by their paths; database 1 holds accounts, and a count of transfers.
#![allow(
    clippy::disallowed_methods,
    reason = "a client of its own, which no simulated disk or clock runs"
)]

mod client;
mod files;
mod list;
mod writers;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: workload load ADDRESS FOLDER BYTES LIST
       workload write ADDRESS LIST
       workload compare ADDRESS LIST";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let done = match words[..] {
        ["load", address, folder, bytes, list] => match bytes.parse() {
            Ok(bytes) => files::load(address, Path::new(folder), bytes, Path::new(list)),
            Err(_) => return usage(),
        },
        ["write", address, list] => writers::write(address, Path::new(list)),
        ["compare", address, list] => files::compare(address, Path::new(list)),
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("workload: {error}");
    ExitCode::FAILURE
}
