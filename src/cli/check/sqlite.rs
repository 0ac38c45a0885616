//! SQLite databases: each is checked by SQLite itself where nobody changes it.
//!
//! ```text
//! in a mount of ours -------------------------------> there, immutable
//! a file alone, that nobody has open ---------------> there, immutable; looked at again afterwards
//! any other file, or a directory: a view of its own > there, immutable; and the view ends
//! ```

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Report;
use super::finding::FindingRow;
use crate::amount::Many;
use crate::cli::background::{Background, Life, ViewSpec};
use crate::cli::bounds::BoundArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::probe;
use crate::cli::probe::status_of;
use crate::cli::request::SourceArgs;
use crate::cli::sqlite::integrity::{self, Fault, Integrity, PROBLEMS_MAX};
use crate::mount::Registry;
use crate::mount::mountinfo::is_ours;
use crate::os::lock_table::all_open_files;
use crate::os::path::{self as paths, FileType, Metadata, metadata, symlink_metadata};
use crate::os::record_lock::record_locks;
use crate::os::{Host, OpenMode, mount_table, read_up_to};
use crate::source::still::StillKind;
use crate::source::{native, sqlite};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header says how the file is read: 1 with a rollback journal, 2 with a log.
const READ_VERSION_OFFSET: usize = 19;
const HEADER_BYTES: usize = 20;
const DEPTH_MAX: usize = 100;
const DATABASES_MAX: usize = 10_000;

/// One database that was checked. With `--json` these names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DatabaseRow {
    /// Where it is.
    path: String,
    /// Whether nothing is wrong.
    ok: bool,
    page_size: Option<u64>,
    page_count: Option<u64>,
    finding_count: u64,
    /// How the checked file is opened where it is: `immutable=1` or `plainly`; null for one that others
    /// may write, of which a view was checked.
    open_with: Option<&'static str>,
}

/// What there is to check.
#[derive(Debug)]
pub(super) enum Target {
    /// What is in a mount of ours.
    View { root: PathBuf, path: PathBuf },
    /// A file by itself, or a directory.
    Source { path: PathBuf },
}

/// What the checks come to.
#[derive(Debug, Default)]
struct Found {
    databases: Vec<DatabaseRow>,
    findings: Vec<FindingRow>,
    notes: Vec<String>,
    has_left_out: bool,
}

impl Target {
    /// `None` for what is no SQLite database, nor holds any.
    ///
    /// Errors: if the file system at the path does not answer.
    pub(super) fn of(host: &Host, path: &Path) -> Result<Option<Self>, Failure> {
        let path = probe::reach(path)?;
        let is_directory = metadata(&path).is_ok_and(|found| is(&found, FileType::Directory));
        if is_directory && native::recognise(host, &path).is_ok() {
            return Ok(None);
        }
        if let Some(root) = view_around(&path) {
            let has_some = match is_directory {
                true => !databases_below(host, &root, &path).is_empty(),
                false => is_database(host, &root, &path),
            };
            return Ok(has_some.then_some(Self::View { root, path }));
        }
        let is_source = match is_directory {
            true => has_database(host, &path),
            false => has_magic(host, &path) || sqlite::recognise(host, &path).unwrap_or(false),
        };
        Ok(is_source.then_some(Self::Source { path }))
    }

    /// Checks it. `asked` is what the user wrote.
    ///
    /// Errors: `PinLost` if the view ended meanwhile; those of mounting one.
    pub(super) fn check(self, asked: &Path) -> Result<(Report, Exit), Failure> {
        let host = Host::system();
        let (kind, found) = match &self {
            Self::View { root, path } => {
                let found = check_in_view(&host, root, path, path, &mut |_| {})?;
                refuse_ended(root)?;
                let kind = match path == root {
                    true => StillKind::Directory,
                    false => StillKind::File,
                };
                (kind, found)
            }
            Self::Source { path } => match check_alone(&host, path)? {
                Some(found) => (StillKind::File, found),
                None => {
                    let mut found = check_by_view(&host, path)?;
                    found
                        .databases
                        .iter_mut()
                        .for_each(|row| row.open_with = None);
                    (StillKind::Pinned, found)
                }
            },
        };
        Ok(found.report(asked, kind))
    }
}

fn is(found: &Metadata, file_type: FileType) -> bool {
    found.file_type == file_type
}

/// The mount of ours that `path`, which is canonical, lies in.
fn view_around(path: &Path) -> Option<PathBuf> {
    let entries = mount_table::entries().ok()?.into_iter();
    // Of those at one place the last is on top.
    let innermost = entries
        .filter(|entry| path.starts_with(&entry.mount_point))
        .max_by_key(|entry| entry.mount_point.as_os_str().len());
    innermost
        .filter(is_ours)
        .map(|entry| entry.mount_point.clone())
}

fn header(host: &Host, path: &Path) -> Option<[u8; HEADER_BYTES]> {
    let is_file = symlink_metadata(path).is_ok_and(|found| is(&found, FileType::File));
    let file = host.disk.open(path, OpenMode::Read);
    let file = file.ok().filter(|_| is_file)?;
    let mut bytes = [0; HEADER_BYTES];
    let count = read_up_to(&*file, &mut bytes, 0).ok()?;
    (count == HEADER_BYTES).then_some(bytes)
}

fn has_magic(host: &Host, path: &Path) -> bool {
    header(host, path).is_some_and(|bytes| bytes.starts_with(MAGIC))
}

/// Whether a file of a view is a database: by its magic, or because the daemon says so, as of one that
/// is encrypted.
fn is_database(host: &Host, root: &Path, path: &Path) -> bool {
    if has_magic(host, path) {
        return true;
    }
    let members = status_of(root).map(|status| status.members.databases);
    let mut members = members.unwrap_or_default().into_iter();
    members.any(|member| {
        let is_sqlite = member.kind == sqlite::KIND;
        is_sqlite && (member.path.is_empty() || root.join(&member.path) == path)
    })
}

/// Whether a directory outside of views has an SQLite database in it.
fn has_database(host: &Host, top: &Path) -> bool {
    let is_database =
        |path: &Path| has_magic(host, path) || sqlite::recognise(host, path).unwrap_or(false);
    !files_below(host, top, 1, is_database).is_empty()
}

/// At most so many files at or below `top` of which `is_wanted` says so.
fn files_below(
    host: &Host,
    top: &Path,
    count_max: usize,
    is_wanted: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for name in host.disk.list(&folder).unwrap_or_default() {
            if found.len() >= count_max {
                return found;
            }
            let path = folder.join(name);
            match symlink_metadata(&path).map(|found| found.file_type) {
                Ok(FileType::Directory) if depth < DEPTH_MAX => folders.push((path, depth + 1)),
                Ok(FileType::File) if is_wanted(&path) => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// The databases of a view at or below `top`, sorted.
fn databases_below(host: &Host, root: &Path, top: &Path) -> Vec<PathBuf> {
    let mut found = files_below(host, top, DATABASES_MAX, |path| has_magic(host, path));
    // Those that nothing in them shows. A name that is no text did not come here as it is.
    let members = status_of(root).map(|status| status.members.databases);
    for member in members.unwrap_or_default() {
        let path = root.join(&member.path);
        let is_new = member.kind == sqlite::KIND && !member.path.is_empty();
        let is_there = || symlink_metadata(&path).is_ok();
        if is_new && path.starts_with(top) && !found.contains(&path) && is_there() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Checks the databases at or below `path` in the view at `root`; `shown` is what `path` is called.
fn check_in_view(
    host: &Host,
    root: &Path,
    path: &Path,
    shown: &Path,
    started: &mut dyn FnMut(u32),
) -> Result<Found, Failure> {
    let is_directory = metadata(path).is_ok_and(|found| is(&found, FileType::Directory));
    let databases = match is_directory {
        true => databases_below(host, root, path),
        false => vec![path.to_owned()],
    };
    let mut found = Found::default();
    for database in databases {
        let name = match database.strip_prefix(path) {
            Ok(rest) if !rest.as_os_str().is_empty() => shown.join(rest),
            _ => shown.to_owned(),
        };
        let integrity = integrity::ask(&database, &mut *started)?;
        if let Some(fault) = &integrity.failure
            && !fault.is_not_a_database()
        {
            refuse_ended(root)?;
        }
        found.add(host, &database, &name, integrity)?;
    }
    Ok(found)
}

/// Errors: `PinLost` if the pin of the view has ended: what was read then says nothing.
fn refuse_ended(root: &Path) -> Result<(), Failure> {
    let status = status_of(root).filter(|status| status.state == "ended");
    let Some(status) = status else { return Ok(()) };
    let reason = status.reason.unwrap_or_default();
    let error = anyhow::anyhow!(
        "the pin of the view at {} has ended ({reason}): unmount it and mount again",
        root.display()
    );
    Err(Failure::new(Exit::PinLost, error))
}

/// What SQLite finds wrong with a file that nobody else has open, and beside which nothing lies.
///
/// Errors: if it cannot be asked.
pub(super) fn findings_of_still_file(host: &Host, path: &Path) -> Result<Vec<FindingRow>, Failure> {
    let mut found = Found::default();
    found.add(host, path, path, integrity::ask(path, |_| {})?)?;
    Ok(found.findings)
}

/// Checks a file where it is, if nothing lies beside it and nobody has it open. `None` if that is not so,
/// or is no longer so at the end.
fn check_alone(host: &Host, path: &Path) -> Result<Option<Found>, Failure> {
    let Some(before) = still_file(host, path) else {
        return Ok(None);
    };
    let integrity = integrity::ask(path, |_| {})?;
    if still_file(host, path) != Some(before) {
        return Ok(None);
    }
    let mut found = Found::default();
    found.add(host, path, path, integrity)?;
    Ok(Some(found))
}

/// The facts of a regular file that is by itself: no log, journal or index beside it, no lock on it, and no
/// process that we see has it open.
fn still_file(host: &Host, path: &Path) -> Option<Metadata> {
    let found = symlink_metadata(path).ok()?;
    let is_beside = ["-wal", "-journal", "-shm"].iter().any(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        paths::file_type_of(Path::new(&name)).is_ok()
    });
    let file = host.disk.open(path, OpenMode::Read).ok()?;
    let locks = record_locks(file.as_fd()?.as_fd()).ok()?;
    drop(file);
    let is_open = all_open_files().ok()?.contains(&found.identity);
    let is_alone = is(&found, FileType::File) && !is_beside && locks.is_empty() && !is_open;
    is_alone.then_some(found)
}

/// Mounts a view of `path` for ourselves, checks there, and ends it.
fn check_by_view(host: &Host, path: &Path) -> Result<Found, Failure> {
    let mount_point = make_mount_point()?;
    let spec = ViewSpec {
        source: path.to_owned(),
        mount_point: mount_point.clone(),
        options: Vec::new(),
        holder: "stillfs check".to_owned(),
        bounds: BoundArgs::default(),
        asked: SourceArgs::default(),
    };
    let checked = check_on_mount(host, &spec);
    // It stays where the daemon has died; the next mount there would say so.
    if let Err(error) = paths::remove_dir(&mount_point) {
        tracing::debug!(%error, "cannot remove the mount point");
    }
    checked
}

fn check_on_mount(host: &Host, spec: &ViewSpec) -> Result<Found, Failure> {
    let mut view = Background::start(spec, Life::AsLongAsInput, None)?;
    let is_directory = metadata(&spec.source).is_ok_and(|found| is(&found, FileType::Directory));
    let inside = match (is_directory, spec.source.file_name()) {
        (false, Some(name)) => spec.mount_point.join(name),
        _ => spec.mount_point.clone(),
    };
    let root = &spec.mount_point;
    let checked = check_in_view(host, root, &inside, &spec.source, &mut |process| {
        view.tell_command(process);
    });
    let ending = view.finish()?;
    match ending.pin_lost {
        Some(reason) => {
            let error = anyhow::anyhow!("the pin of the view that was checked ended: {reason}");
            Err(Failure::new(Exit::PinLost, error))
        }
        None => checked,
    }
}

fn make_mount_point() -> Result<PathBuf, Failure> {
    let registry = Registry::of_this_user()?;
    let name = format!("check-{}", std::process::id());
    let dir = registry.dir().join("views").join(name);
    paths::create_dir_all(&dir, 0o700)?;
    Ok(dir)
}

impl Found {
    /// Takes in what SQLite said of the file at `path`, which is called `shown`.
    ///
    /// Errors: a failure that is no finding, such as of reading.
    fn add(
        &mut self,
        host: &Host,
        path: &Path,
        shown: &Path,
        integrity: Integrity,
    ) -> Result<(), Failure> {
        let header = header(host, path).unwrap_or_default();
        let mut problems = integrity.problems;
        match integrity.failure {
            Some(fault) if fault.is_not_a_database() && header.starts_with(MAGIC) => {
                problems.push(format!("the header is damaged: {}", fault.message));
            }
            Some(fault) if fault.is_not_a_database() => {
                self.has_left_out = true;
                self.notes.push(format!(
                    "{} was not checked: it is encrypted, or no SQLite database; its own application \
                     can check it",
                    shown.display()
                ));
                return Ok(());
            }
            Some(Fault { code, message }) => {
                let error = anyhow::anyhow!(
                    "SQLite cannot check {}: {message} (code {code})",
                    shown.display()
                );
                return Err(Failure::new(Exit::Failed, error));
            }
            None => {}
        }
        for (tables, count) in integrity.foreign_keys {
            let rows = Many(count, "row");
            let note = format!("{}: {rows} of {tables} refer to no row", shown.display());
            self.notes.push(note);
        }
        if problems.len() >= PROBLEMS_MAX {
            let note = format!("{}: there may be more than is listed", shown.display());
            self.notes.push(note);
        }
        self.databases.push(DatabaseRow {
            path: shown.display().to_string(),
            ok: problems.is_empty(),
            page_size: integrity.page_size,
            page_count: integrity.page_count,
            finding_count: problems.len() as u64,
            open_with: Some(match header.get(READ_VERSION_OFFSET) {
                Some(2) => "immutable=1",
                _ => "plainly",
            }),
        });
        let rows = problems
            .iter()
            .map(|text| FindingRow::of_sqlite(shown, text));
        self.findings.extend(rows);
        Ok(())
    }

    fn report(mut self, asked: &Path, kind: StillKind) -> (Report, Exit) {
        let one = match &*self.databases {
            [one] => Some(one.clone()),
            _ => None,
        };
        let finding_count = self.findings.len() as u64;
        self.findings.truncate(PROBLEMS_MAX);
        let mut report = Report {
            ok: true,
            exit: Exit::Done as u8,
            path: asked.display().to_string(),
            kind: Some(kind),
            timestamp: None,
            lsn: None,
            page_size: one.as_ref().and_then(|one| one.page_size),
            page_count: one.as_ref().and_then(|one| one.page_count),
            totals: None,
            finding_count,
            findings: self.findings,
            notes: self.notes,
            databases: self.databases,
        };
        report.judge();
        let exit = match (report.ok, self.has_left_out) {
            (false, _) => Exit::Corrupt,
            (true, true) => Exit::LeftOut,
            (true, false) => Exit::Done,
        };
        report.exit = exit as u8;
        (report, exit)
    }
}

impl DatabaseRow {
    /// For people.
    pub(super) fn line(&self) -> String {
        let pages = match (self.page_count, self.page_size) {
            (Some(count), Some(size)) => format!(", {count} pages of {size} bytes"),
            _ => String::new(),
        };
        let state = match self.finding_count {
            0 => "ok".to_owned(),
            count => Many(count, "finding").to_string(),
        };
        let opened = match self.open_with {
            Some("plainly") => "; opens in place plainly",
            Some(_) => "; opens in place with immutable=1",
            None => "",
        };
        format!("{}: {state}{pages}{opened}", self.path)
    }
}
