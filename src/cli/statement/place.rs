//! Places below the backup root, as clients name them (ST1).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::cli::exit::Failure;
use crate::cli::nesting;
use crate::os::beneath::{OpenDir, leads_away};
use crate::os::path::{FileType, canonical, file_type_of};
use crate::os::trust;

/// The longest path that is looked at.
const PATH_BYTES_MAX: usize = 1024;

/// The directory below which clients may back up and restore.
#[derive(Debug)]
pub(super) struct BackupRoot {
    /// Without links.
    path: PathBuf,
    /// That of the database, without links.
    database: PathBuf,
}

/// Why a place is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misplaced {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    Long,
    #[error("it has a zero byte in it")]
    Zero,
    #[error(
        "it looks like an object store, which clients cannot name: use `stillfs backup` for that"
    )]
    ObjectStore,
    #[error("it is not below the backup root")]
    Outside,
    #[error("it leads over a symbolic link or something that is no directory")]
    Link,
    #[error("the directory that it is to be in does not exist")]
    NoFolder,
    #[error("others may exchange a directory on the way to it, or something in it")]
    Unsafe,
    #[error("it has to do with the directory of the database itself")]
    Database,
    #[error("it cannot be looked at: {0}")]
    Io(io::ErrorKind),
}

impl BackupRoot {
    /// Errors: usage, if `root` is no directory, if others may exchange what is in it, or if it lies in
    /// the database's directory `dir`.
    pub(super) fn open(root: &Path, dir: &Path) -> Result<Self, Failure> {
        let shown = root.display();
        let path = canonical(root)
            .with_context(|| format!("--backup-root {shown} cannot be used"))
            .map_err(Failure::usage)?;
        OpenDir::open(&path)
            .with_context(|| format!("--backup-root {shown} is no directory that can be read"))
            .map_err(Failure::usage)?;
        trust::refuse_place(&path)
            .with_context(|| format!("--backup-root {shown} is not safe"))
            .map_err(Failure::usage)?;
        let database = nesting::real(dir);
        if path.starts_with(&database) {
            return Err(Failure::usage(anyhow!(
                "--backup-root {shown} lies in the directory of the database"
            )));
        }
        Ok(Self { path, database })
    }

    /// The place that a client calls `name`. What is there is a directory, or nothing yet.
    ///
    /// Errors: as named.
    pub(super) fn resolve(&self, name: &[u8]) -> Result<PathBuf, Misplaced> {
        let below = self.below(name)?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Misplaced::NoFolder,
            io::ErrorKind::NotADirectory => Misplaced::Link,
            _ if leads_away(&error) => Misplaced::Link,
            kind => Misplaced::Io(kind),
        };
        let root = OpenDir::open(&self.path).map_err(failed)?;
        let folder = root
            .dir(below.parent().unwrap_or(Path::new("")))
            .map_err(failed)?;
        let last = below.file_name().ok_or(Misplaced::Outside)?;
        match folder.look(last) {
            Ok(found) if found.metadata.file_type == FileType::Directory => {}
            Ok(_) => return Err(Misplaced::Link),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let place = self.path.join(below);
        self.refuse_exchangeable(&place)?;
        let meets_database = place.starts_with(&self.database) || self.database.starts_with(&place);
        match meets_database {
            true => Err(Misplaced::Database),
            false => Ok(place),
        }
    }

    /// What is found safe here is worked in by its path later.
    ///
    /// Errors: `Unsafe` if somebody else could turn a directory on the way into a link meanwhile.
    fn refuse_exchangeable(&self, place: &Path) -> Result<(), Misplaced> {
        let is_below = |path: &&Path| path.starts_with(&self.path);
        let on_the_way = place.ancestors().skip(1).take_while(is_below);
        let is_there = file_type_of(place).is_ok();
        for dir in on_the_way.chain(is_there.then_some(place)) {
            trust::refuse_place(dir).map_err(|_| Misplaced::Unsafe)?;
        }
        Ok(())
    }

    /// The path from the root to `name`, in which nothing is but names.
    fn below(&self, name: &[u8]) -> Result<PathBuf, Misplaced> {
        if name.is_empty() {
            return Err(Misplaced::Empty);
        }
        if name.len() > PATH_BYTES_MAX {
            return Err(Misplaced::Long);
        }
        if name.contains(&0) {
            return Err(Misplaced::Zero);
        }
        if name.windows(3).any(|part| part == b"://") {
            return Err(Misplaced::ObjectStore);
        }
        let path = Path::new(OsStr::from_bytes(name));
        let below = match path.is_absolute() {
            true => path
                .strip_prefix(&self.path)
                .map_err(|_| Misplaced::Outside)?,
            false => path,
        };
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let is_below = below.components().all(is_plain) && below.components().next().is_some();
        match is_below {
            true => Ok(below.components().collect()),
            false => Err(Misplaced::Outside),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// ST1: whatever a client writes, only directories below the root are reached, by names alone.
    #[test]
    fn nothing_but_what_is_below_the_root_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for name in ["root/sub", "root/app/wal", "elsewhere"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        symlink(top.join("elsewhere"), top.join("root/out")).unwrap();
        symlink("sub", top.join("root/link")).unwrap();
        fs::write(top.join("root/file"), b"").unwrap();
        let root = BackupRoot::open(&top.join("root"), &top.join("root/app")).unwrap();
        let at = |name: &str| root.resolve(name.as_bytes());
        assert_eq!(at("sub"), Ok(top.join("root/sub")));
        assert_eq!(at("sub//new/"), Ok(top.join("root/sub/new")));
        let absolute = top.join("root/new");
        assert_eq!(at(absolute.to_str().unwrap()), Ok(absolute.clone()));
        let elsewhere = top.join("elsewhere/x");
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        for (name, why) in [
            ("", Misplaced::Empty),
            (&*long, Misplaced::Long),
            ("a\0b", Misplaced::Zero),
            ("s3://bucket/x", Misplaced::ObjectStore),
            (".", Misplaced::Outside),
            ("..", Misplaced::Outside),
            ("./sub", Misplaced::Outside),
            ("sub/../../elsewhere", Misplaced::Outside),
            ("sub/..", Misplaced::Outside),
            ("/", Misplaced::Outside),
            (elsewhere.to_str().unwrap(), Misplaced::Outside),
            (top.join("root").to_str().unwrap(), Misplaced::Outside),
            ("out", Misplaced::Link),
            ("out/x", Misplaced::Link),
            ("link/x", Misplaced::Link),
            ("file", Misplaced::Link),
            ("file/x", Misplaced::Link),
            ("none/x", Misplaced::NoFolder),
            ("app", Misplaced::Database),
            ("app/wal", Misplaced::Database),
            ("app/new", Misplaced::Database),
        ] {
            assert_eq!(at(name), Err(why), "{name:?}");
        }
    }

    /// ST1: a directory that somebody else may turn into a link is no place, nor is one below it.
    #[test]
    fn directories_of_others_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for name in ["root/open/sub", "app"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        let root = BackupRoot::open(&top.join("root"), &top.join("app")).unwrap();
        let names = ["open", "open/new", "open/sub", "open/sub/new"];
        let at = |name: &str| root.resolve(name.as_bytes());
        for name in names {
            at(name).unwrap();
        }
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.join("root/open"), open).unwrap();
        for name in names {
            assert_eq!(at(name), Err(Misplaced::Unsafe), "{name}");
        }
        at("new").unwrap();
    }

    /// A root in which others may exchange a directory for a link is none, nor one in the database.
    #[test]
    fn unsafe_roots_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (root, app) = (dir.path().join("root"), dir.path().join("app"));
        fs::create_dir_all(app.join("backups")).unwrap();
        let refused = |root: &Path, part: &str| {
            let failure = BackupRoot::open(root, &app).unwrap_err();
            assert!(failure.text().contains(part), "{}", failure.text());
        };
        refused(&root, "cannot be used");
        fs::create_dir(&root).unwrap();
        BackupRoot::open(&root, &app).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        refused(&root, "is not safe");
        refused(&app, "lies in the directory of the database");
        refused(
            &app.join("backups"),
            "lies in the directory of the database",
        );
    }
}
