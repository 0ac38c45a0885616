//! How an engine is opened, and the sizes that steer it.

use crate::page::PageSize;

/// Whether a missing database is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Yes.
    IfMissing,
    /// No: it must be there.
    Never,
}

/// How an engine is opened.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Whether to make a missing database.
    pub create: Create,
    /// Page size of a database that is made; an existing one keeps its own.
    pub page_size: PageSize,
    /// Bytes of page images to keep in memory: a quarter of it for the transaction that writes, the
    /// rest for what is read and for what the live file does not hold yet. What is read also has what the
    /// transaction does not need. More goes to a spool file.
    pub cache_bytes: u64,
    /// Log bytes since the last checkpoint that start the next; so do changed pages that fill half of
    /// the memory for them. With `u64::MAX` none starts by itself.
    pub checkpoint_bytes: u64,
    /// Log bytes at which new transactions wait for a checkpoint; what is kept to be used again, or for an
    /// archive alone, goes before that.
    pub log_bytes_max: u64,
    /// Bytes that pre-images leave free on the file system, so that commits find space; `None` stands
    /// for the log's limit and [`FREE_ABOVE_LOG`].
    pub free_floor_bytes: Option<u64>,
}

/// What stays free beside the log at its limit, for the live file and for transactions under way.
pub const FREE_ABOVE_LOG: u64 = 1 << 30;

impl EngineOptions {
    /// Bytes that pre-images leave free on the file system.
    #[must_use]
    pub fn floor_bytes(&self) -> u64 {
        let default = || self.log_bytes_max.saturating_add(FREE_ABOVE_LOG);
        self.free_floor_bytes.unwrap_or_else(default)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            create: Create::IfMissing,
            page_size: PageSize::DEFAULT,
            cache_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            log_bytes_max: 1 << 30,
            free_floor_bytes: None,
        }
    }
}
