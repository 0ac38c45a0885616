//! The files of the tree, read once per test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::scan::{self, Token};

/// Files larger than this are data, not text that a person wrote.
const TEXT_BYTES_MAX: u64 = 2 << 20;

/// A text file of the tree.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
}

impl TextFile {
    /// A file that exists only in a test of a rule.
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text }
    }

    /// The lines with their 1-based numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .zip(1..)
            .map(|(line, number)| (number, line))
    }

    /// The tokens of a Rust file.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        scan::tokens(&self.text)
    }
}

/// The directory of Cargo.toml, as cargo says when it runs the test: two work trees that share a
/// target directory share this binary too, and the path at its compilation may be the other's.
pub(crate) fn root() -> PathBuf {
    let running = std::env::var_os("CARGO_MANIFEST_DIR");
    running.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Every text file of the tree, sorted by path; build output and git's own files left out.
pub(crate) fn text_files() -> Vec<TextFile> {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        files.iter().any(|file| file.path == "src/lib.rs"),
        "the walk of {} must reach the sources",
        root.display()
    );
    files
}

/// Every Rust file below one of `folders` (`"src"`, `"tests"` ...).
pub(crate) fn rust_files(folders: &[&str]) -> Vec<TextFile> {
    text_files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .filter(|file| folders.iter().any(|folder| is_below(&file.path, folder)))
        .collect()
}

/// Whether `path` is `place` itself or lies in the folder `place`.
pub(crate) fn is_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The module path of a file below `src/`: `src/a/mod.rs` is `[a]`, `src/lib.rs` is `[]`.
pub(crate) fn module_path(path: &str) -> Vec<&str> {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let mut parts: Vec<_> = inner.split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<TextFile>) {
    let entries = fs::read_dir(folder).expect("a folder of the tree can be listed");
    for entry in entries {
        let entry = entry.expect("a folder of the tree can be listed");
        let (path, kind) = (entry.path(), entry.file_type());
        // A file that a running test removes meanwhile is none of the tree.
        let Ok(kind) = kind else { continue };
        if is_left_out(&path) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files);
        } else if kind.is_file() {
            files.extend(read_text(root, &path));
        }
    }
}

/// Cargo marks its target directories with a CACHEDIR.TAG, whatever they are called; `.git` is a file
/// in a linked work tree.
fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    [".git", "target"].map(OsStr::new).contains(&name) || path.join("CACHEDIR.TAG").exists()
}

/// `None` for what is no text: too large, or not UTF-8.
fn read_text(root: &Path, path: &Path) -> Option<TextFile> {
    let is_small = fs::metadata(path).is_ok_and(|facts| facts.len() <= TEXT_BYTES_MAX);
    let text = is_small.then(|| fs::read_to_string(path).ok()).flatten()?;
    let path = path
        .strip_prefix(root)
        .expect("the walk stays below its root");
    let path = path.to_string_lossy().into_owned();
    Some(TextFile { path, text })
}

#[test]
fn module_paths_follow_the_files() {
    assert_eq!(module_path("src/lib.rs"), Vec::<&str>::new());
    assert_eq!(module_path("src/page.rs"), ["page"]);
    assert_eq!(module_path("src/engine/mod.rs"), ["engine"]);
    assert_eq!(
        module_path("src/engine/wal/record.rs"),
        ["engine", "wal", "record"]
    );
    assert!(is_below("src/os/mod.rs", "src/os"));
    assert!(!is_below("src/os_mod.rs", "src/os"));
}
