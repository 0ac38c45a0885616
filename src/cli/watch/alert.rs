//! The kinds of alerts, and how one is shown.

use std::fmt;

use serde::Serialize;

/// A kind of alert, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Alert {
    /// A repository cannot be read.
    Unreadable,
    /// A verification found damage, or a backup cannot be read.
    Damaged,
    /// The last run failed.
    Failing,
    /// The newest backup is too old, or there is none.
    Overdue,
    /// Nothing is in the newest backup.
    Empty,
    /// The newest backup is far smaller than those before.
    Shrinking,
    /// No backup was verified for too long.
    Unverified,
}

impl Alert {
    /// All, the worst first.
    pub(crate) const ALL: [Self; 7] = [
        Self::Unreadable,
        Self::Damaged,
        Self::Failing,
        Self::Overdue,
        Self::Empty,
        Self::Shrinking,
        Self::Unverified,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::Failing => "failing",
            Self::Overdue => "overdue",
            Self::Empty => "empty",
            Self::Shrinking => "shrinking",
            Self::Unverified => "unverified",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One alert. The names are stable.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AlertShown {
    pub(crate) alert: Alert,
    /// The name of the source; `null` for the whole repository.
    pub(crate) name: Option<String>,
    /// Its path, and the machine that it is on.
    pub(crate) source: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) repository: String,
    pub(crate) what: String,
    /// What to do.
    pub(crate) next: String,
}
