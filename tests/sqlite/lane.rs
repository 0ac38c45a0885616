//! One database with its writers, and the views that are taken of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::counts::Counts;
use crate::draw::Draw;
use crate::oracle::{Bracket, Oracle, Truth};
use crate::process::eventually;
use crate::sight;
use crate::taken::{Taken, Via};
use crate::writers::{Behaviour, Writers};

/// What a database is like, and how many views of it are taken.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub page_size: u64,
    pub auto_vacuum: &'static str,
    /// `wal`, or one of the rollback modes.
    pub journal_mode: &'static str,
    pub synchronous: &'static str,
    pub autocheckpoint: u64,
    pub via: Via,
    pub keeping: Keeping,
    pub views: u64,
}

/// What keeps a view to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// The mark.
    Mark,
    /// A private copy, made while it is read; then the mark is let go.
    Spill,
}

impl Plan {
    fn is_wal(&self) -> bool {
        self.journal_mode == "wal"
    }
}

/// The bytes of rows at which the application takes some away.
const BYTES_MAX: u64 = 300_000;

/// A log of more frames takes more than two blocks of its index.
const LONG_LOG: u32 = 4062 + 4096;

/// A lane that runs.
#[derive(Debug)]
pub struct Lane {
    plan: Plan,
    seed: u64,
    draw: Draw,
    oracle: Oracle,
    writers: Writers,
    counts: Counts,
    /// What the view of each time had: two states never share one.
    times: BTreeMap<u64, String>,
    database: PathBuf,
    base: tempfile::TempDir,
}

/// What was seen at a pin.
#[derive(Debug)]
struct AtPin {
    index: Option<sight::Index>,
    slot: Option<usize>,
    shape: (u64, i64, i64),
}

fn behaviours(plan: &Plan) -> Vec<Behaviour> {
    let of = |kinds, is_reopening, can_be_killed| Behaviour {
        kinds,
        is_reopening,
        can_be_killed,
    };
    let mixed = match plan.is_wal() {
        true => json!({"transaction": 40, "spill": 8, "checkpoint": 6, "vacuum": 1}),
        false => json!({"transaction": 40, "spill": 20, "vacuum": 1}),
    };
    vec![
        of(mixed, false, true),
        of(json!({"transaction": 1}), true, true),
        of(json!({"command": 1}), false, false),
    ]
}

impl Lane {
    /// Makes the database and starts its writers.
    pub fn start(plan: Plan, seed: u64) -> Self {
        let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
        let base = base.unwrap();
        let dir = base.path().canonicalize().unwrap().join("live");
        fs::create_dir(&dir).unwrap();
        let database = dir.join("app.db");
        let mut oracle = Oracle::start();
        oracle.ask(json!({
            "do": "create", "path": database, "page_size": plan.page_size,
            "auto_vacuum": plan.auto_vacuum, "journal_mode": plan.journal_mode, "rows": 150,
        }));
        let mut settings = json!({
            "synchronous": plan.synchronous,
            "wal_autocheckpoint": plan.autocheckpoint,
        });
        if !plan.is_wal() {
            // Other than WAL the mode belongs to the connection.
            settings["journal_mode"] = json!(plan.journal_mode);
        }
        oracle.ask(json!({
            "do": "use", "path": database, "seed": seed % 1_000_000, "settings": settings,
            "bytes_max": BYTES_MAX,
        }));
        let common = json!({
            "path": database, "settings": settings, "bytes_max": BYTES_MAX,
            "pause_ms": if plan.is_wal() { 3 } else { 1 },
        });
        let mut writers = Writers::new(common, behaviours(&plan), seed);
        writers.start();
        Self {
            plan,
            seed,
            draw: Draw::new(seed),
            oracle,
            writers,
            counts: Counts::default(),
            times: BTreeMap::new(),
            database,
            base,
        }
    }

    /// Takes all views, and looks after the database at the end.
    pub fn run(mut self) -> Counts {
        for number in 0..self.plan.views {
            // Each kind has its turn, so that a short run has all of them too.
            match number % 15 {
                7 => self.view_of_the_dead(number),
                4 if self.plan.is_wal() => self.view_in_a_crowd(number),
                1 | 10 if self.plan.is_wal() => self.view_after_a_checkpoint(number),
                12 if self.plan.is_wal() && number % 45 == 12 => self.view_of_a_long_log(number),
                _ => {
                    let bracket = self.bracket();
                    self.wait_for_writers();
                    self.oracle.begin(bracket);
                    self.view(number, bracket);
                }
            }
            if self.draw.one_in(25) {
                let index = self.draw.index(3);
                self.writers.kill_one(index);
            }
        }
        self.finish()
    }

    /// Lets a writer that found the database locked, and sleeps, come to its turn.
    fn wait_for_writers(&self) {
        let log = sight::beside(&self.database, "-wal");
        let look = || [&self.database, &log].map(|path| sight::shape(path));
        let before = look();
        for _ in 0..300 {
            std::thread::sleep(Duration::from_millis(1));
            if look() != before {
                return;
            }
        }
    }

    fn bracket(&self) -> Bracket {
        use Bracket::{Before, Hold, Lock};
        let brackets: &[Bracket] = match (self.plan.is_wal(), self.plan.via) {
            (true, Via::Library) => &[Lock, Lock, Hold, Before, Before],
            // It takes long enough for a writer to come in between.
            (true, Via::Mount) => &[Lock, Lock, Lock, Hold, Before],
            // A reader that stays and a writer that waits for it would keep the second reader out.
            (false, _) => &[Lock, Lock, Lock, Before, Before],
        };
        self.draw.pick(brackets)
    }

    /// Everybody is dead or gone, some in the middle of a transaction.
    fn view_of_the_dead(&mut self, number: u64) {
        // The last to close would tidy up.
        self.oracle.tell("close");
        match number / 15 % 3 {
            1 => self.writers.stop(),
            _ => self.writers.kill(),
        }
        let database = &self.database;
        eventually("the dead let their locks go", || {
            sight::all_locks(database).is_empty()
        });
        let ending = if self.plan.is_wal() {
            "-wal"
        } else {
            "-journal"
        };
        let log = fs::read(sight::beside(database, ending)).unwrap_or_default();
        // A journal that was closed may stay, with a header of zeros.
        let is_hot = log.iter().take(8).any(|byte| *byte != 0);
        self.counts.add_if(is_hot, "hot");
        self.counts.add_if(!is_hot, "closed");
        self.view(number, Bracket::Alone);
    }

    /// All places of the log's index are taken by readers of older states.
    fn view_in_a_crowd(&mut self, number: u64) {
        self.oracle.tell("crowd");
        self.oracle.begin(Bracket::Lock);
        self.view(number, Bracket::Lock);
        self.oracle.tell("disperse");
    }

    /// All of the log is in the database file, so that the next who writes begins it anew.
    fn view_after_a_checkpoint(&mut self, number: u64) {
        self.oracle.begin(Bracket::Lock);
        self.oracle.tell("settle");
        self.view(number, Bracket::Lock);
    }

    /// The index of the log has several blocks.
    fn view_of_a_long_log(&mut self, number: u64) {
        let frames = LONG_LOG + 100;
        self.oracle
            .ask(json!({ "do": "lengthen", "frames": frames }));
        self.oracle.begin(Bracket::Lock);
        self.view(number, Bracket::Lock);
        self.oracle.tell("disperse");
    }

    /// One view with everything that is asked of it; the oracle has begun.
    fn view(&mut self, number: u64, bracket: Bracket) {
        let spill_at = self.spill_at();
        let taken = Taken::take(self.plan.via, &self.database, self.base.path(), spill_at);
        let mut taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // A writer may be in the way for longer than a pin waits, but not of one in WAL mode.
                assert!(!self.plan.is_wal(), "{}", self.about(number, &error));
                assert!(
                    error.contains("lock"),
                    "another refusal: {}",
                    self.about(number, &error)
                );
                self.oracle.after(bracket);
                self.writers.start();
                self.counts.add("refused");
                return;
            }
        };
        let at_pin = self.see(bracket);
        let truth = self.oracle.after(bracket);
        if !self.plan.is_wal() {
            let locks = sight::all_locks(&self.database);
            let is_ours = |lock: &&sight::Lock| lock.is_of_open_file;
            assert_eq!(locks.iter().find(is_ours), None, "no lock stays");
        }
        self.writers.start();
        self.counts.add("views");
        let Some(first) = self.read(&taken, number) else {
            return;
        };
        self.compare(number, &first, &truth);
        self.tell_times_apart(number, taken.changed_ns(), &first);
        let spills = self.plan.keeping == Keeping::Spill && at_pin.slot != Some(0);
        if spills && !self.spill(number, &mut taken, &first) {
            return;
        }
        let busy = self.disturb();
        let Some(second) = self.read(&taken, number) else {
            return;
        };
        if first != second {
            self.fail_by_pages(number, "the second reading differs", &first, &second);
        }
        self.count_what_happened(&at_pin, busy);
        taken.give_up();
        self.check_copy(number, &second, &truth);
    }

    /// A limit to which the log of this moment is near: it is copied at once, and need not end.
    fn spill_at(&self) -> Option<u64> {
        let index = sight::index(&self.database)?;
        let held = u64::from(index.frame_max) * (self.plan.page_size + 24);
        (self.plan.keeping == Keeping::Spill && held > 0).then_some(held * 6 / 5)
    }

    /// Waits until a copy keeps the view, and reads it all the while; `false` if the log was faster.
    fn spill(&mut self, number: u64, taken: &mut Taken, first: &[u8]) -> bool {
        for _ in 0..400 {
            let state = taken.state();
            let Some(bytes) = self.read(taken, number) else {
                return false;
            };
            if bytes != first {
                self.fail_by_pages(number, "a view that is copied differs", first, &bytes);
            }
            if state == "kept" {
                self.counts.add("spilled");
                assert_eq!(sight::read_slot(&self.database), None, "the mark is let go");
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.counts.add("not spilled");
        true
    }

    fn about(&self, number: u64, text: &str) -> String {
        let Plan { name, .. } = self.plan;
        format!("lane {name}, seed {}, view {number}: {text}", self.seed)
    }

    fn see(&mut self, bracket: Bracket) -> AtPin {
        let index = sight::index(&self.database);
        let slot = match self.plan.is_wal() {
            true => sight::read_slot(&self.database),
            false => None,
        };
        let is_low = bracket == Bracket::Lock
            && matches!((index, slot), (Some(index), Some(slot)) if slot > 0
                && index.marks[slot] < index.frame_max);
        self.counts.add_if(is_low, "low mark");
        match slot {
            Some(0) => self.counts.add("READ(0)"),
            Some(_) => self.counts.add("READ(1..4)"),
            None => self.counts.add("no mark"),
        }
        let is_long = index.is_some_and(|index| index.frame_max > LONG_LOG);
        self.counts.add_if(is_long, "long log");
        let is_empty = index.is_some_and(|index| index.frame_max == 0);
        self.counts
            .add_if(self.plan.is_wal() && is_empty, "log empty");
        let shape = sight::shape(&self.database);
        AtPin { index, slot, shape }
    }

    /// The whole view; `None` if it has ended at the limit of its log, which is no failure.
    fn read(&mut self, taken: &Taken, number: u64) -> Option<Vec<u8>> {
        match taken.read() {
            Ok(bytes) => Some(bytes),
            Err(error)
                if self.plan.keeping == Keeping::Spill && error.contains("reached its limit") =>
            {
                self.counts.add("ended at its limit");
                None
            }
            Err(error) => panic!("{}", self.about(number, &format!("a read failed: {error}"))),
        }
    }

    fn compare(&mut self, number: u64, bytes: &[u8], truth: &Truth) {
        if !truth.is_same {
            self.counts.add("undecided");
            return;
        }
        self.counts.add("byte-equal");
        if digest(bytes) != truth.digest {
            let scratch = self.base.path().join("truth");
            let expected = self.oracle.truth_bytes(&scratch);
            self.fail_by_pages(number, "the view differs from SQLite", &expected, bytes);
        }
    }

    /// Two states that are told apart by nothing but their bytes would be one to rsync.
    fn tell_times_apart(&mut self, number: u64, changed_ns: u64, bytes: &[u8]) {
        let digest = digest(bytes);
        let before = self.times.insert(changed_ns, digest.clone());
        if before.is_some_and(|before| before != digest) {
            let text = format!("a state that differs had the time {changed_ns} as well");
            panic!("{}", self.about(number, &text));
        }
    }

    fn fail_by_pages(&self, number: u64, text: &str, expected: &[u8], found: &[u8]) -> ! {
        let size = usize::try_from(self.plan.page_size).unwrap();
        let pages = expected.chunks(size).zip(found.chunks(size)).enumerate();
        let different = pages.filter(|(_, (one, other))| one != other);
        let pages: Vec<usize> = different.map(|(index, _)| index + 1).take(20).collect();
        let text = format!(
            "{text}: {} and {} bytes, pages {pages:?}",
            expected.len(),
            found.len()
        );
        panic!("{}", self.about(number, &text));
    }

    /// Lets things happen while the view is there; whether a checkpoint was busy.
    fn disturb(&mut self) -> bool {
        let kinds: &[&str] = match self.plan.is_wal() {
            true => &[
                "commits", "PASSIVE", "FULL", "RESTART", "TRUNCATE", "shrink", "none",
            ],
            false => &["commits", "none", "shrink"],
        };
        match self.draw.pick(kinds) {
            "none" => false,
            kind => {
                let asked = json!({ "do": "disturb", "kind": kind });
                let answer = self.oracle.try_ask(asked);
                // With a rollback journal applications are in each other's way.
                let is_refused = answer.is_err() && !self.plan.is_wal();
                self.counts.add_if(is_refused, "others in the way");
                match answer {
                    Ok(answer) => answer["busy"].as_bool().unwrap(),
                    Err(_) if is_refused => false,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn count_what_happened(&mut self, at_pin: &AtPin, is_busy: bool) {
        let is_changed = sight::shape(&self.database) != at_pin.shape;
        self.counts.add_if(is_changed, "database file changed");
        self.counts
            .add_if(is_busy && at_pin.slot != Some(0), "reset refused");
        let (Some(before), Some(now)) = (at_pin.index, sight::index(&self.database)) else {
            return;
        };
        let is_reset = before.salts != now.salts;
        let is_backfilled = now.backfilled > before.backfilled && !is_reset;
        self.counts.add_if(is_backfilled, "checkpointed");
        self.counts.add_if(is_reset, "log reset");
    }

    fn check_copy(&mut self, number: u64, bytes: &[u8], truth: &Truth) {
        let copy = self.base.path().join("copy.db");
        fs::write(&copy, bytes).unwrap();
        let said = match self.plan.via {
            Via::Library => self.oracle.check(&copy),
            Via::Mount => {
                let said = crate::check_by_command(&copy);
                remove_with_log(&copy);
                said
            }
        };
        let Some(count) = said.strip_prefix("ok ") else {
            panic!(
                "{}",
                self.about(number, &format!("the copy is damaged: {said}"))
            );
        };
        // Not older than what was there before the pin, nor newer than what was there after it.
        if !truth.counted.contains(&count.parse().unwrap()) {
            let text = format!("its time differs: {count} is not in {:?}", truth.counted);
            panic!("{}", self.about(number, &text));
        }
    }

    /// The live database is whole, and nothing of ours is left.
    fn finish(mut self) -> Counts {
        self.writers.stop();
        let live = self.oracle.ask(json!({ "do": "live" }));
        let said = live["said"].as_str().unwrap().to_owned();
        assert!(said.starts_with("ok "), "the live database: {said}");
        self.oracle.tell("close");
        let name = self.plan.name;
        let kills = self.writers.kills;
        println!("{name}: {}, kills {kills}, live: {said}", self.counts);
        println!("{name}: writers: {:?}", self.writers.counts);
        assert_nothing_left(&self.database);
        self.counts
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove_with_log(copy: &Path) {
    fs::remove_file(copy).unwrap();
    for ending in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(sight::beside(copy, ending));
    }
}

/// Fails unless the last connection that closed could take the log away, and no lock, process, mount or
/// file of ours is left.
pub fn assert_nothing_left(database: &Path) {
    eventually("no lock is left", || sight::all_locks(database).is_empty());
    let dir = database.parent().unwrap();
    let names = fs::read_dir(dir).unwrap();
    let names: Vec<String> = names
        .map(|name| name.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("-journal"))
        .collect();
    let is_database = |name: &String| name.ends_with(".db");
    assert!(names.iter().all(is_database), "left behind: {names:?}");
    eventually("no process of ours has it", || {
        sight::processes_of(dir).is_empty()
    });
    let mounts = stillfs::os::mount_table::entries().unwrap();
    let base = dir.parent().unwrap();
    let ours = mounts
        .iter()
        .filter(|entry| entry.mount_point.starts_with(base));
    assert_eq!(ours.count(), 0, "a mount is left");
}
