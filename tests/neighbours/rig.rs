//! A server that is watched, and another user.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use stillfs::os::mount_table;

use crate::process::{PATIENCE, end_of, signal, stillfs, wait};
use crate::resp::Client;

/// A user who has nothing to do with us.
pub const STRANGER: u32 = 47_111;

/// A folder that every user can reach, in which each test has its own.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let mut dir = tempfile::Builder::new();
        let dir = dir.prefix("stillfs-neighbours-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// A new directory, of whatever mode the umask says.
    pub fn dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        chmod(&path, mode);
        path
    }

    /// A new directory of another user.
    pub fn dir_of(&self, name: &str, uid: u32) -> PathBuf {
        let path = self.dir(name, 0o755);
        chown(&path, Some(uid), Some(uid)).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let base = self.path("");
        for entry in mount_table::entries().unwrap_or_default().into_iter().rev() {
            if entry.mount_point.starts_with(&base) {
                let mut umount = stillfs();
                let _ = umount
                    .args(["umount", "--lazy"])
                    .arg(&entry.mount_point)
                    .output();
                let _ = umount2(&entry.mount_point, MntFlags::MNT_DETACH);
            }
        }
    }
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A `stillfs serve`. Dropping it kills it.
pub struct Served {
    pub address: Option<SocketAddr>,
    pub dir: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Served {
    /// Starts it on a free port, and waits until it says that it is ready.
    pub fn start(place: &Place, dir: &Path) -> Self {
        Self::with(place, dir, &["--listen", "127.0.0.1:0"], &mut stillfs())
    }

    /// The same with other arguments, run by `command`, which may be of another user.
    pub fn with(place: &Place, dir: &Path, arguments: &[&str], command: &mut Command) -> Self {
        let name = dir.file_name().unwrap().to_string_lossy();
        let log = place.path(&format!("{name}.log"));
        command.arg("serve").arg(dir).args(arguments);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let (sender, received) = mpsc::channel();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || {
            while let Some(Ok(line)) = lines.next() {
                let _ = sender.send(line);
            }
        });
        // Owned from here on, so that a failure kills it.
        let mut served = Self {
            address: None,
            dir: dir.to_owned(),
            log,
            child,
        };
        let Ok(line) = received.recv_timeout(PATIENCE) else {
            panic!("no ready line: {}", served.log());
        };
        served.address = line.split(' ').find_map(|word| word.parse().ok());
        served
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address.unwrap()).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The most memory that it ever had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() >> 10
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// It goes on: a write is acknowledged and read back.
    pub fn assert_serves(&self) {
        let mut client = self.client();
        client.command(&["SET", "alive", "yes"]).unwrap();
        let found = client.command(&["GET", "alive"]).unwrap();
        assert_eq!(found.bytes(), b"yes");
    }

    pub fn stop(mut self) {
        signal(self.child.id(), Signal::SIGTERM);
        let status = wait(&mut self.child, "a stopped engine");
        assert!(status.success(), "{}", self.log());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program where every user can run it: a build directory may be closed to them.
fn public_program() -> Option<&'static Path> {
    static COPY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let copied = COPY.get_or_init(|| {
        let own = Path::new(env!("CARGO_BIN_EXE_stillfs"));
        let mut probe = Command::new(own);
        let probe = probe.arg("--version").uid(STRANGER).gid(STRANGER);
        if probe
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            return Some(own.to_owned());
        }
        println!("SKIPPED: another user cannot run {}", own.display());
        None
    });
    copied.as_deref()
}

/// `program` as another user without any right, or `None`, with a line, where that cannot be.
pub fn as_user(program: &str, uid: u32) -> Option<Command> {
    if !crate::process::is_root() {
        return None;
    }
    let program = match program {
        "stillfs" => public_program()?.as_os_str().to_owned(),
        other => other.into(),
    };
    let mut command = Command::new(program);
    command
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .env("LC_ALL", "C")
        .env_remove("XDG_RUNTIME_DIR");
    Some(command)
}

/// The same as the stranger, with a runtime directory in `place`.
pub fn as_stranger(program: &str, place: &Place) -> Option<Command> {
    let mut command = as_user(program, STRANGER)?;
    let runtime = place.path("runtime");
    if !runtime.exists() {
        place.dir_of("runtime", STRANGER);
    }
    command.env("XDG_RUNTIME_DIR", runtime);
    Some(command)
}

/// Fails unless the stranger is denied what `script` tries, a command of the shell with `$1`.
pub fn assert_denied(script: &str, path: &Path) {
    let mut shell = as_user("sh", STRANGER).unwrap();
    let ended = end_of(shell.args(["-c", script, "sh"]).arg(path));
    assert!(
        !ended.status.success(),
        "{script} {}: {ended:?}",
        path.display()
    );
    let is_denied = ["ermission denied", "peration not permitted"];
    assert!(
        is_denied.iter().any(|said| ended.err.contains(said)),
        "{script} {}: {ended:?}",
        path.display()
    );
}

/// Whether views can be mounted here; says why not.
pub fn can_mount() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        println!("SKIPPED: /dev/fuse cannot be opened: {error}");
    }
    device.is_ok()
}
