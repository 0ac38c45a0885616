//! What was read of packs beyond what was asked for: a request costs a round trip, and frames are read one
//! after the other.

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes that are read at once where somebody reads on.
pub(super) const AHEAD_BYTES: u64 = 2 << 20;
/// 32 MiB at most, as of those that are larger only what was asked for is read.
const WINDOWS_MAX: usize = 16;

/// Parts of objects, each of one version.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The one that was used last stands last.
    windows: Vec<Window>,
    /// How often something was forgotten: what was asked for before may be what is to be forgotten.
    age: u64,
}

#[derive(Debug)]
struct Window {
    name: String,
    e_tag: Option<String>,
    start: u64,
    bytes: Bytes,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) bytes: u64,
    /// When it was said.
    age: u64,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn part(&self, offset: u64, bytes: u64) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(usize::try_from(bytes).ok()?)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

impl Ahead {
    /// Whether parts of `name` are kept: what is written once, and replaced by what has the same content.
    pub(super) fn is_of(name: &str) -> bool {
        name.starts_with("packs/")
    }

    /// So many bytes of `name`, or what to ask for.
    pub(super) fn part(&self, name: &str, offset: u64, bytes: u64) -> Result<Bytes, Ask> {
        let mut kept = self.kept.lock();
        let of_name = |window: &Window| window.name == name;
        let found = kept
            .windows
            .iter()
            .position(|window| of_name(window) && window.part(offset, bytes).is_some());
        if let Some(at) = found {
            let window = kept.windows.remove(at);
            let part = window.part(offset, bytes);
            kept.windows.push(window);
            return part.ok_or(Ask {
                bytes,
                age: kept.age,
            });
        }
        // Whoever reads where the last one ended, or a little behind, reads on.
        let mut windows = kept.windows.iter().filter(|window| of_name(window));
        let reads_on =
            windows.any(|one| offset >= one.start && offset <= one.end().saturating_add(bytes));
        let bytes = match reads_on {
            true => bytes.max(AHEAD_BYTES),
            false => bytes,
        };
        let age = kept.age;
        Err(Ask { bytes, age })
    }

    /// Keeps what came for `ask`.
    pub(super) fn keep(
        &self,
        ask: Ask,
        (name, e_tag): (&str, Option<String>),
        start: u64,
        bytes: Bytes,
    ) {
        let mut kept = self.kept.lock();
        if ask.age != kept.age || bytes.len() as u64 > AHEAD_BYTES {
            return;
        }
        if kept.windows.len() >= WINDOWS_MAX {
            kept.windows.remove(0);
        }
        let name = name.to_owned();
        kept.windows.push(Window {
            name,
            e_tag,
            start,
            bytes,
        });
    }

    /// Forgets what is kept of `name`.
    pub(super) fn forget(&self, name: &str) {
        let mut kept = self.kept.lock();
        kept.age += 1;
        kept.windows.retain(|window| window.name != name);
    }

    /// Forgets what is kept of `name` if that is another version than `e_tag`.
    pub(super) fn expect(&self, name: &str, e_tag: Option<&str>) {
        let mut windows = self.kept.lock();
        let is_other = |window: &Window| {
            window.name == name && (e_tag.is_none() || window.e_tag.as_deref() != e_tag)
        };
        if windows.windows.iter().any(is_other) {
            windows.age += 1;
            windows.windows.retain(|window| !is_other(window));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "packs/a";

    fn keep(ahead: &Ahead, e_tag: &str, start: u64, bytes: &'static [u8]) {
        let ask = ahead.part(NAME, start, bytes.len() as u64).unwrap_err();
        let of = (NAME, Some(e_tag.to_owned()));
        ahead.keep(ask, of, start, Bytes::from_static(bytes));
    }

    /// OS3: what is kept is of one version, and whoever looks at the object anew reads no older one.
    #[test]
    fn parts_are_of_the_version_that_was_seen_last() {
        let ahead = Ahead::default();
        let part = |offset, bytes| ahead.part(NAME, offset, bytes);
        keep(&ahead, "1", 10, b"abcdef");
        assert_eq!(part(11, 3).unwrap(), "bcd");
        assert_eq!(part(10, 7).unwrap_err().bytes, AHEAD_BYTES);
        assert_eq!(part(100, 7).unwrap_err().bytes, 7);
        assert_eq!(ahead.part("packs/b", 11, 3).unwrap_err().bytes, 3);
        ahead.expect(NAME, Some("1"));
        assert_eq!(part(11, 3).unwrap(), "bcd");
        // It was asked for before the other version was seen, and came after that.
        let late = part(16, 1).unwrap_err();
        ahead.expect(NAME, Some("2"));
        ahead.keep(
            late,
            (NAME, Some("1".to_owned())),
            16,
            Bytes::from_static(b"g"),
        );
        assert!(part(11, 3).is_err() && part(16, 1).is_err());
        keep(&ahead, "2", 10, b"ABC");
        ahead.forget(NAME);
        assert!(part(10, 1).is_err());
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let ahead = Ahead::default();
        for start in 0..100 {
            keep(&ahead, "1", start * 1000, b"abc");
        }
        assert_eq!(ahead.kept.lock().windows.len(), WINDOWS_MAX);
        assert!(ahead.part(NAME, 99_000, 3).is_ok());
        assert!(ahead.part(NAME, 0, 3).is_err());
    }
}
