//! What opens and closes the ring of keys: identities and passphrases, by the age library.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use zeroize::Zeroizing;

use crate::repository::error::{RepositoryError, Result};

/// Work of a passphrase, as the age command has it: 256 MiB of memory and about a second.
const WORK_FACTOR: u8 = 18;
/// A file that asks for more is not tried: 1 GiB.
const WORK_FACTOR_MAX: u8 = 20;
/// More than a ring can have.
const PLAIN_BYTES_MAX: u64 = 1 << 20;

/// Why something is no key. What was read is not told (CR5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// Not a recipient.
    #[error("not the recipient of an age key, which begins with age1")]
    NotARecipient,
    /// Not an identity.
    #[error(
        "line {line} is no age identity, which begins with AGE-SECRET-KEY-1 (age-keygen makes one)"
    )]
    NotAnIdentity {
        /// Where, from 1.
        line: usize,
    },
    /// There is no identity in the file.
    #[error("no age identity is in it (age-keygen makes one)")]
    NoIdentity,
    /// A passphrase that is no text.
    #[error("the passphrase is not UTF-8")]
    NotText,
}

/// A passphrase. It is wiped when it goes.
#[derive(Clone)]
pub struct Passphrase {
    secret: SecretString,
    work_factor: u8,
}

impl Passphrase {
    /// Errors: `NotText`.
    pub fn new(secret: &[u8]) -> Result<Self, KeyFault> {
        let secret = std::str::from_utf8(secret).map_err(|_| KeyFault::NotText)?;
        Ok(Self {
            secret: SecretString::from(secret.to_owned()),
            work_factor: WORK_FACTOR,
        })
    }

    /// One that is guessed at fast: for tests alone.
    #[cfg(test)]
    #[must_use]
    pub fn weakened(mut self) -> Self {
        self.work_factor = 2;
        self
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Whom a repository is encrypted to: `age1...`.
#[derive(Clone, Debug)]
pub struct Recipient(pub(super) x25519::Recipient);

impl FromStr for Recipient {
    type Err = KeyFault;

    fn from_str(text: &str) -> Result<Self, KeyFault> {
        let parsed = text.trim().parse();
        parsed.map(Self).map_err(|_| KeyFault::NotARecipient)
    }
}

/// For whom a new repository is encrypted; for nobody, it is not encrypted.
#[derive(Clone, Debug, Default)]
pub struct NewKeys {
    /// Who has one of their identities can read it.
    pub recipients: Vec<Recipient>,
    /// Who knows it can.
    pub passphrase: Option<Passphrase>,
}

impl NewKeys {
    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.passphrase.is_none()
    }
}

/// What an encrypted repository is opened with.
#[derive(Clone, Default)]
pub struct Unlock {
    pub(super) identities: Vec<x25519::Identity>,
    pub(super) passphrase: Option<Passphrase>,
}

impl Unlock {
    /// Nothing: for a repository that is not encrypted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes the identities of an age key file: one a line, and comments that begin with `#`.
    ///
    /// Errors: `NotAnIdentity`, `NoIdentity`, `NotText`.
    pub fn add_key_file(&mut self, text: &[u8]) -> Result<(), KeyFault> {
        let text = std::str::from_utf8(text).map_err(|_| KeyFault::NotText)?;
        let count = self.identities.len();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if !line.is_empty() && !line.starts_with('#') {
                let identity = line.parse();
                let wrong = |_| KeyFault::NotAnIdentity { line: number };
                self.identities.push(identity.map_err(wrong)?);
            }
        }
        match self.identities.len() > count {
            true => Ok(()),
            false => Err(KeyFault::NoIdentity),
        }
    }

    /// Takes a passphrase.
    pub fn set_passphrase(&mut self, passphrase: Passphrase) {
        self.passphrase = Some(passphrase);
    }

    /// Whether it opens nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrase.is_none()
    }
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlock")
            .field("identities", &self.identities.len())
            .field("passphrase", &self.passphrase.is_some())
            .finish()
    }
}

/// An age file for all of `recipients`, of which there is one at least. Errors: `Io`.
pub(super) fn wrap_to(recipients: &[x25519::Recipient], plain: &[u8]) -> Result<Vec<u8>> {
    wrap(recipients.iter().map(|to| to as &dyn age::Recipient), plain)
}

/// A new identity, and an age file of it for `passphrase`. Errors: `Io`.
pub(super) fn new_wrapped_identity(
    passphrase: &Passphrase,
) -> Result<(x25519::Recipient, Vec<u8>)> {
    let identity = x25519::Identity::generate();
    let mut recipient = scrypt::Recipient::new(passphrase.secret.clone());
    recipient.set_work_factor(passphrase.work_factor);
    let text = identity.to_string();
    let to = &recipient as &dyn age::Recipient;
    let sealed = wrap(std::iter::once(to), text.expose_secret().as_bytes())?;
    Ok((identity.to_public(), sealed))
}

fn wrap<'a>(
    recipients: impl Iterator<Item = &'a dyn age::Recipient>,
    plain: &[u8],
) -> Result<Vec<u8>> {
    let failed = RepositoryError::io("wrap", "the keys of the repository");
    let wrapped = || -> std::io::Result<Vec<u8>> {
        let encryptor = Encryptor::with_recipients(recipients).map_err(std::io::Error::other)?;
        let mut out = Vec::new();
        let mut writer = encryptor.wrap_output(&mut out)?;
        writer.write_all(plain)?;
        writer.finish()?;
        Ok(out)
    };
    wrapped().map_err(failed)
}

/// What is in an age file for one of `identities`; none if it is for others.
///
/// Errors: what is wrong with the file.
pub(super) fn unwrap_by_identities(
    sealed: &[u8],
    identities: &[x25519::Identity],
) -> Result<Option<Zeroizing<Vec<u8>>>, &'static str> {
    let identities = identities.iter().map(|by| by as &dyn age::Identity);
    unwrap(sealed, identities)
}

/// The identity in an age file for `passphrase`; none if it is of another one.
///
/// Errors: what is wrong with the file.
pub(super) fn unwrap_by_passphrase(
    sealed: &[u8],
    passphrase: &Passphrase,
) -> Result<Option<x25519::Identity>, &'static str> {
    let mut by = scrypt::Identity::new(passphrase.secret.clone());
    by.set_max_work_factor(WORK_FACTOR_MAX);
    let Some(text) = unwrap(sealed, std::iter::once(&by as &dyn age::Identity))? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&text).ok();
    let identity = text.and_then(|text| text.trim().parse().ok());
    identity.map(Some).ok_or("there is no identity in it")
}

fn unwrap<'a>(
    sealed: &[u8],
    identities: impl Iterator<Item = &'a dyn age::Identity>,
) -> Result<Option<Zeroizing<Vec<u8>>>, &'static str> {
    let opened = Decryptor::new_buffered(sealed).and_then(|file| file.decrypt(identities));
    let reader = match opened {
        Ok(reader) => reader,
        Err(DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed) => return Ok(None),
        Err(DecryptError::UnknownFormat) => {
            return Err("it is no age file that this stillfs knows");
        }
        Err(DecryptError::ExcessiveWork { .. }) => {
            return Err("its passphrase asks for too much work");
        }
        Err(_) => return Err("it is no age file, or a damaged one"),
    };
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
    let read = reader.take(PLAIN_BYTES_MAX).read_to_end(&mut plain);
    read.map(|_| Some(plain))
        .map_err(|_| "its content is damaged")
}
