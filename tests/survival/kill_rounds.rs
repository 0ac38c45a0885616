//! Rounds of kill -9 and clean stops at random moments.
//!
//! A round has one engine with writers that never rest, one or two mounts, and a copy tool on each of
//! them. A few times something is killed, or stopped cleanly, and started again. After every start of
//! the engine all that was acknowledged is there; whatever is read of a mount at any time is right, or
//! has a reason not to be there; and at the end nothing is left of anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::books::Books;
use crate::copier::Copier;
use crate::load::Load;
use crate::process::{end_of, eventually, has_tool, is_running, signal, stillfs, succeed};
use crate::rig::{Rig, is_mounted};
use crate::seed::{Diary, rounds};
use crate::view::{Owes, View};

/// Rounds in an ordinary run of the tests.
const ROUNDS: u64 = 20;

/// What happens to an engine.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Stop,
    /// Killed; and killed again while it recovers.
    KillTwice,
    /// Killed while somebody mounts.
    KillInMount,
    /// Killed, and a mount daemon after it: nobody is left to hear of its end.
    KillWithDaemon,
    /// Killed, and somebody mounts while the next one starts.
    KillThenMount,
}

/// A view and who reads it.
struct Watched {
    view: View,
    copier: Copier,
}

/// In a failure readers and writers go first, then what they use.
struct Round<'a> {
    views: Vec<Watched>,
    load: Option<Load>,
    rig: Rig,
    diary: &'a mut Diary,
    /// Every mount daemon that there was.
    daemons: Vec<u32>,
    /// Transfers acknowledged to the writers of engines that are gone.
    acknowledged: Vec<u64>,
    /// Descriptors of an engine that nobody uses.
    descriptors: usize,
    names: u64,
    copies: u64,
    proven: u64,
}

fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many processes have a path below `base` in their command line.
fn processes_at(base: &Path) -> usize {
    let base = base.to_str().unwrap().trim_end_matches('/').as_bytes();
    let names_it = |line: &Vec<u8>| line.windows(base.len()).any(|part| part == base);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(names_it).count()
}

/// The helpers of a tool that was killed may have files open for a moment longer than the tool.
fn unmount(point: &Path) {
    eventually("a view is unmounted", || {
        let ended = end_of(stillfs().arg("umount").arg(point));
        let is_done = ended.status.success();
        assert!(is_done || ended.err.contains("is busy"), "{ended:?}");
        is_done
    });
    assert!(!is_mounted(point));
}

impl Round<'_> {
    fn new(diary: &mut Diary) -> Option<Round<'_>> {
        let mut rig = Rig::without_engine()?;
        rig.start();
        let descriptors = descriptors_of(rig.engine().pid());
        crate::books::open_accounts(rig.engine().address, 200 + diary.below(1500));
        let load = Load::start(rig.engine().address);
        Some(Round {
            acknowledged: load.acknowledged(),
            load: Some(load),
            rig,
            diary,
            views: Vec::new(),
            daemons: Vec::new(),
            descriptors,
            names: 0,
            copies: 0,
            proven: 0,
        })
    }

    /// A path that nothing was at before.
    fn fresh(&mut self, what: &str) -> PathBuf {
        self.names += 1;
        self.rig.path(&format!("{what}-{}", self.names))
    }

    fn acknowledged(&self) -> Vec<u64> {
        let load = self.load.as_ref();
        load.map_or_else(|| self.acknowledged.clone(), Load::acknowledged)
    }

    fn mount(&mut self) {
        let point = self.fresh("mnt");
        fs::create_dir(&point).unwrap();
        let options: &[&str] = match self.diary.below(2) {
            0 => &["-o", "direct_io"],
            _ => &[],
        };
        let before = self.acknowledged();
        self.rig.mount_on(&point, options);
        self.watch(&point, before);
    }

    fn watch(&mut self, point: &Path, before: Vec<u64>) {
        let view = View::new(point, before, self.acknowledged());
        self.daemons.push(view.daemon);
        let seed = self.diary.seed();
        let copier = Copier::start(view.still.clone(), self.fresh("copy"), seed);
        self.views.push(Watched { view, copier });
    }

    /// Up to a quarter of a second in which all goes on.
    fn go_on(&mut self) {
        thread::sleep(Duration::from_millis(self.diary.below(250)));
    }

    fn something_happens(&mut self) {
        match self.diary.below(13) {
            0..=2 => self.engine_ends(End::Kill),
            3 | 4 => self.engine_ends(End::KillTwice),
            5 => self.engine_ends(End::KillInMount),
            6 => self.engine_ends(End::KillWithDaemon),
            7 => self.engine_ends(End::Stop),
            8 | 9 => {
                self.diary.note("daemon");
                self.daemon_dies();
                self.mount();
            }
            10 => self.engine_ends(End::KillThenMount),
            _ => self.tool_dies(),
        }
    }

    fn engine_ends(&mut self, end: End) {
        self.diary.note(format!("engine {end:?}"));
        let load = self.load.take().expect("writers are at work");
        load.expect_end();
        let mounting = matches!(end, End::KillInMount).then(|| self.start_mounting());
        match end {
            End::Stop => assert!(self.rig.take_engine().stop().success()),
            _ => self.rig.take_engine().kill(),
        }
        let before = self.acknowledged.clone();
        self.acknowledged = load.stop();
        if let Some((point, mut child)) = mounting {
            crate::process::wait(&mut child, "a mount without an engine");
            self.settle_mount(&point, before);
        }
        // Nobody writes: what was readable is.
        self.read_all();
        match end {
            End::KillTwice => self.kill_in_recovery(),
            End::KillWithDaemon => self.daemon_dies(),
            End::Kill | End::Stop | End::KillInMount | End::KillThenMount => {}
        }
        let mounting = matches!(end, End::KillThenMount).then(|| self.start_mounting());
        self.rig.start();
        if let Some((point, mut child)) = mounting {
            crate::process::wait(&mut child, "a mount while an engine starts");
            self.settle_mount(&point, self.acknowledged.clone());
        }
        self.assert_nothing_lost();
        self.load = Some(Load::start(self.rig.engine().address));
        self.read_all();
        if self.views.is_empty() {
            self.mount();
        }
    }

    /// A mount that may meet its engine at any moment of its death.
    fn start_mounting(&mut self) -> (PathBuf, std::process::Child) {
        let point = self.fresh("mnt");
        fs::create_dir(&point).unwrap();
        let mut mount = stillfs();
        mount.arg("mount").arg(&self.rig.source).arg(&point);
        mount.stdin(Stdio::null()).stderr(Stdio::null());
        let child = mount.spawn().unwrap();
        thread::sleep(Duration::from_millis(self.diary.below(60)));
        (point, child)
    }

    /// It is mounted, and then a view like any other, or it is not at all.
    fn settle_mount(&mut self, point: &Path, before: Vec<u64>) {
        if is_mounted(point) {
            self.watch(point, before);
        } else {
            let records = self.rig.records();
            let left = records.iter().find(|one| one.record.mount_point == point);
            assert!(left.is_none(), "{left:?}");
            fs::remove_dir(point).unwrap();
        }
    }

    fn kill_in_recovery(&mut self) {
        let mut serve = stillfs();
        serve.arg("serve").arg(&self.rig.source);
        serve.args(["--listen", "127.0.0.1:0"]);
        serve.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = serve.stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(self.diary.below(60)));
        child.kill().unwrap();
        child.wait().unwrap();
        self.read_all();
    }

    fn read_all(&self) {
        for watched in &self.views {
            watched.view.still.read();
        }
    }

    /// Every acknowledged write is there, and of later ones only whole ones.
    fn assert_nothing_lost(&self) {
        let books = Books::read(self.rig.engine().address);
        books.audit();
        for (writer, count) in books.transfers().into_iter().enumerate() {
            let possible = self.acknowledged[writer]..=self.acknowledged[writer] + 1;
            assert!(possible.contains(&count), "{writer}: {count} {possible:?}");
        }
    }

    fn daemon_dies(&mut self) {
        let at = self.diary.below(self.views.len() as u64);
        let Watched { view, copier } = self.views.remove(usize::try_from(at).unwrap());
        view.still.owe_at_most(Owes::Errors);
        signal(view.daemon, Signal::SIGKILL);
        eventually("a killed daemon is gone", || !is_running(view.daemon));
        assert!(!view.still.read(), "a view that nobody serves was read");
        self.copies += copier.stop();
        unmount(&view.still.point);
    }

    fn tool_dies(&mut self) {
        let at = self.diary.below(self.views.len() as u64);
        let was_there = self.views[usize::try_from(at).unwrap()].copier.kill_tool();
        self.diary.note(if was_there { "tool" } else { "no tool" });
    }

    /// Each view once more, and away with it.
    fn end_views(&mut self) {
        for Watched { view, copier } in std::mem::take(&mut self.views) {
            self.copies += copier.stop();
            let copy = self.fresh("proof");
            self.proven += u64::from(view.is_proven(&copy));
            unmount(&view.still.point);
        }
    }

    /// Nothing is left of mount, slot, pin, descriptor, process or socket, and the database is whole.
    fn end(mut self) {
        self.load = self.load.take().inspect(Load::progress);
        self.end_views();
        self.acknowledged = self.load.take().expect("writers are at work").stop();
        self.rig.assert_nothing_left(&self.daemons);
        let pid = self.rig.engine().pid();
        eventually("descriptors are as in the beginning", || {
            descriptors_of(pid) == self.descriptors
        });
        self.assert_nothing_lost();
        let was_stopped = self.diary.below(2) == 0;
        if was_stopped {
            assert!(self.rig.take_engine().stop().success());
            assert!(!self.rig.source.join("control.sock").exists());
        } else {
            self.rig.take_engine().kill();
        }
        succeed(stillfs().arg("check").arg(&self.rig.source));
        self.rig.start();
        self.assert_nothing_lost();
        assert!(self.rig.take_engine().stop().success());
        assert_eq!(self.rig.pin_files(), [] as [PathBuf; 0]);
        let base = self.rig.path("");
        eventually("no process of this round runs", || processes_at(&base) == 0);
        let written: u64 = self.acknowledged.iter().sum();
        self.diary.note(format!(
            "{written} transfers, {} copies, {} views proven",
            self.copies, self.proven
        ));
    }
}

/// A crash, a restart, an out-of-memory killer: none of it loses a commit, shows a wrong byte, or
/// leaves anything behind (E1, E7, S1, S3, N1, N3, P1, M5, M7).
#[test]
fn kill_rounds_lose_nothing_show_nothing_wrong_and_leave_nothing() {
    if !(has_tool("tar") && has_tool("rsync")) {
        return;
    }
    rounds("kill_rounds", ROUNDS, |diary| {
        let Some(mut round) = Round::new(diary) else {
            return;
        };
        round.mount();
        if round.diary.below(2) == 0 {
            round.mount();
        }
        for _ in 0..3 + round.diary.below(5) {
            round.go_on();
            round.something_happens();
        }
        round.go_on();
        round.end();
    });
}
