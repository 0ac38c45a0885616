//! The name of a backup.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of a backup: `20261120T190729Z-1f3a5c7e`, the second at which it began (UTC) and 32 random
/// bits. Names sort by time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// A text that names no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a backup, as 20261120T190729Z-1f3a5c7e")]
pub struct NotABackupId;

/// `d` stands for a digit, `x` for a hexadecimal one.
const FORM: &str = "ddddddddTddddddZ-xxxxxxxx";

impl BackupId {
    /// A new name for a backup that began at `wall_ns`.
    #[must_use]
    pub fn new(wall_ns: u64, random: [u8; 4]) -> Self {
        let at = jiff::Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or_default();
        let at = at.to_zoned(jiff::tz::TimeZone::UTC);
        let random = u32::from_le_bytes(random);
        Self(format!("{}-{random:08x}", at.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = NotABackupId;

    fn from_str(text: &str) -> Result<Self, NotABackupId> {
        let fits = |(form, byte): (u8, u8)| match form {
            b'd' => byte.is_ascii_digit(),
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            other => byte == other,
        };
        let is_id = text.len() == FORM.len() && FORM.bytes().zip(text.bytes()).all(fits);
        is_id.then(|| Self(text.to_owned())).ok_or(NotABackupId)
    }
}

impl TryFrom<String> for BackupId {
    type Error = NotABackupId;

    fn try_from(text: String) -> Result<Self, NotABackupId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupId({})", self.0)
    }
}
