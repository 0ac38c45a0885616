//! A machine with a database in several histories, an archive of their logs with holes, and backups; and what
//! must be known of all that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{
    CommitPoint, Engine, EngineOptions, LOG_DIR, LogSegmentHeader, PAGE_FILE, Proof, ReplayTarget,
    Replayed, SEGMENT_HEADER_BYTES, start_history, whole_log_records,
};
use crate::id::{Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::random::SeededRandom;
use crate::os::sim::{Faults, SimDisk};
use crate::os::{File, Host, OpenMode, SimulatedHost, read_up_to, write_all_at};
use crate::page::{PageNo, PageSize};
use crate::repository::log::{
    CommitStamp, Draft, Generation, LineId, LogCatalog, PieceUse, read_piece, store_draft,
};
use crate::repository::restore::moment::{Base, Chart, Way};
use crate::repository::restore::replay::{self, Job};
use crate::repository::store::Put;
use crate::repository::{BackupId, Control, Repository, RepositoryError};

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// In the order of the log. After a clean stop an engine begins with the first number again.
type SegmentKey = (Lsn, u64, u64);

/// One history.
pub(super) struct Branch {
    dir: PathBuf,
    engine: Option<Engine>,
    pub(super) id: LineId,
    /// The branch that it goes on from, and how many commits of that one's line it has.
    parent: Option<(usize, usize)>,
    /// Its own commits, and the content after each.
    pub(super) commits: Vec<(CommitStamp, Arc<Model>)>,
    /// Segments: header and records.
    segments: BTreeMap<SegmentKey, (LogSegmentHeader, Vec<u8>)>,
    /// Of each segment, what was archived or lost already.
    dealt: BTreeMap<SegmentKey, usize>,
    epochs: Vec<Epoch>,
    /// What is in the archive.
    archived: Vec<(Lsn, Lsn)>,
}

pub(super) struct World {
    pub(super) machine: SimulatedHost,
    pub(super) repository: Repository,
    pub(super) random: SeededRandom,
    pub(super) branches: Vec<Branch>,
    pub(super) bases: Vec<(Base, Vec<u8>)>,
    pub(super) killed: u64,
}

pub(super) fn stamp(point: CommitPoint) -> CommitStamp {
    CommitStamp {
        timestamp: point.timestamp,
        wall_ns: point.wall_ns,
        lsn: point.lsn,
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(4096).unwrap(),
        cache_bytes: 1 << 20,
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    }
}

fn contents(engine: &Engine) -> Model {
    let read = engine.begin_read();
    match read.tables().unwrap().is_empty() {
        true => Model::new(),
        false => read.range("t", ..).unwrap().map(Result::unwrap).collect(),
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let machine = Host::simulated(seed);
        let repository = Repository::open_or_create(&machine.host, Path::new("/repo")).unwrap();
        let mut world = Self {
            machine,
            repository,
            random: SeededRandom::new(seed ^ 0x5eed),
            branches: Vec::new(),
            bases: Vec::new(),
            killed: 0,
        };
        world.add_branch(PathBuf::from("/db0"), None);
        world.back_up(0);
        world
    }

    fn add_branch(&mut self, dir: PathBuf, parent: Option<(usize, usize)>) {
        let engine = Engine::open(&self.machine.host, &dir, &options(), None).unwrap();
        let identity = engine.identity();
        let mut branch = Branch {
            dir,
            id: LineId {
                database: identity.database,
                history: identity.history,
            },
            parent,
            commits: Vec::new(),
            segments: BTreeMap::new(),
            dealt: BTreeMap::new(),
            epochs: Vec::new(),
            archived: Vec::new(),
            engine: Some(engine),
        };
        if parent.is_none() {
            let engine = branch.engine.as_ref().unwrap();
            let point = engine.begin_read().snapshot().point();
            branch.commits.push((stamp(point), Arc::default()));
        }
        self.branches.push(branch);
    }

    /// All commits of the line of a branch, with the branch that has each.
    pub(super) fn line(&self, branch: usize) -> Vec<(usize, CommitStamp, Arc<Model>)> {
        let own = &self.branches[branch];
        let mut line = match own.parent {
            Some((parent, count)) => self.line(parent)[..count].to_vec(),
            None => Vec::new(),
        };
        let commits = own.commits.iter();
        line.extend(commits.map(|(stamp, model)| (branch, *stamp, model.clone())));
        line
    }

    pub(super) fn commit(&mut self, branch: usize) {
        let nanoseconds = 1 + self.random.below(5_000_000_000);
        self.machine
            .clock
            .advance(Duration::from_nanos(nanoseconds));
        let mut model = (*self.line(branch).last().unwrap().2).clone();
        let engine = self.branches[branch].engine.as_ref().unwrap();
        let mut write = engine.begin_write().unwrap();
        for _ in 0..=self.random.below(6) {
            let key = format!("key {:04}", self.random.below(150)).into_bytes();
            if self.random.below(4) == 0 {
                let is_there = model.remove(&key).is_some();
                let has_table = !write.tables().unwrap().is_empty();
                assert_eq!(has_table && write.delete("t", &key).unwrap(), is_there);
                continue;
            }
            let bytes = if self.random.below(10) == 0 {
                9000
            } else {
                200
            };
            let byte = u8::try_from(self.random.below(256)).unwrap();
            let value = vec![byte; usize::try_from(self.random.below(bytes)).unwrap()];
            write.put("t", &key, &value).unwrap();
            model.insert(key, value);
        }
        // So that there is something to commit whatever was deleted.
        write
            .put("t", b"count", &self.random.next().to_le_bytes())
            .unwrap();
        model.remove(b"count".as_slice());
        write.commit().unwrap();
        let point = engine.begin_read().snapshot().point();
        self.branches[branch]
            .commits
            .push((stamp(point), Arc::new(model)));
    }

    /// What a view of the newest commit is, as a backup of it has it.
    pub(super) fn back_up(&mut self, branch: usize) {
        let Some(engine) = &self.branches[branch].engine else {
            return;
        };
        let read = engine.begin_read();
        let point = read.snapshot().point();
        let view = engine.header().of_view(point);
        let mut bytes = Vec::new();
        for page in 0..point.page_count {
            match page {
                0 | 1 => bytes.extend_from_slice(&view.encode(PageNo(page))),
                _ => bytes.extend_from_slice(&read.snapshot().page(PageNo(page)).unwrap()),
            }
        }
        let number = u32::try_from(self.bases.len()).unwrap();
        let base = Base {
            backup: BackupId::new(1_763_665_649_000_000_000, number.to_be_bytes()),
            id: self.branches[branch].id,
            commit: stamp(point),
            epoch: Some(engine.identity().epoch),
        };
        self.bases.push((base, bytes));
    }

    /// Looks what the log of a branch has, as an archive does before a checkpoint lets it go.
    pub(super) fn look_at_log(&mut self, branch: usize) {
        let disk = &self.machine.host.disk;
        let newest = self.line(branch).last().unwrap().1.lsn;
        let branch = &mut self.branches[branch];
        let names = disk.list(&branch.dir.join(LOG_DIR)).unwrap_or_default();
        let mut found = BTreeMap::new();
        for name in names {
            let path = branch.dir.join(LOG_DIR).join(name);
            let file = disk.open(&path, OpenMode::Read).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            read_up_to(&*file, &mut bytes, 0).unwrap();
            let Some(Ok(header)) = LogSegmentHeader::decode(&bytes) else {
                continue;
            };
            found.insert(
                header.sequence,
                (header, bytes.split_off(SEGMENT_HEADER_BYTES)),
            );
        }
        let last = found.keys().next_back().copied();
        for (sequence, (header, mut bytes)) in found {
            let (mut whole, _) = whole_log_records(&header, header.start, &bytes, usize::MAX);
            if Some(sequence) == last {
                // Of the newest segment only what was acknowledged is sure to be durable.
                let durable = newest.0.saturating_sub(header.start.0);
                whole = whole.min(usize::try_from(durable).unwrap());
            }
            bytes.truncate(whole);
            if !branch.epochs.contains(&header.epoch) {
                branch.epochs.push(header.epoch);
            }
            let key = (header.start, sequence, header.epoch.0);
            branch.segments.insert(key, (header, bytes));
        }
    }

    /// Archives what is not, in pieces of any size; of every `lost` pieces one never gets there.
    pub(super) fn archive(&mut self, branch: usize, lost: u64) {
        self.look_at_log(branch);
        let fork = {
            let dir = &self.branches[branch].dir;
            let path = dir.join(PAGE_FILE);
            let file = self.machine.host.disk.open(&path, OpenMode::Read).unwrap();
            let copies = crate::engine::header::read_copies(&*file, options().page_size).unwrap();
            copies.last().and_then(|header| header.fork)
        };
        let branch = &mut self.branches[branch];
        for (key, (header, bytes)) in &branch.segments {
            let dealt = branch.dealt.entry(*key).or_default();
            let generation = branch
                .epochs
                .iter()
                .position(|epoch| *epoch == header.epoch);
            let generation = u32::try_from(1 + generation.unwrap()).unwrap();
            while *dealt < bytes.len() {
                let first = Lsn(header.start.0 + *dealt as u64);
                let limit = 100 + usize::try_from(self.random.below(30_000)).unwrap();
                let (count, commits) = whole_log_records(header, first, &bytes[*dealt..], limit);
                assert!(count > 0);
                let records = &bytes[*dealt..*dealt + count];
                *dealt += count;
                if self.random.below(lost) == 0 {
                    continue;
                }
                let commits: Vec<CommitStamp> = commits.into_iter().map(stamp).collect();
                let draft = Draft {
                    line: branch.id,
                    fork,
                    generation: Generation(generation),
                    segment: &header.encode(),
                    first,
                    commits: &commits,
                    records,
                };
                store_draft(&self.repository, &draft).unwrap();
                branch.archived.push((first, Lsn(first.0 + count as u64)));
            }
        }
        self.repository.store().settle().unwrap();
    }

    pub(super) fn checkpoint(&mut self, branch: usize) {
        self.look_at_log(branch);
        self.branches[branch]
            .engine
            .as_ref()
            .unwrap()
            .checkpoint()
            .unwrap();
    }

    pub(super) fn reopen(&mut self, branch: usize) {
        self.look_at_log(branch);
        let engine = self.branches[branch].engine.take().unwrap();
        if self.random.below(2) == 0 {
            engine.close().unwrap();
        }
        drop(engine);
        self.open(branch);
    }

    /// The machine has `disk` from before, in which branch 0 has its first `commits` commits, and goes on; the
    /// archive stays as it is.
    pub(super) fn put_back(&mut self, disk: SimDisk, commits: usize) {
        self.branches[0].engine = None;
        self.machine = self.machine.with_disk(disk);
        self.branches[0].commits.truncate(commits);
        self.open(0);
    }

    /// What is in the log of branch 0 and not archived goes, and the archive learns that there is a gap.
    pub(super) fn lose_log(&mut self, generation: u32) -> (Lsn, Lsn) {
        self.checkpoint(0);
        let branch = &mut self.branches[0];
        for (key, (_, bytes)) in &branch.segments {
            branch.dealt.insert(*key, bytes.len());
        }
        let first = branch.archived.iter().map(|(_, end)| *end).max().unwrap();
        let point = branch.engine.as_ref().unwrap().log_state();
        let end = point.durable;
        let gap = format!(
            "log/{}-{generation:08x}-{:016x}-{:016x}-gap",
            branch.id, first.0, end.0
        );
        self.repository
            .store()
            .put(&gap, &[], Put::Replace)
            .unwrap();
        (first, end)
    }

    fn open(&mut self, branch: usize) {
        let host = &self.machine.host;
        let branch = &mut self.branches[branch];
        let engine = Engine::open(host, &branch.dir, &options(), None).unwrap();
        assert_eq!(engine.identity().history, branch.id.history);
        branch.engine = Some(engine);
    }

    /// The machine stops in the middle of a transaction, if it gets so far.
    pub(super) fn crash(&mut self) {
        for branch in 0..self.branches.len() {
            self.look_at_log(branch);
        }
        let changes = self.machine.disk.change_count() + 1 + self.random.below(8);
        self.machine
            .disk
            .set_faults(Faults::power_off_before_change(changes));
        let engine = self.branches.last().unwrap().engine.as_ref().unwrap();
        if let Ok(mut write) = engine.begin_write() {
            drop(write.put("t", b"count", &[1; 3000]));
            drop(write.commit());
        }
        self.branches
            .iter_mut()
            .for_each(|branch| drop(branch.engine.take()));
        self.machine = self.machine.crash(self.random.next());
        self.repository = Repository::open(&self.machine.host, Path::new("/repo")).unwrap();
        for branch in 0..self.branches.len() {
            self.open(branch);
            let engine = self.branches[branch].engine.as_ref().unwrap();
            let point = stamp(engine.begin_read().snapshot().point());
            let last = self.line(branch).last().unwrap().1;
            if point != last {
                // The sync of the last one went through, and nobody was told.
                assert_eq!(Some(point.timestamp), last.timestamp.next());
                let mut model = contents(engine);
                model.remove(b"count".as_slice());
                self.branches[branch].commits.push((point, Arc::new(model)));
            }
        }
    }

    pub(super) fn way(&self, target: ReplayTarget, branch: usize) -> Result<Way, RepositoryError> {
        let catalog = LogCatalog::read(&self.repository).unwrap();
        assert!(catalog.damaged().is_empty(), "{:?}", catalog.damaged());
        let bases = self.bases.iter().map(|(base, _)| base.clone());
        let last =
            |piece: &PieceUse, until| replay::last_commit(&self.repository, piece, until).unwrap();
        let chart = Chart::new(bases.collect(), catalog.lines(), &last);
        let history = self.branches[branch].id.history.to_string();
        chart.way(target, Some(&history))
    }

    /// Replays on a machine of its own, which stops now and then; then all is done again. Returns the file.
    pub(super) fn replay(&mut self, way: &Way) -> (Replayed, SimulatedHost, Arc<dyn File>) {
        let mut machine = Host::simulated(self.random.next());
        if self.random.below(3) == 0 {
            let number = machine.disk.change_count() + 1 + self.random.below(60);
            machine
                .disk
                .set_faults(Faults::power_off_before_change(number));
        }
        loop {
            let ended = self.try_replay(way, &machine);
            match ended {
                Ok((replayed, file)) => return (replayed, machine, file),
                Err(RepositoryError::Io { .. }) => {
                    self.killed += 1;
                    machine = machine.crash(self.random.next());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn try_replay(
        &self,
        way: &Way,
        machine: &SimulatedHost,
    ) -> Result<(Replayed, Arc<dyn File>), RepositoryError> {
        let failed = |source| RepositoryError::io("prepare", "a test")(source);
        let path = Path::new("/data.pages");
        let disk = &machine.host.disk;
        let make = |path: &Path| {
            let there = disk.open(path, OpenMode::ReadWrite);
            there.or_else(|_| disk.open(path, OpenMode::CreateNew))
        };
        let file = make(path).map_err(failed)?;
        let base = self
            .bases
            .iter()
            .find(|(base, _)| base.backup == way.backup);
        let bytes = &base.unwrap().1;
        file.set_len(bytes.len() as u64).map_err(failed)?;
        write_all_at(&*file, bytes, 0).map_err(failed)?;
        let job = Job {
            target: way.target,
            steps: &way.steps,
            read: &|facts| read_piece(&self.repository, facts),
            scratch: &|| make(Path::new("/commit")),
            proof: Proof::ReadBack,
            control: &Control::default(),
            threads: 1 + usize::try_from(way.log_bytes() % 2).unwrap(),
            cache_bytes: 0,
        };
        let replayed = job.run(&*file, path)?;
        Ok((replayed, file))
    }

    /// What is restored becomes a database of its own on the first machine.
    pub(super) fn fork(&mut self, parent: usize, commits: usize, file: &dyn File) {
        let dir = PathBuf::from(format!("/db{}", self.branches.len()));
        let disk = self.machine.host.disk.clone();
        disk.create_dir(&dir).unwrap();
        let path = dir.join(PAGE_FILE);
        let copy = disk.open(&path, OpenMode::CreateNew).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        read_up_to(file, &mut bytes, 0).unwrap();
        write_all_at(&*copy, &bytes, 0).unwrap();
        let mut id = [0; 16];
        self.machine.host.random.fill(&mut id).unwrap();
        start_history(&*copy, &path, HistoryId(id)).unwrap();
        disk.sync_dir(&dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        self.add_branch(dir, Some((parent, commits)));
    }

    /// Whether the archive leads from commit `index` of the line of `branch` to the next one, without one
    /// byte missing that a commit needs: no commit spans segments, and other records do not matter.
    fn leads(&self, line: &[(usize, CommitStamp, Arc<Model>)], index: usize) -> bool {
        let (before, (owner, next, _)) = (line[index].1, &line[index + 1]);
        let owner = &self.branches[*owner];
        let starts = owner.segments.values().map(|(header, _)| header.start);
        let starts = starts.filter(|start| (before.lsn..next.lsn).contains(start));
        [before.lsn].into_iter().chain(starts).any(|start| {
            let mut at = start;
            loop {
                let ranges = owner
                    .archived
                    .iter()
                    .filter(|range| range.0 <= at && at < range.1);
                match ranges.map(|range| range.1).max() {
                    Some(end) if end >= next.lsn => return true,
                    Some(end) => at = end,
                    None => return false,
                }
            }
        })
    }

    /// The histories whose commits are known to be on the line of `branch`: a piece of the log says what its
    /// history goes on from.
    fn known_on(&self, branch: usize) -> Vec<usize> {
        let mut known = vec![branch];
        let mut at = &self.branches[branch];
        while let Some((parent, _)) = at.parent.filter(|_| !at.archived.is_empty()) {
            known.push(parent);
            at = &self.branches[parent];
        }
        known
    }

    /// Whether what is archived leads to the last commit at or before a moment, commit `index` of `branch`'s
    /// line, and shows that it is the last if `is_exact` does not.
    pub(super) fn is_covered(&self, branch: usize, index: usize, is_exact: bool) -> bool {
        let (line, known) = (self.line(branch), self.known_on(branch));
        let leads_to = |at: usize| known.contains(&line[at].0) && self.leads(&line, at - 1);
        let is_last = is_exact || (index + 1 < line.len() && leads_to(index + 1));
        if !is_last {
            return false;
        }
        for at in (0..=index).rev() {
            // A backup of a fork before its first commit is one of a commit that it shares.
            let is_base = |(base, _): &(Base, Vec<u8>)| {
                let mut known = known.iter().map(|known| self.branches[*known].id);
                base.commit == line[at].1 && known.any(|id| id == base.id)
            };
            if self.bases.iter().any(is_base) {
                return true;
            }
            if at == 0 || !leads_to(at) {
                return false;
            }
        }
        false
    }
}

/// What a file that was replayed holds, without what tells commits apart.
pub(super) fn content_of(host: &Host, file: Arc<dyn File>, walks: bool) -> (CommitStamp, Model) {
    let engine = Engine::open_still(host, file, 1 << 20).unwrap();
    if walks {
        let report = engine.check().unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
    let mut model = contents(&engine);
    model.remove(b"count".as_slice());
    (stamp(engine.begin_read().snapshot().point()), model)
}
