//! Tools that remember files, on two mounts of one application directory: nothing that stayed the same
//! is read again, plain files and databases alike.
//!
//! Reads are not told by the tools alone: the kernel reports every file in the source of which anything
//! is read, and counts what the daemon reads, and the daemon counts what it gives of databases. Plain
//! files are small here, so all that is read of them is read by the daemon.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::access::Access;
use crate::borg::Borg;
use crate::process::has_tool;
use crate::restic::Restic;
use crate::rig::{Rig, daemon_of, mount_status, umount};
use crate::sqlite::Session;

const FOLDERS: usize = 20;
const FILES_PER_FOLDER: usize = 50;
/// Size of each database, at least; a page of each that is written again is far less.
const DATABASE_BYTES: u64 = 1 << 20;
/// In the order of their sessions.
const DATABASES: [&str; 3] = ["live.db", "folder-3/deep.db", "folder-7/rollback.db"];
const CHANGED_FILE: &str = "folder-11/file-7";
const CHANGED_DATABASE: &str = DATABASES[0];
/// The newest of all files: borg always reads such a file again.
const NEWEST: &str = "newest";

/// An application directory whose databases are open all the time.
struct Scene {
    sessions: Vec<Session>,
    access: Access,
    point: PathBuf,
    rig: Rig,
}

impl Scene {
    /// `None` where nothing can be mounted.
    fn new() -> Option<Self> {
        let rig = Rig::without_engine()?;
        let folders: Vec<PathBuf> = (0..FOLDERS)
            .map(|number| rig.source.join(format!("folder-{number}")))
            .collect();
        for folder in &folders {
            fs::create_dir(folder).unwrap();
            for number in 0..FILES_PER_FOLDER {
                let file = folder.join(format!("file-{number}"));
                fs::write(&file, format!("{}\n", file.display()).repeat(200)).unwrap();
            }
        }
        let journal_modes = ["WAL", "WAL", "DELETE"];
        let open = |(name, journal_mode): (&str, &str)| {
            let mut session = Session::open(&rig.source.join(name));
            session.run(&format!("PRAGMA journal_mode = {journal_mode}"));
            session.run("CREATE TABLE entry (id INTEGER PRIMARY KEY, body BLOB)");
            session.run(&format!(
                "INSERT INTO entry WITH RECURSIVE number (at) AS \
                 (VALUES (1) UNION ALL SELECT at + 1 FROM number WHERE at < {}) \
                 SELECT at, randomblob(1000) FROM number",
                DATABASE_BYTES / 1000
            ));
            session
        };
        let sessions = DATABASES.into_iter().zip(journal_modes).map(open).collect();
        let point = rig.dir("still");
        let mut watched = folders;
        watched.push(rig.source.clone());
        let mut scene = Self {
            sessions,
            access: Access::watch(&watched),
            point,
            rig,
        };
        scene.touch_newest();
        Some(scene)
    }

    /// The kernel's clock of files has ticks of some milliseconds.
    fn touch_newest(&mut self) {
        thread::sleep(Duration::from_millis(20));
        fs::write(self.rig.source.join(NEWEST), "newest").unwrap();
        thread::sleep(Duration::from_millis(20));
    }

    /// Changes one file and one database of many.
    fn change(&mut self) {
        fs::write(self.rig.source.join(CHANGED_FILE), "changed").unwrap();
        self.sessions[0].run("UPDATE entry SET body = randomblob(1000) WHERE id = 7");
        self.touch_newest();
    }

    /// Bytes of all plain files.
    fn plain_bytes(&self) -> u64 {
        let folders = fs::read_dir(&self.rig.source).unwrap();
        let folders = folders.map(|entry| entry.unwrap().path());
        let files = folders.filter(|path| path.is_dir()).flat_map(|folder| {
            let entries = fs::read_dir(folder).unwrap();
            entries.map(|entry| entry.unwrap().path())
        });
        let is_plain = |path: &PathBuf| !path.to_string_lossy().contains(".db");
        let plain = files.filter(is_plain);
        plain.map(|path| fs::metadata(path).unwrap().len()).sum()
    }

    /// Mounts, runs a backup, unmounts; gives what it said, and what it read.
    fn back_up<T>(&mut self, run: impl FnOnce(&Path) -> T) -> (T, Reads) {
        self.rig.mount_on(&self.point, &["-o", "direct_io"]);
        // What a mount looks at to tell databases from plain files.
        self.access.read_since(&self.rig.source);
        let daemon = daemon_of(&self.point);
        let before = bytes_read_by(daemon);
        let said = run(&self.point);
        let reads = Reads {
            plain_files: plain(self.access.read_since(&self.rig.source)),
            database_bytes: mount_status(&self.point)["bytes_served"].as_u64().unwrap(),
            daemon_bytes: bytes_read_by(daemon) - before,
        };
        umount(&self.point);
        (said, reads)
    }
}

/// What a backup made somebody read.
#[derive(Debug)]
struct Reads {
    /// Of which at least one byte was read.
    plain_files: BTreeSet<PathBuf>,
    /// Given to the tool.
    database_bytes: u64,
    /// By the daemon, of whatever: requests of the kernel too.
    daemon_bytes: u64,
}

/// What a process has read so far, counted by the kernel.
fn bytes_read_by(process: u32) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let count = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    count.unwrap().parse().unwrap()
}

/// Without databases and what SQLite keeps beside them, which their own sessions read.
fn plain(files: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let is_plain = |file: &PathBuf| !file.to_string_lossy().contains(".db");
    files.into_iter().filter(is_plain).collect()
}

fn set(names: &[&str]) -> BTreeSet<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

/// Number of plain files.
const PLAIN: usize = FOLDERS * FILES_PER_FOLDER + 1;

/// The second backup of a directory reads what changed, and only that (A2, M1).
#[test]
fn restic_reads_no_unchanged_file_of_a_directory_twice() {
    let needed = ["restic", "sqlite3"];
    if !needed.into_iter().all(has_tool) {
        return;
    }
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let restic = Restic::init(&scene.rig);
    let (summary, reads) = scene.back_up(|point| restic.backup(point));
    assert_eq!(summary["files_new"], PLAIN + DATABASES.len(), "{summary}");
    assert_all_read(&scene, &reads);

    let (summary, reads) = scene.back_up(|point| restic.backup(point));
    assert_eq!(
        summary["files_unmodified"],
        PLAIN + DATABASES.len(),
        "{summary}"
    );
    assert_eq!(reads.plain_files, set(&[]), "{summary}");
    assert_eq!(reads.database_bytes, 0, "{summary}");

    scene.change();
    let (summary, reads) = scene.back_up(|point| restic.backup(point));
    assert_eq!(summary["files_changed"], 3, "{summary}");
    assert_eq!(reads.plain_files, set(&[CHANGED_FILE, NEWEST]), "{summary}");
    assert_one_database_read(&scene, &reads);
}

/// The same with borg, which opens every file, and of which the newest file is always new: it cannot
/// know whether that was changed within the same moment (A2, M1). At an open the daemon looks whether
/// the file is a database meanwhile, which reads a few bytes of it.
#[test]
fn borg_reads_no_unchanged_file_of_a_directory_twice() {
    let needed = ["borg", "sqlite3"];
    if !needed.into_iter().all(has_tool) {
        return;
    }
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let borg = Borg::init(&scene.rig);
    let (_, first) = scene.back_up(|point| borg.create("first", point));
    assert_all_read(&scene, &first);

    let (list, reads) = scene.back_up(|point| borg.create("second", point));
    assert_eq!(done_with_files(&list), ["A newest"]);
    assert_eq!(reads.database_bytes, 0);
    assert!(reads.daemon_bytes < scene.plain_bytes() / 8, "{reads:?}");

    scene.change();
    let (list, reads) = scene.back_up(|point| borg.create("third", point));
    assert_eq!(
        done_with_files(&list),
        ["A newest", "M file-7", "M live.db"]
    );
    assert!(reads.daemon_bytes < scene.plain_bytes() / 4, "{reads:?}");
    assert_one_database_read(&scene, &reads);
}

/// The counts must not be 0 because nobody counts.
#[track_caller]
fn assert_all_read(scene: &Scene, reads: &Reads) {
    assert_eq!(reads.plain_files.len(), PLAIN);
    let databases = DATABASE_BYTES * DATABASES.len() as u64;
    assert!(reads.daemon_bytes >= databases, "{}", reads.daemon_bytes);
    // Plain files the kernel may read by itself, so that they are not all among the daemon's.
    assert!(scene.plain_bytes() > 2 * databases);
    assert!(
        reads.database_bytes >= databases,
        "{}",
        reads.database_bytes
    );
}

/// Only the database that was changed, and that once.
#[track_caller]
fn assert_one_database_read(scene: &Scene, reads: &Reads) {
    let (size, read) = (database_size(scene), reads.database_bytes);
    assert!((size..2 * size).contains(&read), "{size} {read}");
}

/// Lines of borg's list of files that it did not find unchanged, with the last part of their paths.
fn done_with_files(list: &str) -> Vec<String> {
    let lines = list.lines().filter(|line| !line.starts_with(['U', 'd']));
    let mut lines: Vec<String> = lines
        .map(|line| {
            let name = line.rsplit('/').next().unwrap();
            format!("{} {name}", line.split(' ').next().unwrap())
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// Bytes of the database that changed, as a mount shows it.
fn database_size(scene: &Scene) -> u64 {
    scene.rig.mount_on(&scene.point, &[]);
    let file = File::open(scene.point.join(CHANGED_DATABASE)).unwrap();
    let size = file.metadata().unwrap().len();
    drop(file);
    umount(&scene.point);
    size
}
