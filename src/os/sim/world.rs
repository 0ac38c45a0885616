//! The state of a simulated machine's disk, which all its processes share.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path};

use nix::errno::Errno;

use super::content::{BLOCK_BYTES, FileContent};
use super::fault::{Faults, Operation, Stop, Verdict};
use super::names::{Inode, Names, Place, ROOT, place};
use crate::os::LockKind;
use crate::os::random::SeededRandom;

/// A process that uses the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId(u64);

/// An open file of some process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HandleId(u64);

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileContent),
    Directory,
}

#[derive(Debug)]
struct Handle {
    inode: Inode,
    process: ProcessId,
    lock: Option<LockKind>,
}

/// What a call to a machine or process that is gone answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated machine or process has stopped")]
pub(super) struct Stopped;

#[derive(Debug)]
pub(super) struct World {
    nodes: BTreeMap<Inode, Node>,
    names: Names,
    handles: BTreeMap<HandleId, Handle>,
    processes: BTreeSet<ProcessId>,
    has_power: bool,
    /// The next number for an inode, a handle or a process.
    next_number: u64,
    random: SeededRandom,
    capacity_bytes: Option<u64>,
    pub(super) faults: Faults,
    pub(super) counts: BTreeMap<Operation, u64>,
    pub(super) changes: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::from([(ROOT, Node::Directory)]),
            names: Names::default(),
            handles: BTreeMap::new(),
            processes: BTreeSet::new(),
            has_power: true,
            next_number: ROOT.0 + 1,
            random: SeededRandom::new(seed),
            capacity_bytes: None,
            faults: Faults::none(),
            counts: BTreeMap::new(),
            changes: 0,
        }
    }

    /// What a machine finds after this one stopped.
    pub(super) fn crashed(&self, seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let names = self.names.crashed(&random);
        let mut nodes = BTreeMap::from([(ROOT, Node::Directory)]);
        for inode in names.named() {
            match self.nodes.get(&inode) {
                Some(Node::File(file)) => nodes.insert(inode, Node::File(file.crashed(&random))),
                Some(Node::Directory) => nodes.insert(inode, Node::Directory),
                None => None,
            };
        }
        Self {
            nodes,
            names,
            next_number: self.next_number,
            capacity_bytes: self.capacity_bytes,
            ..Self::new(random.next())
        }
    }

    pub(super) fn start_process(&mut self) -> ProcessId {
        let process = ProcessId(self.draw_number());
        self.processes.insert(process);
        process
    }

    /// Ends a process: its handles and locks go, its un-synced data stay.
    pub(super) fn kill(&mut self, process: ProcessId) {
        self.processes.remove(&process);
        self.handles.retain(|_, handle| handle.process != process);
        self.collect();
    }

    pub(super) fn power_off(&mut self) {
        self.has_power = false;
    }

    pub(super) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity_bytes = bytes;
    }

    /// The start of every call: who calls is alive, and the plan lets it pass.
    ///
    /// Returns how many bytes it may move at most.
    pub(super) fn begin(
        &mut self,
        process: ProcessId,
        operation: Operation,
        name: &OsStr,
        is_change: bool,
    ) -> io::Result<usize> {
        self.require_running(process)?;
        match self.faults.judge(operation, name, is_change) {
            Verdict::Stop(Stop::PowerOff) => {
                self.power_off();
                Err(io::Error::other(Stopped))
            }
            Verdict::Stop(Stop::Kill) => {
                self.kill(process);
                Err(io::Error::other(Stopped))
            }
            Verdict::Fail(error) => {
                self.tally(operation, is_change);
                Err(error)
            }
            Verdict::Proceed { bytes_max } => {
                self.tally(operation, is_change);
                Ok(bytes_max)
            }
        }
    }

    fn tally(&mut self, operation: Operation, is_change: bool) {
        *self.counts.entry(operation).or_default() += 1;
        self.changes += u64::from(is_change);
    }

    /// Errors: `Stopped` if the machine or the process is gone.
    pub(super) fn require_running(&self, process: ProcessId) -> io::Result<()> {
        if self.has_power && self.processes.contains(&process) {
            Ok(())
        } else {
            Err(io::Error::other(Stopped))
        }
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<Inode> {
        path.components()
            .try_fold(ROOT, |inode, component| match component {
                Component::RootDir | Component::CurDir => Ok(inode),
                Component::Normal(name) => {
                    self.require_directory(inode)?;
                    self.names
                        .get(&place(inode, name))
                        .ok_or_else(|| Errno::ENOENT.into())
                }
                Component::ParentDir | Component::Prefix(_) => Err(Errno::EINVAL.into()),
            })
    }

    /// The place that `path` names, whether something is there or not; its directory exists.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EEXIST.into());
        };
        let dir = self.directory(parent)?;
        Ok(place(dir, name))
    }

    pub(super) fn directory(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.node(path)?;
        self.require_directory(inode)?;
        Ok(inode)
    }

    fn require_directory(&self, inode: Inode) -> io::Result<()> {
        if self.is_directory(inode) {
            Ok(())
        } else {
            Err(Errno::ENOTDIR.into())
        }
    }

    pub(super) fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Directory))
    }

    pub(super) fn make(&mut self, node: Node) -> Inode {
        let inode = Inode(self.draw_number());
        self.nodes.insert(inode, node);
        inode
    }

    pub(super) fn link(&mut self, at: Place, node: Node) -> io::Result<Inode> {
        if self.names.get(&at).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let inode = self.make(node);
        self.names.link(at, inode);
        Ok(inode)
    }

    pub(super) fn link_again(&mut self, file: Place, name: Place) -> io::Result<()> {
        let inode = self.names.get(&file).ok_or(Errno::ENOENT)?;
        if self.names.get(&name).is_some() {
            return Err(Errno::EEXIST.into());
        }
        if self.is_directory(inode) {
            return Err(Errno::EPERM.into());
        }
        self.names.link(name, inode);
        Ok(())
    }

    pub(super) fn unlink(&mut self, at: Place) -> io::Result<()> {
        let inode = self.names.get(&at).ok_or(Errno::ENOENT)?;
        if self.is_directory(inode) {
            return Err(Errno::EISDIR.into());
        }
        self.names.unlink(inode, at);
        Ok(())
    }

    pub(super) fn unlink_dir(&mut self, at: Place) -> io::Result<()> {
        let inode = self.names.get(&at).ok_or(Errno::ENOENT)?;
        self.require_directory(inode)?;
        if !self.names.list(inode).is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        self.names.unlink(inode, at);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: Place, to: Place) -> io::Result<()> {
        let inode = self.names.get(&from).ok_or(Errno::ENOENT)?;
        if self.is_directory(inode) && self.is_below(to.0, inode) {
            return Err(Errno::EINVAL.into());
        }
        if let Some(replaced) = self.names.get(&to) {
            match (self.is_directory(inode), self.is_directory(replaced)) {
                _ if inode == replaced => return Ok(()),
                (true, false) => return Err(Errno::ENOTDIR.into()),
                (false, true) => return Err(Errno::EISDIR.into()),
                (true, true) if !self.names.list(replaced).is_empty() => {
                    return Err(Errno::ENOTEMPTY.into());
                }
                _ => {}
            }
        }
        self.names.rename(inode, from, to);
        Ok(())
    }

    /// Whether `dir` is `top` or lies somewhere below it.
    fn is_below(&self, dir: Inode, top: Inode) -> bool {
        let mut at = Some(dir);
        while let Some(inode) = at {
            if inode == top {
                return true;
            }
            at = self.names.parent(inode);
        }
        false
    }

    pub(super) fn list(&self, dir: Inode) -> Vec<std::ffi::OsString> {
        self.names.list(dir)
    }

    pub(super) fn sync_names(&mut self, dir: Inode) {
        self.names.sync(dir);
        self.collect();
    }

    pub(super) fn fail_sync_of_names(&mut self, dir: Inode) {
        self.names.fail_sync(dir, &self.random);
    }

    pub(super) fn fail_sync_of_data(&mut self, inode: Inode) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&inode) {
            file.fail_sync(&self.random);
        }
    }

    pub(super) fn file(&mut self, inode: Inode) -> io::Result<&mut FileContent> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory) => Err(Errno::EISDIR.into()),
            None => Err(Errno::ESTALE.into()),
        }
    }

    /// Bytes that may still be allocated.
    pub(super) fn free_bytes(&self) -> u64 {
        let Some(capacity_bytes) = self.capacity_bytes else {
            return 1 << 40;
        };
        let mut alive = self.names.named();
        alive.extend(self.handles.values().map(|handle| handle.inode));
        let used = alive.iter().map(|inode| match self.nodes.get(inode) {
            Some(Node::File(file)) => file.allocated_bytes(),
            _ => 0,
        });
        capacity_bytes.saturating_sub(used.sum())
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.free_bytes() / BLOCK_BYTES as u64
    }

    pub(super) fn open(&mut self, inode: Inode, process: ProcessId) -> HandleId {
        let handle = HandleId(self.draw_number());
        self.handles.insert(
            handle,
            Handle {
                inode,
                process,
                lock: None,
            },
        );
        handle
    }

    pub(super) fn close(&mut self, handle: HandleId) {
        let closed = self.handles.remove(&handle);
        // Only a file without a name goes with a handle; the others go with a sync of their names.
        if closed.is_some_and(|closed| !self.names.mentioned().contains(&closed.inode)) {
            self.collect();
        }
    }

    /// As `flock` with `LOCK_NB`: the lock that the handle had goes first, even if the new one fails.
    pub(super) fn try_lock(&mut self, handle: HandleId, kind: LockKind) -> io::Result<bool> {
        let mine = self.handles.get_mut(&handle).ok_or(Errno::EBADF)?;
        if mine.lock == Some(kind) {
            return Ok(true);
        }
        mine.lock = None;
        let inode = mine.inode;
        let is_excluded = self.handles.iter().any(|(id, other)| {
            let excludes = match (kind, other.lock) {
                (_, None) | (LockKind::Shared, Some(LockKind::Shared)) => false,
                (_, Some(LockKind::Exclusive)) | (LockKind::Exclusive, Some(_)) => true,
            };
            *id != handle && other.inode == inode && excludes
        });
        if !is_excluded && let Some(mine) = self.handles.get_mut(&handle) {
            mine.lock = Some(kind);
        }
        Ok(!is_excluded)
    }

    /// Forgets the files that have no name, can get none by a crash, and are open nowhere.
    fn collect(&mut self) {
        let mut wanted = self.names.mentioned();
        wanted.extend(self.handles.values().map(|handle| handle.inode));
        wanted.insert(ROOT);
        self.nodes.retain(|inode, _| wanted.contains(inode));
    }

    /// How many files and directories are kept in memory.
    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn draw_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}
