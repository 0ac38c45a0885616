//! The steps of a world that are a repository's own.

use std::time::Duration;

use stillfs::repository::backup::{BackupOptions, BackupReport, Runner, Wanted, backup};
use stillfs::repository::{
    BackupId, BackupKind, Compression, Control, Depth, Keep, Phase, Reason, RepositoryError, Run,
    copy, forget, prune,
};

use crate::application::transact;
use crate::depot::{Depot, Known};
use crate::draw::Draw;
use crate::watched::Call;
use crate::world::{World, note};

/// How long a runner may take: far longer than it does.
const POLLS_MAX: u64 = 20_000_000;

pub(crate) fn draw_options(draw: &Draw) -> BackupOptions {
    use Wanted::{Auto, Differential, Full, Incremental};
    let tag = draw.one_in(3).then(|| "nightly".to_owned());
    BackupOptions {
        wanted: draw.pick(&[Auto, Auto, Full, Incremental, Incremental, Differential]),
        tag,
        compression: draw.pick(&[
            Compression::Lz4,
            Compression::Zstd(1),
            Compression::Zstd(3),
            Compression::None,
        ]),
        workers: draw.pick(&[1, 2]),
        ..BackupOptions::default()
    }
}

/// Whether there is something to build on, for a database of this history.
fn has_base(depot: &Depot, wanted: Wanted, history: &str) -> bool {
    let is_of_line = |known: &&Known| known.history.as_deref() == Some(history);
    let known = depot.known.values().filter(is_of_line);
    let mut kinds = known.map(|known| known.kind);
    match wanted {
        Wanted::Auto | Wanted::Full => true,
        Wanted::Incremental => kinds.next().is_some(),
        Wanted::Differential => kinds.any(|kind| kind == BackupKind::Full),
    }
}

/// A backup that `wanted` asks for is of this kind.
fn check_kind(depot: &Depot, wanted: Wanted, history: &str, report: &BackupReport) {
    let facts = &report.facts;
    assert_eq!(facts.databases[0].history.as_deref(), Some(history));
    match wanted {
        Wanted::Auto if !has_base(depot, Wanted::Incremental, history) => {
            assert_eq!(facts.kind, BackupKind::Full)
        }
        Wanted::Auto => assert_ne!(facts.kind, BackupKind::Differential),
        Wanted::Full => assert_eq!(facts.kind, BackupKind::Full),
        Wanted::Incremental => assert_eq!(facts.kind, BackupKind::Incremental),
        Wanted::Differential => assert_eq!(facts.kind, BackupKind::Differential),
    }
    let parent = facts.parent.as_ref();
    match facts.kind {
        BackupKind::Full => assert_eq!((parent, &facts.full), (None, &facts.id)),
        BackupKind::Incremental | BackupKind::Differential => {
            let parent = &depot.known[parent.expect("a parent")];
            assert_eq!(parent.history.as_deref(), Some(history));
            let is_full = parent.kind == BackupKind::Full;
            assert!(is_full || facts.kind == BackupKind::Incremental);
        }
    }
}

impl World {
    /// Mostly a moment later than the one before.
    fn tick(&self, draw: &Draw) {
        if !draw.one_in(4) {
            let clock = &self.application.machine.clock;
            clock.advance(Duration::from_secs(1));
        }
    }

    pub(crate) fn back_up(&mut self, draw: &Draw) {
        self.tick(draw);
        let options = draw_options(draw);
        let content = self.application.content();
        let subject = self.application.subject();
        let repository = self.depots[0].repository.clone();
        note!(
            self,
            "     {:?} with {:?}",
            options.wanted,
            options.compression
        );
        let wanted = options.wanted;
        let act = || match draw.one_in(4) {
            true => run_aside(Runner::new(repository), subject, options),
            false => backup(&repository, subject, &options, &Control::default()),
        };
        let outcome = match draw.one_in(2) {
            true => self.with_writes_amid(draw, act),
            false => act(),
        };
        let (depot, history) = (&self.depots[0], self.application.history());
        match outcome {
            Ok(report) => {
                assert!(has_base(depot, wanted, &history), "a backup without a base");
                check_kind(depot, wanted, &history, &report);
                self.keep(&content, &report);
            }
            Err(RepositoryError::NoBase { .. }) if !has_base(depot, wanted, &history) => {
                note!(self, "     no base");
            }
            Err(error) => panic!("a backup: {error}"),
        }
    }

    fn keep(&mut self, content: &std::sync::Arc<crate::content::Content>, report: &BackupReport) {
        let facts = &report.facts;
        note!(self, "     {:?} {}, {}", facts.kind, facts.id, report.why);
        let statistics = &facts.statistics;
        self.tally.backups += 1;
        self.tally.incremental += u64::from(facts.kind != BackupKind::Full);
        self.tally.units_unread += statistics.units - statistics.units_read;
        let depot = &mut self.depots[0];
        let told = depot.repository.facts(&facts.id).expect("the facts");
        assert_eq!(&told, facts, "what was told of {}", facts.id);
        let known = Known::new(content, facts);
        depot.known.insert(facts.id.clone(), known);
    }

    /// While `act` reads, the application writes and takes checkpoints.
    fn with_writes_amid<T>(&self, draw: &Draw, act: impl FnOnce() -> T) -> T {
        let application = &self.application;
        let (database, newest) = (application.database.clone(), application.newest.clone());
        let (config, within) = (application.config.clone(), Draw::new(draw.next()));
        let hook = move |call| match within.below(6) {
            // The end of a pin changes files under a lock that writers need.
            _ if call != Call::Read => {}
            0 => transact(&database, &newest, &config, &within, within.between(1, 12)),
            1 => drop(database.checkpoint().expect("a checkpoint")),
            _ => {}
        };
        application.watch.during(hook, act)
    }

    /// BK5, BK6: what was taken over and what was read again is the same, to the digest.
    pub(crate) fn back_up_twice(&mut self, draw: &Draw) {
        self.tick(draw);
        let content = self.application.content();
        let history = self.application.history();
        let wanted = match has_base(&self.depots[0], Wanted::Incremental, &history) {
            true => [Wanted::Incremental, Wanted::Full],
            false => [Wanted::Full, Wanted::Incremental],
        };
        let mut digests = Vec::new();
        for wanted in wanted {
            let options = BackupOptions {
                wanted,
                ..draw_options(draw)
            };
            let subject = self.application.subject();
            let repository = &self.depots[0].repository;
            let report = backup(repository, subject, &options, &Control::default());
            let report = report.unwrap_or_else(|error| panic!("a {wanted:?} backup: {error}"));
            digests.push((report.facts.digest, report.facts.databases[0].digest));
            let is_second = digests.len() == 2;
            let new = report.facts.statistics.units_new;
            assert!(!is_second || new == 0, "{new} units of one commit are new");
            self.keep(&content, &report);
            self.tick(&Draw::new(1));
        }
        assert_eq!(digests[0], digests[1], "two backups of one commit");
    }

    fn any_backup(&self, draw: &Draw, depot: usize) -> Option<BackupId> {
        let known = &self.depots[depot].known;
        let at = (!known.is_empty()).then(|| draw.index(known.len()))?;
        known.keys().nth(at).cloned()
    }

    pub(crate) fn restore(&mut self, draw: &Draw) {
        let at = draw.index(2);
        let Some(id) = self.any_backup(draw, at) else {
            return;
        };
        note!(self, "     {id} of {at}");
        let config = &self.application.config;
        self.yard.check(&self.depots[at], &id, config, draw);
    }

    pub(crate) fn roll_back(&mut self, draw: &Draw) {
        let at = draw.index(2);
        let Some(id) = self.any_backup(draw, at) else {
            return;
        };
        note!(self, "     {id} of {at}");
        let depot = &self.depots[at];
        let target = self.yard.restore(depot, &id);
        self.application.replace(&target, &depot.known[&id].content);
        std::fs::remove_dir_all(&target).expect("the target goes");
    }

    pub(crate) fn forget(&mut self, draw: &Draw) {
        let most = draw.pick(&[1, 2, 4]);
        let few = || u32::try_from(draw.below(most)).expect("few");
        let keep = Keep {
            last: 1 + few(),
            hourly: few(),
            daily: few(),
            weekly: few(),
            monthly: few(),
            within: draw
                .one_in(4)
                .then(|| Duration::from_secs(draw.below(9 * 86_400))),
        };
        let run = draw.pick(&[Run::Really, Run::Really, Run::Dry]);
        let depot = &mut self.depots[draw.index(2)];
        let report = forget(&depot.repository, &keep, run).expect("a forget");
        let mut all: Vec<BackupId> = report.forgotten.clone();
        all.extend(report.kept.iter().map(|(id, _)| id.clone()));
        all.sort();
        assert!(all.iter().eq(depot.known.keys()), "told of all: {report:?}");
        for (id, reasons) in &report.kept {
            assert!(!reasons.is_empty(), "{id} is kept for no reason");
            let is_held = reasons.contains(&Reason::Held);
            assert_eq!(is_held, depot.known[id].is_held, "{id} is held");
        }
        let last = |(_, reasons): &&(BackupId, Vec<Reason>)| reasons.contains(&Reason::Last);
        let last = report.kept.iter().filter(last).count();
        let wanted = depot.known.len().min(keep.last as usize);
        assert_eq!(last, wanted, "the last ones: {report:?}");
        if run == Run::Really {
            for id in &report.forgotten {
                let known = depot.known.remove(id).expect("it was known");
                assert!(!known.is_held, "{id} is held and was forgotten");
            }
            self.tally.forgotten += report.forgotten.len() as u64;
            note!(self, "     {:?}", report.forgotten);
        }
    }

    pub(crate) fn prune(&mut self, draw: &Draw) {
        let run = draw.pick(&[Run::Really, Run::Really, Run::Dry]);
        let depot = &mut self.depots[draw.index(2)];
        let report = prune(&depot.repository, run, &Control::default()).expect("a prune");
        assert!(report.bytes_after <= report.bytes_before, "{report:?}");
        if run == Run::Really {
            self.tally.packs_removed += report.packs_removed;
            self.tally.packs_hollowed += report.packs_hollowed;
            let again = prune(&depot.repository, Run::Dry, &Control::default()).expect("a prune");
            assert_eq!((again.packs_removed, again.packs_hollowed), (0, 0));
            assert_eq!(
                again.bytes_before, report.bytes_after,
                "told of what is left"
            );
        }
        note!(self, "     {report:?}");
    }

    pub(crate) fn hold(&mut self, draw: &Draw) {
        let at = draw.index(2);
        let Some(id) = self.any_backup(draw, at) else {
            return;
        };
        let depot = &mut self.depots[at];
        let known = depot.known.get_mut(&id).expect("it is known");
        known.is_held = !known.is_held;
        let is_held = known.is_held;
        let marked = depot
            .repository
            .set_mark(&id, &mut |mark| mark.is_held = is_held);
        marked.expect("a mark");
        let mark = depot.repository.mark(&id).expect("a mark");
        assert_eq!(mark.is_held, is_held);
    }

    pub(crate) fn copy(&mut self, draw: &Draw) {
        let [from, to] = &mut self.depots;
        let wanted = from.known.keys().filter(|_| draw.one_in(2));
        let wanted: Vec<BackupId> = wanted.cloned().collect();
        let control = Control::default();
        let report = copy(&from.repository, &to.repository, &wanted, &control).expect("a copy");
        for id in &wanted {
            let was_there = to.known.contains_key(id);
            assert_eq!(report.present.contains(id), was_there, "{id} was there");
            assert_eq!(report.copied.contains(id), !was_there, "{id} is copied");
            if !was_there {
                let mut known = from.known[id].clone();
                known.is_held = to.repository.mark(id).expect("a mark").is_held;
                to.known.insert(id.clone(), known);
            }
        }
        self.tally.copied += report.copied.len() as u64;
        note!(self, "     {:?}", report.copied);
    }

    /// BK10: nothing but a reading of every byte makes a backup verified.
    pub(crate) fn verify(&mut self, draw: &Draw) {
        let share = 0.3;
        let depth = draw.pick(&[Depth::Structure, Depth::Sample(share), Depth::ReadData]);
        let depot = &self.depots[draw.index(2)];
        let marks = |depot: &Depot| -> Vec<_> {
            let ids = depot.known.keys();
            ids.map(|id| depot.repository.mark(id).expect("a mark"))
                .collect()
        };
        let before = marks(depot);
        let now = depot.machine.clock.clone();
        let report = depot.verify(depth, "in between");
        let after = marks(depot);
        match depth {
            Depth::ReadData => {
                let at = stillfs::os::Clock::wall_ns(&*now);
                let are_marked = after
                    .iter()
                    .all(|mark| mark.verified.as_ref().is_some_and(|it| it.at_ns == at));
                assert!(are_marked, "{after:?} at {at}");
            }
            Depth::Structure | Depth::Sample(_) => assert_eq!(before, after, "{depth:?}"),
        }
        self.tally.verified += report.verified.len() as u64;
    }
}

/// The same on a runner's thread, looked on from here.
pub(crate) fn run_aside(
    runner: Runner,
    subject: stillfs::repository::backup::Subject,
    options: BackupOptions,
) -> Result<BackupReport, RepositoryError> {
    assert_eq!(runner.phase(), Phase::Idle);
    runner.start(subject, options).expect("a start");
    let (mut before, mut polls) = (0.0, 0);
    while !matches!(runner.phase(), Phase::Completed | Phase::Failed) {
        let progress = runner.progress();
        let is_sane = (before..=1.0).contains(&progress.fraction);
        assert!(is_sane, "{progress:?} after {before}");
        before = progress.fraction;
        polls += 1;
        assert!(polls < POLLS_MAX, "a runner that does not end");
        std::thread::yield_now();
    }
    let outcome = runner.wait().expect("one was started");
    let is_completed = runner.phase() == Phase::Completed;
    assert_eq!(is_completed, outcome.is_ok(), "{:?}", runner.progress());
    outcome
}
