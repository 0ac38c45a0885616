//! The command line: the only place that knows clap, and the one that joins sources, mounts and
//! server.
//!
//! Runs in every `stillfs` process. Text for people goes to standard output, problems to standard
//! error; `--json` gives the same facts with stable names. Exit codes: `exit.rs`.
//!
//! ```text
//! mount ----spawns----> daemon: pin -> record -> mount -> ready ... unmounted -> release -> record gone
//! run   ----spawns----> daemon, and COMMAND; the end of `run` ends the daemon
//! umount --- unmounts, then waits until the daemon has let its record go
//! ```

mod age;
mod archive;
mod audit;
mod background;
mod backup;
mod backups;
mod bounds;
mod check;
mod config;
mod copy;
mod daemon;
mod doctor;
mod dump;
mod examiner;
mod exit;
mod forget;
mod hold;
mod init;
mod interrupt;
mod job;
mod key;
mod kind;
mod lease_watch;
mod listing;
mod load;
mod members;
mod metrics;
mod mount;
mod nesting;
mod omitted;
mod output;
mod probe;
mod repository_key;
mod repository_place;
mod request;
mod restore;
mod run;
mod scheduled;
mod serve;
mod size;
mod sqlite;
mod starter;
mod statement;
mod status;
mod umount;
mod verify;
mod view_status;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use audit::Note;
use exit::{Exit, Outcome};

/// Look at a running database as a folder of still files.
#[derive(Debug, Parser)]
#[command(
    name = "stillfs",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = AFTER_HELP)]
struct Cli {
    /// How much to log on standard error: error, warn, info, debug or trace.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "STILLFS_LOG",
        default_value = "info"
    )]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  stillfs serve /var/lib/app                        run an engine, Redis protocol on 127.0.0.1:6380
  stillfs mount /var/lib/app /mnt/still             pin now, show the database as of now
  stillfs mount /var/lib/app/app.db /mnt/still      the same of a live SQLite file
  tar -C /mnt/still -cf backup.tar .                any copy tool makes a consistent backup
  stillfs umount /mnt/still                         release the pin
  stillfs run /var/lib/app -- restic backup {}      the three of them in one
  stillfs doctor /var/lib/app                       what stands in the way, and what mends it
  stillfs backup /var/lib/app --repo /backup/app    a backup, without any other tool
  stillfs restore /backup/app /var/lib/app-back     and back

Exit codes:
  0 done   1 failed   2 usage   3 done but something left out   4 an alert is raised
  10 repository missing   11 locked or in use   12 corrupt   13 pin lost or snapshot broken
  14 wrong key, or none   130 interrupted
  run: COMMAND's status, or 13 / 3, or 125 stillfs failed, 126 / 127 COMMAND not run / not found";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an engine on a directory and serve it to Redis clients.
    Serve(serve::ServeArgs),
    /// Pin running databases, and show them as a folder of still files.
    Mount(mount::MountArgs),
    /// Unmount a view and wait until its pin is released.
    #[command(alias = "unmount")]
    Umount(umount::UmountArgs),
    /// Pin, mount, run a command on the view, unmount and release whatever happens.
    Run(run::RunArgs),
    /// Show mounts and pins, also those of dead daemons.
    Status(status::StatusArgs),
    /// Look for what stands in the way, on this machine, at a source or at a mount point.
    Doctor(doctor::DoctorArgs),
    /// Walk every structure of a database: running (by a pin of its own), a copy, or a mount.
    Check(check::CheckArgs),
    /// Print every table, key and value in key order, or one digest of it.
    Dump(dump::DumpArgs),
    /// Read a dump from standard input into a new database.
    Load(load::LoadArgs),
    /// Make an empty repository, encrypted or not.
    Init(init::InitArgs),
    /// Pin running databases, and take what they hold into a repository.
    Backup(backup::BackupArgs),
    /// Keep the log of a database in a repository, for restores to any moment.
    Archive(archive::ArchiveArgs),
    /// List what a repository holds.
    Backups(backups::BackupsArgs),
    /// Check that backups are what they say.
    Verify(verify::VerifyArgs),
    /// Write a backup back.
    Restore(restore::RestoreArgs),
    /// Forget backups that no rule keeps, or by name; give their room back.
    Forget(forget::ForgetArgs),
    /// Keep a backup from being forgotten, or let it go.
    Hold(hold::HoldArgs),
    /// Copy backups into another repository.
    Copy(copy::CopyArgs),
    /// Show and change who can open an encrypted repository.
    Key(key::KeyCommandArgs),
    /// Run entries of a configuration: backup, forget, verify when it is due.
    Scheduled(scheduled::ScheduledArgs),
    /// Print, write or serve metrics for Prometheus.
    Metrics(metrics::MetricsArgs),
    /// What `mount` and `run` leave in the background.
    #[command(hide = true)]
    Daemon(daemon::DaemonArgs),
    /// What asks a file system that may never answer.
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
    /// What lets SQLite work on a database, in a process of its own.
    #[command(hide = true)]
    Sqlite(sqlite::SqliteArgs),
}

/// Parses the command line, runs the command, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints each to its place.
            let _ = error.print();
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            return exit.into();
        }
    };
    if let Err(problem) = output::start_log(&cli.log_level) {
        output::problem(&problem);
        return Exit::Usage.into();
    }
    let outcome = match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(args),
        Command::Run(args) => return run::run(args),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Check(args) => status::refuse_ended(&args.path, check::run(args)),
        Command::Dump(args) => status::refuse_ended(&args.path, dump::run(args)),
        Command::Load(args) => load::run(args),
        Command::Init(args) => init::run(args),
        Command::Backup(_)
        | Command::Verify(_)
        | Command::Forget(_)
        | Command::Hold(_)
        | Command::Copy(_)
        | Command::Archive(_) => run_audited(&cli.command),
        Command::Restore(args) => job::tell_failure(args.json, restore::run(args)),
        Command::Scheduled(args) => scheduled::run(args),
        Command::Metrics(args) => metrics::run(args),
        Command::Backups(args) => job::tell_failure(args.json, backups::run(args)),
        Command::Key(args) => key::run(args),
        Command::Daemon(args) => return daemon::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Sqlite(args) => sqlite::run(args),
    };
    finish(outcome)
}

/// A command that the audit log of its repository tells of.
fn run_audited(command: &Command) -> Outcome {
    let nothing = Note::default;
    let (is_json, outcome) = match command {
        Command::Backup(args) => {
            let work = |note: &mut Note| backup::run(args, note);
            let outcome = audit::run(
                "backup",
                (&args.repo, &args.key),
                Note::of(&args.source),
                work,
            );
            (args.json, outcome)
        }
        Command::Verify(args) => {
            let work = |note: &mut Note| verify::run(args, note);
            (
                args.json,
                audit::run("verify", (&args.repo, &args.key), nothing(), work),
            )
        }
        Command::Forget(args) => {
            let work = |note: &mut Note| forget::run(args, note);
            (
                args.json,
                audit::run("forget", (&args.repo, &args.key), nothing(), work),
            )
        }
        Command::Hold(args) => {
            let work = |note: &mut Note| hold::run(args, note);
            let word = if args.release { "release" } else { "hold" };
            (
                false,
                audit::run(word, (&args.repo, &args.key), nothing(), work),
            )
        }
        Command::Copy(args) => {
            let work = |note: &mut Note| copy::run(args, note);
            let outcome = audit::run(
                "copy",
                (&args.repo2, &args.key),
                Note::of_repository(&args.repo),
                work,
            );
            (args.json, outcome)
        }
        Command::Archive(args) => {
            let work = |note: &mut Note| archive::run(args, note);
            let note = Note::of(&args.dir);
            (
                args.json,
                audit::run("archive", (&args.repo, &args.key), note, work),
            )
        }
        _ => unreachable!("the others are run without a log"),
    };
    job::tell_failure(is_json, outcome)
}

fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::problem(&failure.text());
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What is broken by hand must not be broken again where help is at its widest.
    #[test]
    fn lines_of_help_fit() {
        let cli = Cli::command();
        for command in cli.get_subcommands().chain([&cli]) {
            let help = command.get_after_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                assert!(line.len() <= 100, "{}: {line}", command.get_name());
            }
        }
    }
}
