//! What is asked of a backup.

use std::time::Duration;

use crate::repository::compression::Compression;

/// Which kind of backup is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// A full one if there is no base, or the last full one is old; else an incremental one.
    #[default]
    Auto,
    /// A full one.
    Full,
    /// What changed since the newest backup of the source.
    Incremental,
    /// What changed since the newest full backup of the source.
    Differential,
}

/// What is asked of a backup.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Which kind.
    pub wanted: Wanted,
    /// A word of the user's.
    pub tag: Option<String>,
    /// Paths in the source that are left out: shell patterns; one without `/` is compared with the last
    /// name. What is below a directory that is left out is too.
    pub exclude: Vec<glob::Pattern>,
    /// Plain files over so many bytes are left out; databases never.
    pub size_max: Option<u64>,
    /// Bytes that are read per second at most.
    pub rate_max: Option<u64>,
    /// Whether it is in a hurry: nobody who writes the source meanwhile is stood back for.
    pub full_speed: bool,
    /// How new content is compressed.
    pub compression: Compression,
    /// Threads that read and compress; 0 for as many as there are processors.
    pub workers: usize,
}

impl BackupOptions {
    /// `Auto` takes a full backup when the last is older.
    pub const FULL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    /// `Auto` takes a full backup when there were so many since the last.
    pub const SINCE_FULL_MAX: usize = 30;
}
