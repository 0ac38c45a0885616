//! Which of two places lies in the other, whether they exist or not.

use std::path::{Path, PathBuf};

use crate::os::path::canonical;

/// `path` without links and dots, as far as it exists.
pub(crate) fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (canonical(above), path.strip_prefix(above)) {
            // Joining nothing would add a slash.
            return match rest.as_os_str().is_empty() {
                true => real,
                false => real.join(rest),
            };
        }
    }
    path
}

/// Where `inner` is in `outer`, if it is; nothing for the same place.
pub(crate) fn place_in(inner: &Path, outer: &Path) -> Option<PathBuf> {
    real(inner)
        .strip_prefix(real(outer))
        .ok()
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn links_and_missing_parts_do_not_hide_where_a_place_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("app/sub")).unwrap();
        std::os::unix::fs::symlink(at("app"), at("link")).unwrap();
        let inside = |inner: &str, outer: &str| place_in(&at(inner), &at(outer));
        assert_eq!(
            inside("link/sub/new/repo", "app"),
            Some("sub/new/repo".into())
        );
        assert_eq!(inside("app", "link"), Some("".into()));
        assert_eq!(inside("app-other", "app"), None);
        assert_eq!(inside("app", "app/sub"), None);
    }
}
