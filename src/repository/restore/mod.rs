//! A backup written back, read back, and put in its place in one step.
//!
//! ```text
//! manifest, packs --> .TARGET.stillfs-restore/ --> read back, digests --> new history --> exchanged
//!                     (found again by the next try)
//! ```
//!
//! 1. Before anything is written: the entries have the digest of the facts, the directories of all packs
//!    have the units that make up the digest of every file, nobody has the target open, there is room.
//! 2. Pieces of files are written by a few workers, zeros as holes. Of what an interrupted restore of the
//!    same backup left, units with the right digest stay; a workspace of another backup is emptied.
//! 3. All of it is synced, dropped from memory where the system lets go of it, and read back (BK8): names,
//!    kinds, and the digest of each unit.
//! 4. For a point in time, the log from there on is replayed over the page file (see `moment`, `replay`, and
//!    `engine::replay`), and the database is walked. Interrupted, this is done anew from step 2.
//! 5. Every native database starts a history that no other has (BK9). Then owners, modes and times.
//! 6. The target is exchanged (see `swap`); what was there goes.
//!
//! * BK13 A point in time is restored to exactly the last commit that is not after it, from a backup and a log
//!   between which no commit is missing; any other is refused before anything is written, with the moments
//!   that are covered.
//!
//! What an engine would take for the log of a restored database is not made, a view's word about itself
//! neither. Nothing is reached by a path that somebody else could turn: names are made in folders that are
//! held open, and no link is followed. Whoever waits here: for the disk only.

mod ahead;
mod content;
mod dress;
mod moment;
mod outline;
mod piece;
mod replay;
mod swap;
mod target;
mod workspace;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use crate::engine::{PAGE_FILE, Proof, ReplayTarget, Replayed, start_history};
use crate::fault::{self, Fault};
use crate::id::HistoryId;
use crate::repository::blob_reader::BlobReader;

use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::{LogCatalog, PieceUse, read_piece};
use crate::repository::manifest::{BackupFacts, DatabaseFacts, EntryContent, Manifest};
use crate::repository::progress::{Control, Phase};
use crate::repository::restore::content::{Checker, Writer, folder_of, prove};
use crate::repository::restore::moment::{Base, Chart};
pub use crate::repository::restore::moment::{CoveredRange, Way};
use crate::repository::restore::outline::Outline;
use crate::repository::restore::piece::for_each_piece;
use crate::repository::restore::swap::{Place, Watch, take_back};
use crate::repository::restore::target::Target;
use crate::repository::restore::workspace::{Outlook, Record, Workspace};

/// Who knows engines: whether somebody has a target open, and whether a restored database is sound.
pub trait Examine: Sync {
    /// Keeps others from opening what is at `target`, as long as the result lives.
    ///
    /// Errors: `TargetInUse`, `Io`.
    fn claim(&self, target: &Path) -> Result<Box<dyn Send>>;
    /// Looks whether [`Examine::claim`] could be had. Where that makes or writes something, this does not.
    ///
    /// Errors: `TargetInUse`, `Io`.
    fn look(&self, target: &Path) -> Result<()> {
        self.claim(target).map(drop)
    }
    /// Opens the database `facts`, restored as `path`, walks all of it, and leaves nothing beside it.
    ///
    /// Errors: `Unsound`, `Io`.
    fn walk(&self, path: &Path, facts: &DatabaseFacts) -> Result<()>;
}

/// What becomes of what is at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// The restore is refused.
    #[default]
    Refused,
    /// It is replaced, when the restored is whole.
    Replaced,
}

/// Whether what was written is read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadBack {
    /// From the disk, every byte, before the target gets it.
    #[default]
    Yes,
    /// Not: `--no-verify`. What comes out of packs is checked all the same.
    No,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// What becomes of what is there.
    pub existing: Existing,
    /// Whether it is read back.
    pub read_back: ReadBack,
}

/// A point in time: the last commit that is not after `target`.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Where.
    pub target: ReplayTarget,
    /// The history, or the beginning of its id; `None` for the newest of the database.
    pub history: Option<String>,
}

/// What a restore will do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupId,
    /// Where to.
    pub target: PathBuf,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that are needed.
    pub packs: u64,
    /// Bytes that are free where it goes.
    pub free_bytes: u64,
    /// Whether something there is replaced.
    pub replaces: bool,
    /// Whether an interrupted restore of the same backup is gone on with.
    pub resumes: bool,
}

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RestoreReport {
    /// What is known of the backup.
    pub facts: BackupFacts,
    /// Where it is.
    pub target: PathBuf,
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that an interrupted restore had written already.
    pub bytes_resumed: u64,
    /// Of a point in time: what it came to.
    pub reached: Option<Reached>,
    /// New histories, by the path of the native database.
    pub histories: Vec<(String, String)>,
    /// What could not be set and does not spoil a byte: owners, where that needs root.
    pub notes: Vec<String>,
    /// Nanoseconds.
    pub duration_ns: u64,
}

/// The commit that a point in time came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reached {
    /// The history on whose line it is.
    pub history: String,
    /// Its number.
    pub timestamp: u64,
    /// Its wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
    /// The end of its records.
    pub lsn: u64,
    /// Commits that were replayed after the backup.
    pub commits: u64,
}

/// The way to a point in time. Writes nothing.
///
/// Errors: `NotCovered`, `NoMoments`, `Io`, `Store`.
pub fn find_way(repository: &Repository, moment: &Moment) -> Result<Way> {
    let backups = repository.backups()?;
    let known = backups
        .iter()
        .filter_map(|(id, facts)| Some((id, facts.as_ref().ok()?)));
    let bases = known.filter_map(|(id, facts)| Base::of(id, facts));
    let catalog = LogCatalog::read(repository)?;
    for (object, problem) in catalog.damaged() {
        tracing::warn!(%object, %problem, "a piece of the log covers nothing");
    }
    // A piece that could not be had covers nothing, and that is no answer.
    let unanswered = Cell::new(None);
    let last_commit = |piece: &PieceUse, until| {
        let found = replay::last_commit(repository, piece, until);
        found.unwrap_or_else(|error| {
            unanswered.set(Some(error));
            None
        })
    };
    let chart = Chart::new(bases.collect(), catalog.lines(), &last_commit);
    let way = chart.way(moment.target, moment.history.as_deref());
    unanswered.take().map_or(way, Err)
}

/// Looks whether a restore can be done, and what it will do. Writes nothing.
///
/// Errors: `NoBackup`, `TargetExists`, `TargetInUse`, `Target`, `NoSpace`; `Missing`, `Damaged` and the
/// like of what it needs.
pub fn plan(
    repository: &Repository,
    backup: &BackupId,
    target: &Path,
    options: RestoreOptions,
    examine: &dyn Examine,
) -> Result<RestorePlan> {
    let manifest = repository.manifest(backup)?;
    let outline = Outline::of(&manifest)?;
    let target = Target::at(target)?;
    let replaces = admit(repository, &outline, &target, options)?;
    match target.leads_to_old()? {
        true => examine.look(&swap::path_of_old(&target))?,
        false => examine.look(&target.path)?,
    }
    let reader = BlobReader::new(repository);
    prove(&outline, &reader, &Control::default())?;
    let (free_bytes, outlook) = make_sure_of_space(repository, &outline, &target)?;
    Ok(RestorePlan {
        backup: backup.clone(),
        target: target.path,
        files: outline.files,
        bytes: outline.bytes,
        packs: outline.packs.len() as u64,
        free_bytes,
        replaces,
        resumes: outlook.resumes,
    })
}

/// Restores `backup` as `target`. Interrupted, it leaves the target as it was, and the next restore of the
/// same backup to the same target goes on where it stopped ([`left_behind`]).
///
/// Errors: as for [`plan`]; `OtherContent`, `Cancelled`, `Io`.
pub fn restore(
    repository: &Repository,
    backup: &BackupId,
    target: &Path,
    options: RestoreOptions,
    examine: &dyn Examine,
    control: &Control,
) -> Result<RestoreReport> {
    let job = Job {
        repository,
        options,
        examine,
        control,
        watch: &|_| Ok(()),
        way: None,
    };
    job.run(backup, target)
}

/// Restores `moment` as `target`: a backup, and the log after it.
///
/// Errors: as for [`find_way`], before anything is written, and for [`restore`].
pub fn restore_to(
    repository: &Repository,
    moment: &Moment,
    target: &Path,
    options: RestoreOptions,
    examine: &dyn Examine,
    control: &Control,
) -> Result<RestoreReport> {
    let mut tries = 0;
    loop {
        tries += 1;
        let way = find_way(repository, moment)?;
        let job = Job {
            repository,
            options,
            examine,
            control,
            watch: &|_| Ok(()),
            way: Some(&way),
        };
        match job.run(&way.backup, target) {
            // An archive that is at work puts one piece in the place of several.
            Err(RepositoryError::Missing { object })
                if tries < WAY_TRIES && object.starts_with("log/") =>
            {
                tracing::info!(%object, "a piece of the log was replaced; looking for the way again");
            }
            ended => return ended,
        }
    }
}

/// How often a way is looked for when pieces of it go meanwhile.
const WAY_TRIES: u32 = 5;

/// Where an interrupted restore to `target` waits to be gone on with; `None` if none does.
#[must_use]
pub fn left_behind(target: &Path) -> Option<PathBuf> {
    let target = Target::at(target).ok()?;
    let name = workspace::name_for(&target.name);
    let found = target.beside(&name).ok()?;
    found.map(|_| target.path.with_file_name(name))
}

/// Refuses what the target may not be; says whether something there is replaced.
fn admit(
    repository: &Repository,
    outline: &Outline<'_>,
    target: &Target,
    options: RestoreOptions,
) -> Result<bool> {
    target.refuse_repository(repository)?;
    target.check(outline.form, options.existing)
}

/// Errors: `NoSpace`, `Target`, `Io`.
fn make_sure_of_space(
    repository: &Repository,
    outline: &Outline<'_>,
    target: &Target,
) -> Result<(u64, Outlook)> {
    let record = Record::of(repository, outline.manifest);
    let outlook = workspace::look(target, &record)?;
    let free = target
        .parent
        .free_bytes()
        .map_err(target.failed("measure the free space at"))?;
    let needed = outline.space_bytes();
    // What is in the workspace is overwritten, or removed first.
    if needed > free.saturating_add(outlook.allocated_bytes) {
        let place = target.path.parent().unwrap_or(&target.path);
        return Err(RepositoryError::NoSpace {
            place: place.display().to_string(),
            needed: needed.saturating_sub(outlook.allocated_bytes),
            free,
        });
    }
    Ok((free, outlook))
}

/// What was made so far.
#[derive(Debug, Default)]
struct Made {
    bytes_written: AtomicU64,
    bytes_resumed: AtomicU64,
}

/// A restore on its way.
struct Job<'a> {
    repository: &'a Repository,
    options: RestoreOptions,
    examine: &'a dyn Examine,
    control: &'a Control,
    watch: Watch<'a>,
    /// To a point in time.
    way: Option<&'a Way>,
}

impl Job<'_> {
    fn run(&self, backup: &BackupId, target: &Path) -> Result<RestoreReport> {
        self.control.enter(Phase::InProgress);
        let result = self.restore(backup, target);
        self.control.enter(match result.is_ok() {
            true => Phase::Completed,
            false => Phase::Failed,
        });
        result
    }

    fn restore(&self, backup: &BackupId, target: &Path) -> Result<RestoreReport> {
        let clock = &self.repository.host().clock;
        let begun = clock.monotonic();
        let manifest = self.repository.manifest(backup)?;
        let mut outline = Outline::of(&manifest)?;
        let mut target = Target::at(target)?;
        let replaces = admit(self.repository, &outline, &target, self.options)?;
        self.take_back(&mut target)?;
        let claim = self.examine.claim(&target.path)?;
        let reader = BlobReader::new(self.repository);
        prove(&outline, &reader, self.control)?;
        make_sure_of_space(self.repository, &outline, &target)?;
        let workspace = self.open_workspace(&manifest, &target)?;
        let mut notes = std::mem::take(&mut outline.notes);
        let made = Made::default();
        if let Err(error) = self.make(&workspace, &outline, &reader, &made) {
            if !workspace.resumes && made.bytes_written.into_inner() == 0 {
                // There is nothing to go on with. The first error is the one to tell.
                drop(workspace.remove(&target));
            }
            return Err(error);
        }
        let reached = match self.way {
            Some(way) => Some(self.replay(way, &workspace, &outline, &target)?),
            None => None,
        };
        let histories = self.start_histories(&workspace, &outline)?;
        dress::dress(&workspace.tree, &outline, &mut notes)?;
        dress::sync(&workspace.tree, &outline)?;
        self.control.refuse_if_cancelled()?;
        self.control.enter(Phase::Finalizing);
        let place = Place {
            target: &target,
            replaces,
            watch: self.watch,
        };
        place.swap(workspace, &outline, &mut notes)?;
        drop(claim);
        let (files, bytes) = (outline.files, outline.bytes);
        let duration = clock.monotonic().saturating_sub(begun);
        Ok(RestoreReport {
            target: target.path,
            files,
            bytes,
            bytes_resumed: made.bytes_resumed.into_inner(),
            reached,
            histories,
            notes,
            duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            facts: manifest.facts,
        })
    }

    /// Puts an old database back, whose replacing was interrupted, before anything else is done.
    fn take_back(&self, target: &mut Target) -> Result<()> {
        if !target.leads_to_old()? {
            return Ok(());
        }
        let (dir, _lock) = workspace::lock(target, &workspace::name_for(&target.name))?;
        let _claim = self.examine.claim(&swap::path_of_old(target))?;
        take_back(target, &dir)?;
        target.look()
    }

    fn open_workspace(&self, manifest: &Manifest, target: &Target) -> Result<Workspace> {
        self.control.refuse_if_cancelled()?;
        Workspace::open(target, &Record::of(self.repository, manifest))
    }

    /// Makes all of the tree and reads it back (BK8).
    fn make(
        &self,
        workspace: &Workspace,
        outline: &Outline<'_>,
        reader: &BlobReader,
        made: &Made,
    ) -> Result<()> {
        let tree = &workspace.tree;
        let is_read_back = self.options.read_back == ReadBack::Yes;
        let passes = 1 + u64::from(is_read_back);
        let log_bytes = self.way.map_or(0, Way::log_bytes);
        self.control.expect_bytes(
            outline
                .bytes
                .saturating_mul(passes)
                .saturating_add(log_bytes),
        );
        dress::make_directories(tree, outline, workspace.resumes)?;
        let is_small = outline.entries.len() <= dress::SYNCED_SINGLY_MAX;
        let writer = Writer {
            tree,
            reader,
            syncs_files: is_read_back && is_small,
            control: self.control,
            made,
        };
        for_each_piece(outline, self.control, &writer)?;
        dress::make_links(tree, outline)?;
        if is_read_back {
            if !is_small {
                dress::sync(tree, outline)?;
            }
            for_each_piece(outline, self.control, &Checker { tree, reader })?;
        }
        dress::compare_names(tree, outline)
    }

    /// Makes the restored backup the point in time, and has the database walked (BK13).
    fn replay(
        &self,
        way: &Way,
        workspace: &Workspace,
        outline: &Outline<'_>,
        target: &Target,
    ) -> Result<Reached> {
        let mut natives = outline.natives();
        let (Some(entry), None) = (natives.next(), natives.next()) else {
            return Err(outline::damaged(
                outline.manifest,
                "it has not one database",
            ));
        };
        let path = target.path.with_file_name(&workspace.name);
        let path = path.join(workspace::TREE).join(PAGE_FILE);
        let (folder, name) = folder_of(&workspace.tree, entry)?;
        let opened = folder.writable_file(name);
        let file = opened.map_err(RepositoryError::io("open", path.display().to_string()))?;
        let is_read_back = self.options.read_back == ReadBack::Yes;
        let (threads, cache_bytes) = replay::usual_room();
        let job = replay::Job {
            target: way.target,
            steps: &way.steps,
            read: &|facts| read_piece(self.repository, facts),
            scratch: &|| replay::scratch_in(&workspace.dir),
            proof: match is_read_back {
                true => Proof::ReadBack,
                false => Proof::Trust,
            },
            control: self.control,
            threads,
            cache_bytes,
        };
        let Replayed { point, commits, .. } = job.run(&*file, &path)?;
        if is_read_back && let Some(facts) = outline.manifest.facts.databases.first() {
            self.examine.walk(&path, facts)?;
        }
        Ok(Reached {
            history: way.history.to_string(),
            timestamp: point.timestamp.0,
            wall_ns: point.wall_ns,
            lsn: point.lsn.0,
            commits,
        })
    }

    /// Gives every native database a history of its own (BK9).
    fn start_histories(
        &self,
        workspace: &Workspace,
        outline: &Outline<'_>,
    ) -> Result<Vec<(String, String)>> {
        let mut histories = Vec::new();
        for entry in outline.natives() {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let failed = |op| RepositoryError::io(op, path.clone());
            let mut id = [0; 16];
            let drawn = self.repository.host().random.fill(&mut id);
            drawn.map_err(failed("draw a history for"))?;
            if let EntryContent::File(file) = &entry.content
                && let Some(version) = file.version.filter(|_| fault::is(Fault::HistoryKept))
            {
                id = version.history.0;
            }
            let (folder, name) = folder_of(&workspace.tree, entry)?;
            let file = folder.writable_file(name).map_err(failed("open"))?;
            let started = start_history(&*file, Path::new(&path), HistoryId(id));
            started.map_err(|error| RepositoryError::Unsound {
                path: path.clone(),
                what: error.to_string(),
            })?;
            histories.push((path, HistoryId(id).to_string()));
        }
        Ok(histories)
    }
}
