//! An engine, the mounts of its database, and a folder for what is copied from them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use stillfs::mount::Registry;
use stillfs::mount::mountinfo::is_ours;
use stillfs::mount::registry::Listed;
use stillfs::os::mount_table;

use crate::process::{PATIENCE, end_of, eventually, is_running, signal, stillfs, succeed, wait};
use crate::resp::Client;

/// A `stillfs serve`. Dropping it kills it.
#[derive(Debug)]
pub struct Engine {
    pub address: SocketAddr,
    child: Child,
}

impl Engine {
    /// Starts it and waits until it says that it is ready.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[], Stdio::inherit())
    }

    /// The same with options, and its log elsewhere.
    pub fn start_with(dir: &Path, options: &[&str], log: Stdio) -> Self {
        let mut command = stillfs();
        command.arg("serve").arg(dir).args(options).stderr(log);
        command.args(["--listen", "127.0.0.1:0"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // Owned from here on, so that a failure kills it.
        let mut engine = Self {
            address: ([127, 0, 0, 1], 0).into(),
            child,
        };
        let line = received.recv_timeout(PATIENCE).expect("a ready line");
        let rest = line.strip_prefix("ready ").expect("the word ready");
        let rest = rest.split_once(" unix:").map_or(rest, |(rest, _)| rest);
        let (said, address) = rest.rsplit_once(' ').unwrap();
        assert_eq!(Path::new(said), dir);
        engine.address = address.parse().unwrap();
        engine
    }

    /// Number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// A number of `INFO stats`.
    pub fn stat(&self, name: &str) -> u64 {
        let info = self.client().command(&["INFO", "stats"]).unwrap().bytes();
        let info = String::from_utf8(info).unwrap();
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found
            .unwrap_or_else(|| panic!("no {name}: {info}"))
            .parse()
            .unwrap()
    }

    /// Waits until the pins and all that was kept for them are gone.
    pub fn wait_unpinned(&self) {
        eventually("no pin and no slot is left", || {
            self.stat("stillfs_pins") == 0 && self.stat("stillfs_shadow_slots") == 0
        });
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it cleanly.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.pid(), Signal::SIGTERM);
        wait(&mut self.child, "a stopped engine")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// See the head of the file. Dropping it ends all that was started, also in a panic.
#[derive(Debug)]
pub struct Rig {
    pub source: PathBuf,
    engine: Option<Engine>,
    base: tempfile::TempDir,
}

/// Why a test cannot run here, printed.
fn can_mount() -> bool {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        println!("SKIPPED: /dev/fuse cannot be opened: {error}");
    }
    device.is_ok()
}

impl Rig {
    /// A running engine with accounts; `None` where nothing can be mounted.
    pub fn new() -> Option<Self> {
        Self::with_fill(2000)
    }

    /// The same with so many KiB of values.
    pub fn with_fill(keys: u64) -> Option<Self> {
        let mut rig = Self::without_engine()?;
        rig.start();
        crate::books::open_accounts(rig.engine().address, keys);
        Some(rig)
    }

    /// Only the folders.
    pub fn without_engine() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let base = tempfile::Builder::new().prefix("stillfs-live-").tempdir();
        let base = base.unwrap();
        // The source's own name is part of where `run` mounts, and tells ours from others'.
        let real = base.path().canonicalize().unwrap();
        let source = real.join(real.file_name().unwrap());
        fs::create_dir(&source).unwrap();
        Some(Self {
            source,
            engine: None,
            base,
        })
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("an engine runs")
    }

    pub fn start(&mut self) {
        self.engine = Some(Engine::start(&self.source));
    }

    pub fn start_with(&mut self, options: &[&str], log: Stdio) {
        self.engine = Some(Engine::start_with(&self.source, options, log));
    }

    pub fn take_engine(&mut self) -> Engine {
        self.engine.take().expect("an engine runs")
    }

    /// A path beside the source.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().canonicalize().unwrap().join(name)
    }

    /// A new, empty directory beside the source.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Mounts on a new directory.
    pub fn mount(&self, name: &str, options: &[&str]) -> PathBuf {
        let point = self.dir(name);
        self.mount_on(&point, options);
        point
    }

    pub fn mount_on(&self, point: &Path, options: &[&str]) {
        let mut mount = stillfs();
        mount.arg("mount").args(options);
        succeed(mount.arg(&self.source).arg(point));
    }

    /// The pins of the engine, as `stillfs status` lists them.
    pub fn pins(&self) -> Vec<Value> {
        let status = status(&self.source);
        status["engines"][0]["pins"].as_array().unwrap().clone()
    }

    /// Index files of pins.
    pub fn pin_files(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.source.join("shadow")).unwrap();
        let paths = names.map(|name| name.unwrap().path());
        let is_pin = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "pin");
        paths.filter(is_pin).collect()
    }

    /// Whether a database belongs to this rig.
    fn is_of_this_rig(&self, source: &Path) -> bool {
        source.starts_with(self.path("")) || source == self.source
    }

    /// The records of mounts of this rig's databases.
    pub fn records(&self) -> Vec<Listed> {
        let listed = Registry::of_this_user().unwrap().list().unwrap();
        let is_ours = |listed: &Listed| self.is_of_this_rig(&listed.record.source);
        listed.into_iter().filter(is_ours).collect()
    }

    /// Mount points of this rig's databases, wherever they are, the newest first.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let base = self.path("");
        let mounts = mount_table::entries().unwrap().into_iter().rev();
        let is_of_this_rig = |entry: &mount_table::MountEntry| {
            entry.mount_point.starts_with(&base) || self.is_of_this_rig(Path::new(&entry.source))
        };
        mounts
            .filter(is_of_this_rig)
            .map(|entry| entry.mount_point)
            .collect()
    }

    /// Fails unless nothing is left of any mount.
    pub fn assert_nothing_left(&self, daemons: &[u32]) {
        eventually("the daemons have ended", || {
            !daemons.iter().any(|pid| is_running(*pid))
        });
        assert_eq!(self.mount_points(), [] as [PathBuf; 0]);
        assert_eq!(self.records(), []);
        self.engine().wait_unpinned();
        assert_eq!(self.pin_files(), [] as [PathBuf; 0]);
    }

    fn clean_up(&mut self) {
        let daemons: Vec<u32> = self.records().iter().map(|one| one.record.pid).collect();
        for point in self.mount_points() {
            let mut umount = stillfs();
            let _ = umount.arg("umount").arg("--lazy").arg(&point).output();
            while umount2(&point, MntFlags::MNT_DETACH).is_ok() {}
        }
        let started = Instant::now();
        for pid in daemons {
            while is_running(pid) && started.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(10));
            }
            if is_running(pid) {
                signal(pid, Signal::SIGKILL);
            }
        }
        self.engine = None;
        self.remove_views();
    }

    /// The mount points that `run` makes stay for its next run: there will be none.
    fn remove_views(&self) {
        let name = self.source.file_name().unwrap().to_string_lossy();
        let Ok(registry) = Registry::of_this_user() else {
            return;
        };
        let Ok(views) = fs::read_dir(registry.dir().join("views")) else {
            return;
        };
        for view in views.flatten() {
            if view.file_name().to_string_lossy().starts_with(&*name) {
                let _ = fs::remove_dir(view.path());
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.clean_up();
    }
}

/// `stillfs umount`, which must succeed.
pub fn umount(point: &Path) {
    succeed(stillfs().arg("umount").arg(point));
    assert!(!is_mounted(point));
}

/// Unmounts a view whose pin had ended, which is said.
pub fn umount_ended(point: &Path) {
    let ended = end_of(stillfs().arg("umount").arg(point));
    assert_eq!(ended.code(), 13, "{ended:?}");
    assert!(ended.err.contains("had ended before"), "{ended:?}");
    assert!(!is_mounted(point));
}

/// `stillfs status PATH --json`.
pub fn status(path: &Path) -> Value {
    let text = succeed(stillfs().arg("status").arg(path).arg("--json"));
    serde_json::from_str(&text).unwrap()
}

/// What `stillfs status` says of a mount.
pub fn mount_status(point: &Path) -> Value {
    status(point)["mounts"][0].clone()
}

/// The process that serves a mount.
pub fn daemon_of(point: &Path) -> u32 {
    let pid = mount_status(point)["process_id"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

/// Kills the daemon of a mount as the out-of-memory killer would.
pub fn kill_daemon(point: &Path) {
    let pid = daemon_of(point);
    signal(pid, Signal::SIGKILL);
    eventually("a killed daemon is gone", || !is_running(pid));
}

pub fn is_mounted(path: &Path) -> bool {
    let entry = mount_table::find(path).unwrap();
    entry.is_some_and(|entry| is_ours(&entry))
}

/// `cp -a`.
pub fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Runs `stillfs` with words that must be refused: exit code, and text of the message.
pub fn refused(words: &[&std::ffi::OsStr], code: i32, text: &str) -> String {
    let ended = end_of(stillfs().args(words));
    assert_eq!(ended.code(), code, "{words:?}: {ended:?}");
    assert!(ended.err.contains(text), "{words:?}: {ended:?}");
    assert_eq!(ended.out, "", "{words:?}");
    ended.err
}
