//! Digests of content: BLAKE3, 32 bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a piece of content is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

const GATHERED_BYTES: usize = 64 << 10;

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a whole file: of the digests of its units, in order, after its size. So that of an
    /// incremental backup is known without a look at what did not change.
    #[must_use]
    pub fn of_units(bytes: u64, units: impl IntoIterator<Item = Self>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillfs file\0");
        hasher.update(&bytes.to_le_bytes());
        // Many at once, which the hasher deals with several times as fast.
        let mut gathered = Vec::with_capacity(GATHERED_BYTES);
        for unit in units {
            gathered.extend_from_slice(&unit.0);
            if gathered.len() >= GATHERED_BYTES {
                hasher.update(&gathered);
                gathered.clear();
            }
        }
        hasher.update(&gathered);
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest of 64 hexadecimal digits")]
pub struct NotADigest;

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let bytes = super::hex::decode(&text).ok_or(NotADigest)?;
        Ok(Self(bytes))
    }
}
