//! `stillfs hold`: a backup that must not be forgotten.

use clap::Args;

use crate::cli::audit::Note;
use crate::cli::exit::{Exit, Outcome};
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::{Mark, RepositoryError};

/// Arguments of `stillfs hold`.
#[derive(Debug, Args)]
#[command(after_help = "\
A backup that is held is kept by no rule and forgotten by none, also if it is named; stillfs backups
shows it as held.

Examples:
  stillfs hold /backup/app 20261120T190729Z-1f3a5c7e
  stillfs hold /backup/app latest --release")]
pub(crate) struct HoldArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    pub(crate) repo: RepositoryPlace,
    /// The backup: its name, the beginning of it, or latest
    backup: String,
    /// Let it go again
    #[arg(long)]
    pub(crate) release: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
}

pub(crate) fn run(args: &HoldArgs, note: &mut Note) -> Outcome {
    let repository = args.key.open(&Host::system(), &args.repo)?;
    let id = repository.find(&args.backup)?;
    note.backups.push(id.to_string());
    let mut hold = |mark: &mut Mark| mark.is_held = !args.release;
    if let Err(error) = repository.set_mark(&id, &mut hold) {
        // What a mark that cannot be read said is lost; whether it is held is said here.
        if !matches!(
            error,
            RepositoryError::Missing { .. }
                | RepositoryError::Cut { .. }
                | RepositoryError::Damaged { .. }
        ) {
            return Err(error.into());
        }
        output::problem(&format!("{error}; it is written anew"));
        let mut mark = Mark::default();
        hold(&mut mark);
        repository.new_mark(&id, &mark)?;
    }
    output::line(&match args.release {
        false => format!("backup {id} is held"),
        true => format!("backup {id} is held no longer"),
    });
    Ok(Exit::Done)
}
