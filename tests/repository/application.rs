//! The application whose database is backed up, on a simulated machine, and what the database must hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use stillfs::Database;
use stillfs::database::{Create, EngineOptions, PinOptions};
use stillfs::os::sim::SimDisk;
use stillfs::os::{Disk, Host, OpenMode, SimulatedHost, read_exact_at, write_all_at};
use stillfs::repository::backup::Subject;

use crate::content::{Change, Content, engine_options};
use crate::draw::Draw;
use crate::plan::Config;
use crate::watched::{Watch, WatchedDisk};

/// Where the database is on its machine.
const DIR: &str = "/db";

/// An application with its database open.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) config: Config,
    pub(crate) machine: SimulatedHost,
    /// Looks at every call to the database's disk.
    pub(crate) watch: Watch,
    pub(crate) database: Database,
    /// The newest commit.
    pub(crate) newest: Arc<Mutex<Content>>,
}

/// The machine as the code under test sees it.
pub(crate) fn watched(machine: &SimulatedHost, watch: &Watch) -> Host {
    Host {
        disk: Arc::new(WatchedDisk {
            disk: machine.disk.clone(),
            watch: watch.clone(),
        }),
        ..machine.host.clone()
    }
}

/// One transaction of `changes` changes, committed.
pub(crate) fn transact(
    database: &Database,
    newest: &Mutex<Content>,
    config: &Config,
    draw: &Draw,
    changes: u64,
) {
    let mut write = database.begin_write().expect("a transaction");
    let mut content = newest.lock().clone();
    for _ in 0..changes {
        let change = Change::draw(draw, config);
        change.make(&mut write, config).expect("a change");
        change.apply(&mut content);
    }
    write.commit().expect("a commit");
    *newest.lock() = content;
}

impl Application {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let machine = Host::simulated(seed);
        let watch = Watch::default();
        let database = open(&watched(&machine, &watch), &config, Create::IfMissing);
        Self {
            config,
            machine,
            watch,
            database,
            newest: Arc::default(),
        }
    }

    /// Another machine on the network: another disk, the same time.
    pub(crate) fn another_machine(&self, seed: u64) -> SimulatedHost {
        self.machine.with_disk(SimDisk::new(seed))
    }

    pub(crate) fn write(&self, draw: &Draw, changes: u64) {
        transact(&self.database, &self.newest, &self.config, draw, changes);
    }

    pub(crate) fn checkpoint(&self) {
        self.database.checkpoint().expect("a checkpoint");
    }

    /// The newest commit, as the model has it.
    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::new(self.newest.lock().clone())
    }

    /// The line of commits that it is on.
    pub(crate) fn history(&self) -> String {
        self.database.engine().identity().history.to_string()
    }

    /// The newest commit, pinned.
    pub(crate) fn subject(&self) -> Subject {
        Subject::of_database(&self.database, &PinOptions::default()).expect("a pin")
    }

    /// Stops in one of three ways, and starts again.
    pub(crate) fn restart(&mut self, draw: &Draw) {
        self.machine = match draw.below(3) {
            0 => {
                self.database.close().expect("a clean stop");
                self.machine.process_crash()
            }
            1 => self.machine.process_crash(),
            _ => self.machine.crash(draw.next()),
        };
        self.open_again();
    }

    fn open_again(&mut self) {
        let host = watched(&self.machine, &self.watch);
        self.database = open(&host, &self.config, Create::Never);
        self.compare("after a restart");
    }

    /// The database holds what the model says.
    pub(crate) fn compare(&self, when: &str) {
        let read = self.database.begin_read().expect("a read needs no disk");
        let differs = self.newest.lock().compare(&read, &self.config);
        assert_eq!(differs.expect("a read"), None, "{when}");
    }

    /// Goes on with the database in `dir` of the real machine, which has `content`, in place of its own.
    pub(crate) fn replace(&mut self, dir: &Path, content: &Content) {
        self.database.close().expect("a clean stop");
        self.machine = self.machine.process_crash();
        let disk = &self.machine.disk;
        remove_tree(disk, Path::new(DIR));
        copy_tree(&*Host::system().disk, dir, disk, Path::new(DIR));
        *self.newest.lock() = content.clone();
        self.open_again();
    }
}

fn open(host: &Host, config: &Config, create: Create) -> Database {
    let options = EngineOptions {
        create,
        ..engine_options(config)
    };
    Database::open_on(host, DIR, &options).expect("a database that opens")
}

fn is_dir(disk: &dyn Disk, path: &Path) -> bool {
    disk.open(path, OpenMode::Directory).is_ok()
}

fn remove_tree(disk: &dyn Disk, dir: &Path) {
    for name in disk.list(dir).expect("a list") {
        let path = dir.join(name);
        match is_dir(disk, &path) {
            true => remove_tree(disk, &path),
            false => disk.remove(&path).expect("a file goes"),
        }
    }
    disk.remove_dir(dir).expect("an empty folder goes");
}

fn copy_tree(from: &dyn Disk, dir: &Path, to: &dyn Disk, target: &Path) {
    to.create_dir(target).expect("a new folder");
    for name in from.list(dir).expect("a list") {
        let (path, copy): (PathBuf, PathBuf) = (dir.join(&name), target.join(&name));
        if is_dir(from, &path) {
            copy_tree(from, &path, to, &copy);
            continue;
        }
        let file = from.open(&path, OpenMode::Read).expect("a file");
        let mut bytes = vec![0; usize::try_from(file.len().expect("a size")).expect("small")];
        read_exact_at(&*file, &mut bytes, 0).expect("its bytes");
        let file = to.open(&copy, OpenMode::CreateNew).expect("a new file");
        write_all_at(&*file, &bytes, 0).expect("a write");
        file.sync_data().expect("a sync");
    }
    to.sync_dir(target).expect("a sync");
    to.sync_dir(target.parent().expect("a folder above"))
        .expect("a sync");
}
