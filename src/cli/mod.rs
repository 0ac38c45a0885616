//! The commands of `stillfs`: parse, run, exit code.

mod check;
mod dump;
mod exit;
mod load;
mod output;
mod serve;
mod size;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use exit::{Failure, Outcome};

#[derive(Debug, Parser)]
#[command(
    name = "stillfs",
    version,
    about = "Look at a running database as a folder of still files"
)]
struct Arguments {
    /// What to log: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Dump(dump::DumpArgs),
    Load(load::LoadArgs),
}

fn dispatch(command: &Command) -> Outcome {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Load(args) => load::run(args),
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = arguments.log_level.clone();
    let level = level.or_else(|| std::env::var("STILLFS_LOG").ok());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level.as_deref().unwrap_or("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say so on standard error, and panic where nobody reads that any more.
        .log_internal_errors(false)
        .init();
    let exit = dispatch(&arguments.command).unwrap_or_else(|Failure { exit, error }| {
        output::problem(&format!("{error:#}"));
        exit
    });
    ExitCode::from(exit as u8)
}
