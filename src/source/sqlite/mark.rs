//! What a view needs of a pin that is a lock in the live database.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::os::File;
use crate::source::sqlite::wal_pin::{HeldWal, Shape, WalPin};
use crate::view::tree::ReadError;

/// See the head of the file. Any number of threads may use it.
pub(super) trait Mark: Send + Sync + fmt::Debug {
    /// What it shows.
    fn shape(&self) -> Shape;
    /// Fills all of `out` from `offset`, and looks whether that counts. Gives the pages that came from
    /// the log. Errors: any [`ReadError`].
    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<u64, ReadError>;
    /// Whether it holds. Errors: any [`ReadError`].
    fn look(&self) -> Result<(), ReadError>;
    /// What it keeps from being reused. Errors: the system's.
    fn held(&self) -> io::Result<HeldWal>;
    /// Lets every lock go; more than once is no harm.
    fn let_go(&self);
    /// Whether some of its pages are in the log.
    fn reads_log(&self) -> bool;
    /// The database file and the pages (0-based, any order) that must not be read from it; `None` where
    /// that is not known.
    fn parts(&self) -> Option<Parts>;
}

/// See [`Mark::parts`].
#[derive(Debug)]
pub(super) struct Parts {
    /// The database file.
    pub(super) database: Arc<dyn File>,
    /// The pages that are in the log.
    pub(super) logged: Vec<u64>,
}

impl Mark for WalPin {
    fn shape(&self) -> Shape {
        Self::shape(self)
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<u64, ReadError> {
        Self::read_range(self, offset, out)
    }

    fn look(&self) -> Result<(), ReadError> {
        Self::look(self)
    }

    fn held(&self) -> io::Result<HeldWal> {
        Self::held(self)
    }

    fn let_go(&self) {
        Self::let_go(self);
    }

    fn reads_log(&self) -> bool {
        Self::reads_log(self)
    }

    fn parts(&self) -> Option<Parts> {
        Some(Parts {
            database: Arc::clone(self.database()),
            logged: self.logged_pages().collect(),
        })
    }
}
