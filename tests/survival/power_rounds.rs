//! Rounds of power loss: the engine on a real file system, on a disk that forgets what was not flushed.
//!
//! A control shows that the disk bites: what nobody flushed is lost, and a disk that lies about its
//! flushes makes this very test find lost commits.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::books::Books;
use crate::disk::{Flush, Moment, Unflushed};
use crate::load::{Load, Random};
use crate::machine::{Kind, Machine, Trickle};
use crate::process::{eventually, is_running, signal, stillfs, succeed};
use crate::rig::{Engine, Rig, umount};
use crate::seed::{Diary, rounds};
use crate::view::{Owes, View};

/// Rounds of each file system in an ordinary run of the tests.
const ROUNDS: u64 = 3;
/// Small, so that checkpoints and new segments are never far.
const SERVE: &[&str] = &[
    "--checkpoint-size",
    "512K",
    "--wal-limit",
    "4M",
    "--free-space-floor",
    "8M",
];

/// An engine on a machine; the rig goes first.
struct Round {
    rig: Rig,
    machine: Machine,
    engine: Option<Engine>,
    views: u64,
}

impl Round {
    fn new(kind: Kind, keys: u64) -> Option<Self> {
        let mut rig = Rig::without_engine()?;
        let machine = Machine::new(kind)?;
        rig.source = machine.root().join("app");
        let mut round = Self {
            rig,
            machine,
            engine: None,
            views: 0,
        };
        round.start();
        crate::books::open_accounts(round.engine().address, keys);
        Some(round)
    }

    fn start(&mut self) {
        self.engine = Some(Engine::start_with(
            &self.rig.source,
            SERVE,
            Stdio::inherit(),
        ));
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("an engine runs")
    }

    fn mount(&mut self, load: &Load) -> View {
        self.views += 1;
        let before = load.acknowledged();
        let point = self.rig.mount(&format!("mnt-{}", self.views), &[]);
        View::new(&point, before, load.acknowledged())
    }

    /// The power goes, if it has not gone already. Gives the transfers that were acknowledged until then,
    /// and how many writes the disk had not flushed.
    fn cut(&mut self, load: Load, unflushed: Unflushed, random: Random) -> (Vec<u64>, usize) {
        load.expect_end();
        let at_risk = self.machine.disk.cut(unflushed, random);
        self.engine.take().expect("an engine runs").kill();
        (load.stop(), at_risk)
    }

    /// What the loss of power also ends, and the machine runs again.
    fn reboot(&mut self, views: Vec<View>) {
        for view in views {
            signal(view.daemon, Signal::SIGKILL);
            eventually("a killed daemon is gone", || !is_running(view.daemon));
            umount(&view.still.point);
        }
        self.machine.reboot();
    }

    /// What each writer has made beyond, or less than, what was acknowledged to it.
    fn surplus(&self, acknowledged: &[u64]) -> Vec<i64> {
        let books = Books::read(self.engine().address);
        books.audit();
        let counts = books.transfers().into_iter().zip(acknowledged);
        let signed = |count: u64| i64::try_from(count).unwrap();
        counts
            .map(|(count, known)| signed(count) - signed(*known))
            .collect()
    }

    /// All that was acknowledged is there, and at most the transfers that were on their way.
    fn assert_nothing_lost(&self, acknowledged: &[u64]) {
        let surplus = self.surplus(acknowledged);
        let is_right = surplus.iter().all(|more| (0..=1).contains(more));
        assert!(is_right, "{surplus:?} beside {acknowledged:?}");
    }

    /// The power goes and comes back, a few times.
    fn run(mut self, diary: &mut Diary) {
        for _ in 0..2 + diary.below(2) {
            let load = Load::start(self.engine().address);
            let view = self.mount(&load);
            view.still.read();
            let trickle = (diary.below(3) > 0).then(|| Trickle::start(&self.rig.source));
            thread::sleep(Duration::from_millis(diary.below(200)));
            view.still.read();
            load.expect_end();
            // A view on a disk without power owes nothing but that it shows nothing wrong.
            view.still.owe_at_most(Owes::BytesOrEio);
            let (moment, unflushed) = (moment(diary), unflushed(diary));
            let seed = diary.seed();
            self.machine.disk.plan_cut(moment, unflushed, Random(seed));
            let deadline = Instant::now() + Duration::from_secs(1);
            while moment != Moment::Now && !self.machine.disk.is_off() && Instant::now() < deadline
            {
                view.still.read();
            }
            let (acknowledged, at_risk) = self.cut(load, unflushed, Random(seed));
            drop(trickle);
            view.still.read();
            self.reboot(vec![view]);
            diary.note(format!(
                "{moment:?} {unflushed:?} of {at_risk} after {acknowledged:?}"
            ));
            succeed(stillfs().arg("check").arg(&self.rig.source));
            self.start();
            assert_eq!(self.rig.pin_files(), [] as [PathBuf; 0]);
            self.assert_nothing_lost(&acknowledged);
        }
        self.end();
    }

    /// A mount works, and nothing is left of anything.
    fn end(mut self) {
        let load = Load::start(self.engine().address);
        let view = self.mount(&load);
        load.progress();
        assert!(view.is_proven(&self.rig.path("proof")));
        umount(&view.still.point);
        let acknowledged = load.stop();
        self.engine().wait_unpinned();
        assert_eq!(self.rig.mount_points(), [] as [PathBuf; 0]);
        assert_eq!(self.rig.records(), []);
        assert!(self.engine.take().expect("it runs").stop().success());
        succeed(stillfs().arg("check").arg(&self.rig.source));
        self.start();
        self.assert_nothing_lost(&acknowledged);
        assert!(self.engine.take().expect("it runs").stop().success());
        self.machine.shut_down();
    }
}

fn moment(diary: &mut Diary) -> Moment {
    match diary.below(4) {
        0 => Moment::Now,
        1 | 2 => Moment::Cached(usize::try_from(diary.below(40)).unwrap()),
        _ => Moment::Flush(diary.below(20)),
    }
}

fn unflushed(diary: &mut Diary) -> Unflushed {
    match diary.below(5) {
        0 => Unflushed::Lost,
        1 => Unflushed::Writes,
        2 => Unflushed::Begun(diary.below(100)),
        _ => Unflushed::Sectors,
    }
}

fn power_rounds(kind: Kind, test: &'static str) {
    rounds(test, ROUNDS, |diary| {
        if let Some(round) = Round::new(kind, 100 + diary.below(1000)) {
            round.run(diary);
        }
    });
}

/// The promise of a commit, and of every file that is renamed, made or removed on the way, on the file
/// system that most people have (E1, E7, E10, W2, O1, O2).
#[test]
fn power_loss_on_ext4_keeps_exactly_what_was_acknowledged() {
    power_rounds(Kind::Ext4, "power_loss_on_ext4");
}

/// Another file system orders its writes in another way (E1, E7, E10, W2, O1, O2).
#[test]
fn power_loss_on_xfs_keeps_exactly_what_was_acknowledged() {
    power_rounds(Kind::Xfs, "power_loss_on_xfs");
}

/// The disk must bite, or the rounds prove nothing: a flush of the file system gets to it, and what
/// nobody flushed is lost.
#[test]
fn a_file_that_nobody_syncs_is_lost_and_one_that_is_synced_stays() {
    let Some(mut machine) = Machine::new(Kind::Ext4) else {
        return;
    };
    let (synced, forgotten) = (
        machine.root().join("synced"),
        machine.root().join("forgotten"),
    );
    let before = machine.disk.flushes();
    let mut file = File::create(&synced).unwrap();
    file.write_all(b"kept").unwrap();
    file.sync_all().unwrap();
    assert!(machine.disk.flushes() > before, "fsync flushes the disk");
    drop(file);
    fs::write(&forgotten, b"lost").unwrap();
    machine.disk.cut(Unflushed::Lost, Random(1));
    assert!(
        File::create(machine.root().join("late"))
            .and_then(|file| file.sync_all())
            .is_err()
    );
    machine.reboot();
    assert_eq!(fs::read(&synced).unwrap(), b"kept");
    assert!(fs::read(&forgotten).is_ok_and(|bytes| bytes.is_empty()) || !forgotten.exists());
    machine.shut_down();
}

/// With a disk that lies about its flushes the same engine loses commits, and the same look at its
/// books finds that: so the rounds could fail.
#[test]
fn a_disk_that_lies_about_flushes_loses_commits_and_is_found_out() {
    let Some(mut round) = Round::new(Kind::Ext4, 100) else {
        return;
    };
    let load = Load::start(round.engine().address);
    round.machine.disk.set_flush(Flush::Lying);
    load.progress();
    let (acknowledged, _) = round.cut(load, Unflushed::Lost, Random(1));
    round.machine.disk.set_flush(Flush::Honest);
    round.reboot(Vec::new());
    round.start();
    let surplus = round.surplus(&acknowledged);
    assert!(surplus.iter().all(|more| *more < 0), "{surplus:?}");
    assert!(round.engine.take().expect("it runs").stop().success());
    round.machine.shut_down();
}
