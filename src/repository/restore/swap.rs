//! What is restored takes the place of what is there.
//!
//! A directory is exchanged in one step. A crash (or an error) before leaves the old one, after it the new
//! one with the old one in the workspace, from where the next restore removes it.
//!
//! A file has its log beside it under names of their own, which no one step exchanges together. The new
//! database under the log of the old one would be destroyed by it; the old one without its log has lost
//! commits. So, if there is a log that is not empty:
//!
//! 1. `LinkOld`: old database and log get second names in a folder of the workspace, durable.
//! 2. `TurnName`: a symbolic link to that second name takes the place of the old database, in one step.
//!    SQLite looks for a log beside the file that a link leads to: it finds the old database whole.
//! 3. `RemoveLog`: the log goes from beside the link, where nobody looks for it any more.
//! 4. `PlaceNew`: the new database takes the place of the link, in one step. There is no log beside it.
//! 5. `RemoveWorkspace`: the old database goes.
//!
//! After a crash at any of them the name leads to the old database with its log, or to the new one without
//! any. The next restore first takes steps 3 to 1 back ([`take_back`]). A log that is empty has nothing in
//! it, so it goes at once, and 4 is all there is.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::os::beneath::OpenDir;
use crate::os::dir_edit::Onto;
use crate::os::dir_removal::remove_dir_all;
use crate::os::path::Metadata;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::restore::content::folder_of;
use crate::repository::restore::dress::dress_root;
use crate::repository::restore::outline::{Form, Outline, SIDECAR_ENDS, damaged};
use crate::repository::restore::target::Target;
use crate::repository::restore::workspace::{OLD, OUT, TREE, Workspace, way_to_old};

/// A step of a swap, as a test stops before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The tree gets the name under which it is exchanged.
    SetOut,
    /// A directory takes its place.
    Exchange,
    /// See the head of the file.
    LinkOld,
    /// See the head of the file.
    TurnName,
    /// See the head of the file; once for each file.
    RemoveLog,
    /// See the head of the file.
    PlaceNew,
    /// What was at the target goes, and the workspace.
    RemoveWorkspace,
}

/// Called before each step; what it refuses does not happen.
pub(super) type Watch<'a> = &'a (dyn Fn(Step) -> Result<()> + Sync);

/// Where the restored goes.
pub(super) struct Place<'a> {
    /// What is there is kept from others by a claim.
    pub(super) target: &'a Target,
    /// Whether something that is there may be replaced.
    pub(super) replaces: bool,
    /// Looks on.
    pub(super) watch: Watch<'a>,
}

impl Place<'_> {
    /// Puts what is in `workspace` at its place and removes the workspace. What is left over when the place
    /// is taken is a note.
    ///
    /// Errors: `Target` if something else is at the place than was looked at, or the file system cannot;
    /// `Io`. The target is then as before, unless it was the last sync that failed.
    pub(super) fn swap(
        &self,
        workspace: Workspace,
        outline: &Outline<'_>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        match outline.form {
            Form::Folder => self.place_folder(&workspace, outline, notes)?,
            Form::File => self.place_file(&workspace, outline)?,
        }
        (self.watch)(Step::RemoveWorkspace)?;
        let place = self.target.path.with_file_name(&workspace.name);
        if let Err(error) = workspace.remove(self.target) {
            let place = place.display();
            notes.push(format!("what is left in {place} can be removed: {error}"));
        }
        Ok(())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> RepositoryError + use<> {
        self.target.failed("put the restored in the place of")
    }

    fn place_folder(
        &self,
        workspace: &Workspace,
        outline: &Outline<'_>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let (dir, tree, out) = (&workspace.dir, OsStr::new(TREE), OsStr::new(OUT));
        (self.watch)(Step::SetOut)?;
        let moved = dir.rename_into(tree, dir, out, Onto::Nothing);
        moved.map_err(self.failed())?;
        if let Err(error) = self.exchange(dir, out) {
            // So that the next restore finds it. The first error is the one to tell.
            drop(dir.rename_into(out, dir, tree, Onto::Nothing));
            return Err(error);
        }
        // From here on it is done, and what does not spoil it is told.
        if let Some(root) = outline.entries.first()
            && let Err(error) = dress_root(&workspace.tree, root, 0)
        {
            notes.push(error.to_string());
        }
        workspace.tree.sync().map_err(self.failed())?;
        self.target.parent.sync().map_err(self.failed())
    }

    fn exchange(&self, dir: &OpenDir, out: &OsStr) -> Result<()> {
        let target = self.target;
        dir.sync().map_err(self.failed())?;
        (self.watch)(Step::Exchange)?;
        let onto = match target.found {
            None => Onto::Nothing,
            // An empty directory; one that is not empty any more is refused by the system.
            Some(_) if !self.replaces => Onto::Anything,
            Some(_) => Onto::Exchange,
        };
        self.refuse_other()?;
        let mut moved = dir.rename_into(out, &target.parent, &target.name, onto);
        if is_denied(&moved) && onto == Onto::Exchange {
            moved = self.exchange_opened(dir, out);
        }
        match moved {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let why = "its file system cannot exchange two folders: move the old one away";
                Err(target.refused(why))
            }
            moved => moved.map_err(self.failed()),
        }
    }

    /// A folder that its own mode keeps its owner from writing cannot be moved to another one: it is opened
    /// to him for the exchange.
    fn exchange_opened(&self, dir: &OpenDir, out: &OsStr) -> io::Result<()> {
        let target = self.target;
        let mode = target.found.map_or(0, |found| found.mode);
        target.parent.set_mode(&target.name, mode | 0o700)?;
        let moved = dir.rename_into(out, &target.parent, &target.name, Onto::Exchange);
        if moved.is_err() {
            target.parent.set_mode(&target.name, mode)?;
        }
        moved
    }

    /// Only what was looked at, and is kept from others by a claim, is replaced.
    fn refuse_other(&self) -> Result<()> {
        let expected = self.target.found.map(|found| found.identity);
        let found = self.target.beside(&self.target.name)?;
        match found.map(|found| found.identity) == expected {
            true => Ok(()),
            false => Err(self
                .target
                .refused("something else was put there meanwhile")),
        }
    }

    fn place_file(&self, workspace: &Workspace, outline: &Outline<'_>) -> Result<()> {
        let sidecars = self.target.sidecars()?;
        if !self.replaces && !sidecars.is_empty() {
            return Err(self.target.refused("a log was put beside it meanwhile"));
        }
        self.refuse_other()?;
        let has_log = sidecars.iter().any(|(name, found)| is_log(name, found));
        let is_turned = self.target.found.is_some() && has_log;
        let result = match is_turned {
            true => self.turn(workspace, &sidecars),
            false => Ok(()),
        };
        let result = result.and_then(|()| self.finish_file(workspace, outline, &sidecars));
        if result.is_err() && is_turned && leads_to_old(self.target) {
            // The first error is the one to tell; what cannot be taken back here, the next restore does.
            drop(take_back(self.target, &workspace.dir));
        }
        result
    }

    /// Steps 1 and 2.
    fn turn(&self, workspace: &Workspace, sidecars: &[(OsString, Metadata)]) -> Result<()> {
        let target = self.target;
        let failed = || target.failed("put the old database aside, with its log, from");
        (self.watch)(Step::LinkOld)?;
        let (dir, old) = (&workspace.dir, OsStr::new(OLD));
        dir.make_dir(old).map_err(failed())?;
        let aside = dir.dir(Path::new(OLD)).map_err(failed())?;
        let logs = sidecars.iter().filter(|(name, found)| is_log(name, found));
        for name in logs.map(|(name, _)| name).chain([&target.name]) {
            if aside.make_hard_link(name, &target.parent, name).is_err() {
                let why = "its log cannot be put aside here: open the database with SQLite and close \
                    it, or move both away";
                return Err(target.refused(why));
            }
        }
        open_aside(target, dir, &aside).map_err(failed())?;
        aside.sync().map_err(failed())?;
        dir.sync().map_err(failed())?;
        (self.watch)(Step::TurnName)?;
        let link = OsStr::new("link");
        dir.make_link(link, &way_to_old(&target.name))
            .and_then(|()| dir.rename_into(link, &target.parent, &target.name, Onto::Anything))
            .and_then(|()| target.parent.sync())
            .map_err(failed())
    }

    /// Steps 3 and 4.
    fn finish_file(
        &self,
        workspace: &Workspace,
        outline: &Outline<'_>,
        sidecars: &[(OsString, Metadata)],
    ) -> Result<()> {
        let target = self.target;
        for (name, _) in sidecars {
            (self.watch)(Step::RemoveLog)?;
            match target.parent.remove_file(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(self.failed())?,
            }
        }
        if !sidecars.is_empty() {
            target.parent.sync().map_err(self.failed())?;
        }
        (self.watch)(Step::PlaceNew)?;
        let file = outline.contents().next().map(|(entry, _)| entry);
        let broken = || damaged(outline.manifest, "it is of one file and has not one");
        let (folder, name) = folder_of(&workspace.tree, file.ok_or_else(broken)?)?;
        let onto = match target.found {
            None => Onto::Nothing,
            Some(_) => Onto::Anything,
        };
        let placed = folder.rename_into(name, &target.parent, &target.name, onto);
        placed.map_err(self.failed())?;
        target.parent.sync().map_err(self.failed())
    }
}

fn is_denied(done: &io::Result<()>) -> bool {
    matches!(done, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

fn leads_to_old(target: &Target) -> bool {
    let to = target.parent.link_target(&target.name);
    to.is_ok_and(|to| to == way_to_old(&target.name))
}

/// Whether commits may be lost with it. An index of a log is made anew from the log.
fn is_log(name: &OsStr, found: &Metadata) -> bool {
    !name.as_encoded_bytes().ends_with(b"-shm") && found.size > 0
}

/// If the machine stops here, whoever could work with the old database still can.
fn open_aside(target: &Target, dir: &OpenDir, aside: &OpenDir) -> io::Result<()> {
    const MAY_PASS: u32 = 0o711;
    let facts = target.parent.metadata()?;
    // Where it cannot be given away, it stays with who restores.
    drop(aside.set_own_owner(facts.uid, facts.gid));
    aside.set_own_mode(facts.mode)?;
    dir.set_own_mode(MAY_PASS)
}

/// The old database of a swap that was interrupted while a link stood for it.
pub(super) fn path_of_old(target: &Target) -> PathBuf {
    target.path.with_file_name(way_to_old(&target.name))
}

/// Puts the old database and its log back where they were, after a swap that was interrupted between its
/// second step and its fourth. A crash in the middle leaves the link, and this can be done again.
///
/// Errors: `Io`.
pub(super) fn take_back(target: &Target, dir: &OpenDir) -> Result<()> {
    let failed = || target.failed("put back");
    let aside = dir.dir(Path::new(OLD)).map_err(failed())?;
    for end in SIDECAR_ENDS {
        let mut name = target.name.clone();
        name.push(end);
        // Somebody may have worked with the old database behind the link: its log there is what counts.
        let kept = found_in(&aside, &name).map_err(failed())?;
        let beside = target.beside(&name)?;
        match kept {
            Some(kept) if beside.is_some_and(|beside| beside.identity == kept.identity) => {}
            Some(_) => replace_by_link(target, dir, &aside, &name).map_err(failed())?,
            None if beside.is_some() => target.parent.remove_file(&name).map_err(failed())?,
            None => {}
        }
    }
    target.parent.sync().map_err(failed())?;
    let back = aside.rename_into(&target.name, &target.parent, &target.name, Onto::Anything);
    back.map_err(failed())?;
    target.parent.sync().map_err(failed())?;
    remove_dir_all(dir, OsStr::new(OLD)).map_err(failed())
}

fn found_in(dir: &OpenDir, name: &OsStr) -> io::Result<Option<Metadata>> {
    match dir.look(name) {
        Ok(found) => Ok(Some(found.metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn replace_by_link(
    target: &Target,
    dir: &OpenDir,
    aside: &OpenDir,
    name: &OsStr,
) -> io::Result<()> {
    let on_the_way = OsStr::new("log");
    match dir.remove_file(on_the_way) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    dir.make_hard_link(on_the_way, aside, name)?;
    dir.rename_into(on_the_way, &target.parent, name, Onto::Anything)
}
