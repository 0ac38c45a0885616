//! What an encrypted repository is opened with, from files that nobody else may read.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::exit::Failure;
use crate::os::secret_file::{read_secret, read_secret_lines};
use crate::repository::crypt::{Passphrase, Recipient, Unlock};

/// Some hundred identities.
const KEY_FILE_BYTES_MAX: usize = 64 << 10;
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// How the secret of an age key begins.
const SECRET_BEGIN: &str = "AGE-SECRET-KEY-";

/// How an encrypted repository is opened.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeyArgs {
    /// For an encrypted repository: a file with an age identity, as age-keygen makes it (mode 0600)
    #[arg(long, value_name = "FILE", env = "STILLFS_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// For an encrypted repository: a file with its passphrase, on one line (mode 0600)
    #[arg(long, value_name = "FILE", env = "STILLFS_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

/// The same for the repository that is copied from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FromKeyArgs {
    /// If REPO is encrypted: a file with an age identity; --key-file is for REPO2
    #[arg(long, value_name = "FILE", env = "STILLFS_FROM_KEY_FILE")]
    from_key_file: Option<PathBuf>,
    /// If REPO is encrypted: a file with its passphrase; --passphrase-file is for REPO2
    #[arg(long, value_name = "FILE", env = "STILLFS_FROM_PASSPHRASE_FILE")]
    from_passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    /// What another command has under other names.
    pub(crate) fn of(key_file: Option<PathBuf>, passphrase_file: Option<PathBuf>) -> Self {
        Self {
            key_file,
            passphrase_file,
        }
    }

    /// Whether there is nothing to open with.
    pub(crate) fn is_none(&self) -> bool {
        self.key_file.is_none() && self.passphrase_file.is_none()
    }

    /// The file whose place depends on where the command is run, if there is one.
    pub(crate) fn relative(&self) -> Option<&Path> {
        let files = [&self.key_file, &self.passphrase_file];
        let mut files = files.into_iter().flatten();
        files.find(|path| path.is_relative()).map(PathBuf::as_path)
    }

    /// Reads the files. Errors: one that cannot be used.
    pub(crate) fn unlock(&self) -> Result<Unlock, Failure> {
        unlock(self.key_file.as_deref(), self.passphrase_file.as_deref())
    }
}

impl FromKeyArgs {
    /// Reads the files. Errors: one that cannot be used.
    pub(crate) fn unlock(&self) -> Result<Unlock, Failure> {
        let (key, passphrase) = (&self.from_key_file, &self.from_passphrase_file);
        unlock(key.as_deref(), passphrase.as_deref())
    }
}

fn unlock(key_file: Option<&Path>, passphrase_file: Option<&Path>) -> Result<Unlock, Failure> {
    let mut unlock = Unlock::none();
    if let Some(path) = key_file {
        let cannot = || format!("cannot use the key file {}", path.display());
        let text = read_secret_lines(path, KEY_FILE_BYTES_MAX).with_context(cannot)?;
        let text = Zeroizing::new(text);
        unlock.add_key_file(&text).with_context(cannot)?;
    }
    if let Some(path) = passphrase_file {
        unlock.set_passphrase(passphrase(path)?);
    }
    Ok(unlock)
}

/// Whoever `text` is the recipient of. Errors: usage, which does not tell `text`: it may be a secret (CR5).
pub(crate) fn recipient(text: &str) -> Result<Recipient, Failure> {
    refuse_secret(text)?;
    let parsed = text.parse::<Recipient>();
    parsed.map_err(|fault| Failure::usage(anyhow::anyhow!("--to: {fault}")))
}

/// Errors: usage, for a secret where a name belongs.
pub(crate) fn refuse_secret(text: &str) -> Result<(), Failure> {
    let text = text.trim();
    let begin = text.get(..SECRET_BEGIN.len()).unwrap_or_default();
    match begin.eq_ignore_ascii_case(SECRET_BEGIN) {
        false => Ok(()),
        true => Err(Failure::usage(anyhow::anyhow!(
            "that is the secret of an age key, and not its recipient, which begins with age1: \
             `age-keygen -y FILE` prints it. Whoever saw this command line has the secret: make \
             another key"
        ))),
    }
}

/// The passphrase in the file `path`. Errors: a file that cannot be used.
pub(crate) fn passphrase(path: &Path) -> Result<Passphrase, Failure> {
    let cannot = || format!("cannot use the passphrase file {}", path.display());
    let secret = read_secret(path, PASSPHRASE_BYTES_MAX).with_context(cannot)?;
    Ok(Passphrase::new(&Zeroizing::new(secret)).with_context(cannot)?)
}
