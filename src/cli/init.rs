//! `stillfs init`: an empty repository, encrypted or not.

use std::path::PathBuf;

use clap::Args;

use crate::amount::Many;
use crate::cli::audit::{self, Note};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::repository_key::{self, StoreArgs};
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::Repository;
use crate::repository::crypt::NewKeys;

/// Arguments of `stillfs init`.
#[derive(Debug, Args)]
#[command(after_help = "\
A repository that is not encrypted needs no init: the first backup makes it. Whether one is
encrypted is chosen here, for good. Without a key nothing of an encrypted one can be read but the
sizes of its files, and how many there are; a key that is lost cannot be made up for. Keep a copy of
the key file, or of the passphrase, elsewhere than the repository.

  --to               an age recipient: whoever has its identity (in a file that age-keygen makes)
                     can read and write the repository; may be given more than once
  --passphrase-file  whoever knows the passphrase can; more slowly, as it must be hard to guess

Every command on the repository is then given --key-file or --passphrase-file, or finds their names
in STILLFS_KEY_FILE or STILLFS_PASSPHRASE_FILE. stillfs key adds and removes those who have a key.

Examples:
  age-keygen -o /etc/backup.key                   makes a key, and prints its recipient
  stillfs init /backup/app --to age1...
  stillfs backup /var/lib/app --repo /backup/app --key-file /etc/backup.key")]
pub(crate) struct InitArgs {
    /// The repository: a directory that is empty or not there yet
    repo: RepositoryPlace,
    /// Encrypt it for this age recipient; may be given more than once
    #[arg(long, value_name = "RECIPIENT")]
    // Parsed later: what is wrong with it must not be told with it.
    to: Vec<String>,
    /// Encrypt it for who knows the passphrase in this file (mode 0600)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Make one that is not encrypted
    #[arg(long, conflicts_with_all = ["to", "passphrase_file"])]
    plain: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &InitArgs) -> Outcome {
    let passphrase = args.passphrase_file.as_deref();
    let passphrase = passphrase.map(repository_key::passphrase).transpose()?;
    let recipients = args.to.iter().map(|text| repository_key::recipient(text));
    let keys = NewKeys {
        recipients: recipients.collect::<Result<_, _>>()?,
        passphrase,
    };
    if keys.is_empty() && !args.plain {
        return Err(Failure::usage(anyhow::anyhow!(
            "whom it is encrypted for is not said: give --to or --passphrase-file, or --plain"
        )));
    }
    let place = args.repo.real();
    let host = Host::system();
    let begun_ns = host.clock.wall_ns();
    let repository = Repository::create_store(&host, args.store.at(&host, &place)?, &keys)?;
    let done = Ok(Exit::Done);
    audit::add(&repository, "init", Note::default(), (begun_ns, &done));
    let holders = args.to.len() + usize::from(keys.passphrase.is_some());
    output::line(&match args.plain {
        true => format!("made {}, not encrypted", place),
        false => format!(
            "made {}, encrypted for {}",
            place,
            Many(holders as u64, "holder")
        ),
    });
    done
}
