//! How a repository is opened: what it is encrypted with, from files that nobody else may read, and how
//! the server of a bucket is reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use crate::cli::bounds::period;
#[cfg(feature = "s3")]
use crate::cli::exit::Exit;
use crate::cli::exit::Failure;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
#[cfg(feature = "s3")]
use crate::os::path::read_small_file;
use crate::os::secret_file::{read_secret, read_secret_lines};
use crate::repository::Repository;
#[cfg(feature = "s3")]
use crate::repository::bucket::{self, BucketSettings, BucketStore, S3Error, S3Options};
use crate::repository::crypt::{KeyKeeper, Passphrase, Recipient, Unlock};
use crate::repository::store::{self, Store};

/// Some hundred identities.
const KEY_FILE_BYTES_MAX: usize = 64 << 10;
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// All authorities that a system trusts.
#[cfg(feature = "s3")]
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// How the secret of an age key begins.
const SECRET_BEGIN: &str = "AGE-SECRET-KEY-";

/// How the server of s3://BUCKET/PREFIX is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct StoreArgs {
    /// For s3://BUCKET/PREFIX: its server, as https://HOST:PORT [default: that of Amazon]
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL")]
    endpoint: Option<String>,
    /// For s3://BUCKET/PREFIX: its region [default: AWS_DEFAULT_REGION, or us-east-1]
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    region: Option<String>,
    /// For s3://BUCKET/PREFIX: certificates (PEM) to trust besides those of the system
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    cacert: Option<PathBuf>,
    /// For s3://BUCKET/PREFIX: let --endpoint be plain http of another machine
    #[arg(long)]
    allow_http: bool,
    /// How long a lock in a bucket lives that is not renewed
    #[arg(long, hide = true, value_parser = period, env = "STILLFS_LOCK_TTL")]
    lock_ttl: Option<Duration>,
    /// For how long a request to a bucket that failed is made again
    #[arg(long, hide = true, value_parser = period, env = "STILLFS_STORE_PATIENCE")]
    store_patience: Option<Duration>,
}

/// How a repository is opened.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeyArgs {
    /// For an encrypted repository: a file with an age identity, as age-keygen makes it (mode 0600)
    #[arg(long, value_name = "FILE", env = "STILLFS_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// For an encrypted repository: a file with its passphrase, on one line (mode 0600)
    #[arg(long, value_name = "FILE", env = "STILLFS_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
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
            ..Self::default()
        }
    }

    /// Takes from `other` what is not given.
    pub(crate) fn complete(&mut self, other: &Self) {
        if self.key_file.is_none() && self.passphrase_file.is_none() {
            self.key_file.clone_from(&other.key_file);
            self.passphrase_file.clone_from(&other.passphrase_file);
        }
        if self.store == StoreArgs::default() {
            self.store.clone_from(&other.store);
        }
    }

    /// The file whose place depends on where the command is run, if there is one.
    pub(crate) fn relative(&self) -> Option<&Path> {
        let files = [&self.key_file, &self.passphrase_file, &self.store.cacert];
        let mut files = files.into_iter().flatten();
        files.find(|path| path.is_relative()).map(PathBuf::as_path)
    }

    /// Reads the files. Errors: one that cannot be used.
    pub(crate) fn unlock(&self) -> Result<Unlock, Failure> {
        unlock(self.key_file.as_deref(), self.passphrase_file.as_deref())
    }

    /// Opens the repository at `place`. Errors: as for [`Repository::open_store`].
    pub(crate) fn open(&self, host: &Host, place: &RepositoryPlace) -> Result<Repository, Failure> {
        let store = self.store.at(host, place)?;
        Ok(Repository::open_store(host, store, &self.unlock()?)?)
    }

    /// The same, and makes one if none is there. Errors: as for [`Repository::open_or_create_store`].
    pub(crate) fn open_or_create(
        &self,
        host: &Host,
        place: &RepositoryPlace,
    ) -> Result<Repository, Failure> {
        let store = self.store.at(host, place)?;
        let unlock = self.unlock()?;
        Ok(Repository::open_or_create_store(host, store, &unlock)?)
    }

    /// The keys of the repository at `place`. Errors: as for [`KeyKeeper::open_store`].
    pub(crate) fn keeper(
        &self,
        host: &Host,
        place: &RepositoryPlace,
    ) -> Result<KeyKeeper, Failure> {
        let store = self.store.at(host, place)?;
        Ok(KeyKeeper::open_store(host, store, &self.unlock()?)?)
    }
}

impl StoreArgs {
    /// What keeps the objects of the repository at `place`.
    ///
    /// Errors: usage; credentials that are missing; a file that cannot be read.
    pub(crate) fn at(
        &self,
        host: &Host,
        place: &RepositoryPlace,
    ) -> Result<Arc<dyn Store>, Failure> {
        match place.real() {
            RepositoryPlace::Folder(path) => Ok(store::in_folder(host, &path)),
            RepositoryPlace::Bucket { bucket, prefix } => {
                self.in_bucket(host, (bucket, &prefix), place.to_string())
            }
        }
    }

    #[cfg(feature = "s3")]
    fn in_bucket(
        &self,
        host: &Host,
        (bucket, prefix): (String, &str),
        place: String,
    ) -> Result<Arc<dyn Store>, Failure> {
        let region = self.region.clone();
        let region = region.or_else(|| std::env::var("AWS_DEFAULT_REGION").ok());
        let authorities = self.cacert.as_deref().map(|path| {
            let cannot = || format!("cannot use the certificates in {}", path.display());
            read_small_file(path, CERTIFICATES_BYTES_MAX).with_context(cannot)
        });
        let options = S3Options {
            bucket,
            endpoint: self.endpoint.clone().filter(|url| !url.is_empty()),
            region: region.filter(|region| !region.is_empty()),
            authorities: authorities.transpose()?,
            is_http_allowed: self.allow_http,
            is_virtual_hosted: false,
        };
        let objects = bucket::connect(&options).map_err(|error| match error {
            S3Error::NoCredentials { .. } => Failure::new(Exit::StoreRefused, error),
            error => Failure::usage(error),
        })?;
        let mut settings = BucketSettings::default();
        settings.lock_ttl = self.lock_ttl.unwrap_or(settings.lock_ttl);
        settings.patience = self.store_patience.unwrap_or(settings.patience);
        settings.first_patience = settings.first_patience.min(settings.patience);
        let store = BucketStore::new(host, objects, prefix, place, settings)?;
        Ok(Arc::new(store))
    }

    #[cfg(not(feature = "s3"))]
    fn in_bucket(
        &self,
        _host: &Host,
        _bucket: (String, &str),
        place: String,
    ) -> Result<Arc<dyn Store>, Failure> {
        Err(Failure::usage(anyhow::anyhow!(
            "{place}: this stillfs was built without buckets (its feature s3)"
        )))
    }
}

impl FromKeyArgs {
    /// Reads the files. Errors: one that cannot be used.
    fn unlock(&self) -> Result<Unlock, Failure> {
        let (key, passphrase) = (&self.from_key_file, &self.from_passphrase_file);
        unlock(key.as_deref(), passphrase.as_deref())
    }

    /// Opens the repository at `place`, whose server is reached as `other` says. Errors: as for
    /// [`Repository::open_store`].
    pub(crate) fn open(
        &self,
        host: &Host,
        place: &RepositoryPlace,
        other: &KeyArgs,
    ) -> Result<Repository, Failure> {
        let store = other.store.at(host, place)?;
        Ok(Repository::open_store(host, store, &self.unlock()?)?)
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
