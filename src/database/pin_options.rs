//! What is asked of a pin: how long it may last, how much it may keep, what happens when that is too
//! little.

use std::time::Duration;

use crate::database::error::DatabaseError;
use crate::page::PageSize;
use crate::shadow::index::OnFull;

/// Pages that every pin keeps: the view's two headers.
const PAGES_MIN: u64 = 2;

/// What is asked of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinOptions {
    /// After how long it ends by itself: [`PinOptions::MAX_AGE_MIN`] to [`PinOptions::MAX_AGE_MAX`].
    pub max_age: Duration,
    /// What happens when it may keep no more.
    pub on_full: OnFull,
    /// Bytes of page images that it may keep, those that it shares with other pins included; `None`
    /// stands for what it takes at the start and half of what is then free above the floor.
    pub shadow_limit_bytes: Option<u64>,
}

impl Default for PinOptions {
    fn default() -> Self {
        Self {
            max_age: Self::MAX_AGE_DEFAULT,
            on_full: OnFull::Break,
            shadow_limit_bytes: None,
        }
    }
}

impl PinOptions {
    /// How long a pin lasts unless asked for less or more.
    pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
    /// Shortest maximum age: pins are looked after about once a second.
    pub const MAX_AGE_MIN: Duration = Duration::from_secs(1);
    /// Longest maximum age.
    pub const MAX_AGE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// Errors: `MaxAge`, `ShadowLimit`.
    pub(super) fn check(&self, page_size: PageSize) -> Result<(), DatabaseError> {
        if !(Self::MAX_AGE_MIN..=Self::MAX_AGE_MAX).contains(&self.max_age) {
            let found = self.max_age;
            return Err(DatabaseError::MaxAge { found });
        }
        let min = PAGES_MIN * u64::from(page_size.get());
        match self.shadow_limit_bytes {
            Some(found) if found < min => Err(DatabaseError::ShadowLimit { found, min }),
            _ => Ok(()),
        }
    }
}
