//! `stillfs key`: who can open an encrypted repository.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::audit::{self, Note};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::repository_key::{self, KeyArgs};
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::crypt::KeyKeeper;

/// Arguments of `stillfs key`.
#[derive(Debug, Args)]
#[command(after_help = "\
The master key of an encrypted repository lies in it, wrapped for everybody who holds a key of his
own: the recipient of an age identity, or a passphrase. They are all alike.

Who is removed cannot open the repository any more, but may have kept the master key: rotate makes a
new one for all that is backed up from then on, which he does not get. What he could read before he
still can, if he gets at the files; copy the backups into a new repository to change that.

Examples:
  stillfs key list /backup/app
  stillfs key add /backup/app --to age1...
  stillfs key add /backup/app --new-passphrase-file /etc/new-passphrase
  stillfs key remove /backup/app age1...
  stillfs key rotate /backup/app")]
pub(crate) struct KeyCommandArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Show who holds a key, and the ages of the master keys.
    List(ListArgs),
    /// Let somebody else open the repository.
    Add(AddArgs),
    /// Take a key away from who has it.
    Remove(RemoveArgs),
    /// Make a new master key for what is backed up from now on.
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    #[command(flatten)]
    key: KeyArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    /// An age recipient
    #[arg(
        long,
        value_name = "RECIPIENT",
        required_unless_present = "new_passphrase_file",
        conflicts_with = "new_passphrase_file"
    )]
    // Parsed later: what is wrong with it must not be told with it.
    to: Option<String>,
    /// A file with a passphrase (mode 0600)
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    /// Who: a recipient, or the id of a passphrase, as list shows them
    #[arg(value_name = "WHO")]
    name: String,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    #[command(flatten)]
    key: KeyArgs,
}

/// What `--json` prints. The names are stable.
#[derive(Debug, Serialize)]
struct Listed {
    holders: Vec<HolderRow>,
    keys: Vec<KeyRow>,
}

#[derive(Debug, Serialize)]
struct HolderRow {
    name: String,
    is_passphrase: bool,
}

#[derive(Debug, Serialize)]
struct KeyRow {
    id: String,
    created: String,
    is_newest: bool,
}

pub(crate) fn run(args: &KeyCommandArgs) -> Outcome {
    let (command, repo, key) = match &args.command {
        KeyCommand::List(args) => {
            list(&open(&args.repo, &args.key)?, args.json);
            return Ok(Exit::Done);
        }
        KeyCommand::Add(args) => ("key add", &args.repo, &args.key),
        KeyCommand::Remove(args) => ("key remove", &args.repo, &args.key),
        KeyCommand::Rotate(args) => ("key rotate", &args.repo, &args.key),
    };
    // Whoever takes his own key away cannot open it any more.
    let before = match &args.command {
        KeyCommand::Remove(_) => audit::open(repo, key),
        _ => None,
    };
    let work = |_: &mut Note| change(&args.command);
    audit::run_on(before, command, (repo, key), Note::default(), work)
}

/// Errors: a key that does not open the repository, and those of reading it.
fn open(repo: &RepositoryPlace, key: &KeyArgs) -> Result<KeyKeeper, Failure> {
    key.keeper(&Host::system(), repo)
}

fn change(command: &KeyCommand) -> Outcome {
    match command {
        KeyCommand::List(_) => {}
        KeyCommand::Add(args) => {
            let recipient = args.to.as_deref().map(repository_key::recipient);
            let recipient = recipient.transpose()?;
            let mut keeper = open(&args.repo, &args.key)?;
            if let Some(recipient) = &recipient {
                keeper.add_recipient(recipient)?;
                output::line("added the recipient");
            } else if let Some(path) = &args.new_passphrase_file {
                let id = keeper.add_passphrase(&repository_key::passphrase(path)?)?;
                output::line(&format!("added the passphrase as {id}"));
            }
        }
        KeyCommand::Remove(args) => {
            repository_key::refuse_secret(&args.name)?;
            open(&args.repo, &args.key)?.remove(&args.name)?;
            output::line(&format!(
                "removed {}; `stillfs key rotate` keeps new backups from who has kept the master key",
                args.name
            ));
        }
        KeyCommand::Rotate(args) => {
            open(&args.repo, &args.key)?.rotate()?;
            output::line("new objects are encrypted with a new master key");
        }
    }
    Ok(Exit::Done)
}

fn list(keeper: &KeyKeeper, json: bool) {
    let holders = keeper.holders().into_iter().map(|holder| HolderRow {
        name: holder.name,
        is_passphrase: holder.is_passphrase,
    });
    let keys = keeper.keys().into_iter().map(|key| KeyRow {
        id: key.id,
        created: key.created,
        is_newest: key.is_newest,
    });
    let listed = Listed {
        holders: holders.collect(),
        keys: keys.collect(),
    };
    if json {
        return output::json(&listed);
    }
    for holder in &listed.holders {
        let kind = if holder.is_passphrase {
            "passphrase"
        } else {
            "recipient"
        };
        output::line(&format!("{kind:<10}  {}", holder.name));
    }
    for key in &listed.keys {
        let use_of = if key.is_newest {
            "master key"
        } else {
            "old key"
        };
        output::line(&format!("{use_of:<10}  {}  made {}", key.id, key.created));
    }
}
