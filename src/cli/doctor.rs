//! `stillfs doctor`: looks at the machine, and at a source or a mount point, and says what stands in
//! the way and which command mends it.
//!
//! Runs in its own process. It changes nothing and disturbs nobody: where `/proc/locks` shows no holder
//! of the directory it takes the shared lock, for an instant, and under it tries those of the indexes; an
//! engine that starts meanwhile waits for it. A file system is asked by a child (`probe`), so that one that
//! never answers costs seconds. All that is read may be hostile: it is checked, bounded and shown
//! without control characters.

mod engine;
mod files;
mod finding;
mod machine;
mod mounts;
mod source;
mod sqlite;

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::amount::Many;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::probe;
use crate::os::path::canonical;
use crate::os::{Host, mount_table};
use finding::{Finding, Id, Level, quoted};

/// How many findings of one kind are listed.
const LISTED_MAX: usize = 20;

/// Arguments of `stillfs doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing. Each finding is ok, a warning or a problem, with the command that mends it.
Exits 0 if there is no problem, 1 if there is one; warnings do not count.

Examples:
  stillfs doctor                       this machine, and the mounts of this user
  stillfs doctor /var/lib/app          also the database there, its engine and its pins
  stillfs doctor /var/lib/app/app.db   also an SQLite database, and who has it open
  stillfs doctor /mnt/still --json     also a view; for programs")]
pub(crate) struct DoctorArgs {
    /// A source or a mount point.
    #[arg(value_name = "SOURCE|MOUNTPOINT")]
    path: Option<PathBuf>,
    /// Print JSON: an array of {id, level, subject, message, remedy}.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DoctorArgs) -> Outcome {
    let host = Host::system();
    let mut findings = machine::look();
    let mounts = mounts::look(&mut findings);
    if let Some(path) = &args.path {
        let path = std::path::absolute(path).map_err(Failure::from)?;
        look_at(&host, &path, &mounts, &mut findings);
    }
    let is_sound = findings.iter().all(|one| one.level != Level::Problem);
    if args.json {
        output::json(&findings);
    } else {
        print(&findings);
    }
    Ok(if is_sound { Exit::Done } else { Exit::Failed })
}

/// The mount table is asked before the path is followed, which a daemon may keep from ending.
fn look_at(host: &Host, path: &Path, mounts: &mounts::Mounts, findings: &mut Vec<Finding>) {
    if mounts.view(path, findings) {
        return;
    }
    let Some(answer) = probe::ask(path) else {
        let hung = mount_above(path);
        let text = format!(
            "does not answer: the file system at {} hangs",
            hung.display()
        );
        let shows = format!("findmnt --target {}", quoted(&hung));
        findings.push(Finding::problem(Id::NoAnswer, path.display(), text).mended_by(shows));
        return;
    };
    match answer.error().map_or_else(|| canonical(path), Err) {
        Ok(path) => {
            if !mounts.view(&path, findings) {
                source::look(host, &path, mounts, findings);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = "does not exist: an engine makes a database there";
            let serve = format!("stillfs serve {}", quoted(path));
            findings.push(Finding::problem(Id::Source, path.display(), text).mended_by(serve));
        }
        // The mount itself is a finding already.
        Err(_) if answer.is_of_a_dead_daemon() => {
            let text = "lies in the mount of a daemon that died";
            let clean = format!("stillfs umount {}", quoted(&mount_above(path)));
            findings.push(Finding::problem(Id::NoAnswer, path.display(), text).mended_by(clean));
        }
        Err(error) => {
            let text = format!("cannot be looked at: {error}");
            findings.push(Finding::problem(Id::Source, path.display(), text));
        }
    }
}

/// The innermost mount point on the way to `path`, as it was written.
fn mount_above(path: &Path) -> PathBuf {
    let entries = mount_table::entries().unwrap_or_default();
    let above = path
        .ancestors()
        .find(|above| entries.iter().any(|entry| entry.mount_point == *above));
    above.unwrap_or(Path::new("/")).to_owned()
}

fn print(findings: &[Finding]) {
    for finding in findings {
        finding.lines().iter().for_each(|line| output::line(line));
    }
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let problems = Many(count(Level::Problem) as u64, "problem");
    let warnings = Many(count(Level::Warning) as u64, "warning");
    output::line(&format!("{problems}, {warnings}"));
}

/// Keeps the first findings of a long row, and says how many there are.
fn bounded(mut found: Vec<Finding>) -> Vec<Finding> {
    let count = found.len();
    if count > LISTED_MAX {
        found.truncate(LISTED_MAX);
        if let Some(last) = found.last_mut() {
            last.message = format!("{} ... {count} like this in all", last.message);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_row_of_findings_is_cut_and_counted() {
        let row = |count| bounded(vec![Finding::warning(Id::UnheldIndex, "a", "b"); count]);
        assert_eq!(row(LISTED_MAX).last().unwrap().message, "b");
        let long = row(5000);
        assert_eq!(long.len(), LISTED_MAX);
        assert!(long.last().unwrap().message.contains("5000"), "{long:?}");
    }
}
