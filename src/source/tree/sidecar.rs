//! The names of what SQLite keeps beside a database.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What is appended to a database's name.
const ENDS: [&str; 4] = ["-wal", "-shm", "-journal", "-wal2"];
/// A super-journal, which joins the journals of several databases: this and nine hexadecimal digits.
const SUPER_END: &[u8] = b"-mj";
const SUPER_DIGITS: usize = 9;

/// The databases of one directory, by which what is beside them is known.
#[derive(Debug, Default)]
pub(super) struct Sidecars {
    databases: BTreeSet<OsString>,
}

/// `name` with `end` appended.
pub(super) fn with_end(name: &OsStr, end: &str) -> OsString {
    let mut longer = name.to_owned();
    longer.push(end);
    longer
}

/// The names of the log and of its index beside the database `name`.
pub(super) fn log_and_index(name: &OsStr) -> [OsString; 2] {
    [with_end(name, ENDS[0]), with_end(name, ENDS[1])]
}

impl Sidecars {
    /// Names a database.
    pub(super) fn add(&mut self, database: &OsStr) {
        self.databases.insert(database.to_owned());
    }

    /// Whether `name` is that of something beside a database that was named.
    ///
    /// A database's name stands before those of what is beside it, in the order of bytes: whoever goes by
    /// that order has named it.
    pub(super) fn contains(&self, name: &OsStr) -> bool {
        let bytes = name.as_encoded_bytes();
        let is_database = |stem: &[u8]| self.databases.contains(OsStr::from_bytes(stem));
        let plain = ENDS
            .iter()
            .filter_map(|end| bytes.strip_suffix(end.as_bytes()));
        plain.chain(super_stem(bytes)).any(is_database)
    }
}

fn super_stem(name: &[u8]) -> Option<&[u8]> {
    let (rest, digits) = name.split_at_checked(name.len().checked_sub(SUPER_DIGITS)?)?;
    let is_number = digits.iter().all(u8::is_ascii_hexdigit);
    is_number.then(|| rest.strip_suffix(SUPER_END))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beside_a_database_is_hidden() {
        let mut sidecars = Sidecars::default();
        sidecars.add("app.db".as_ref());
        sidecars.add(OsStr::from_bytes(b"\xffodd"));
        for name in [
            "app.db-wal",
            "app.db-shm",
            "app.db-journal",
            "app.db-wal2",
            "app.db-mj0123ABCDE",
        ] {
            assert!(sidecars.contains(name.as_ref()), "{name}");
        }
        assert!(sidecars.contains(OsStr::from_bytes(b"\xffodd-wal")));
        for name in [
            "app.db",
            "other.db-wal",
            "-wal",
            "app.db-mj0123ABCD",
            "app.db-mj0123ABCDX",
            "xapp.db-shm",
            "-mj0123ABCDE",
            "",
        ] {
            assert!(!sidecars.contains(name.as_ref()), "{name}");
        }
    }
}
