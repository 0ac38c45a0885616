//! A machine of which nothing runs but its disk: the file system on a disk that forgets.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::BackgroundSession;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MntFlags, umount2};

use crate::disk::{Disk, IMAGE, Medium};
use crate::process::{end_of, eventually, succeed};

/// The file systems that people keep databases on.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The least that mkfs takes, and room for the test.
    fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 128 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    fn mkfs(self, image: &Path) -> Command {
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Ext4 => mkfs.args(["-q", "-F", "-E", "nodiscard"]),
            Self::Xfs => mkfs.args(["-q", "-f", "-K"]),
        };
        mkfs.arg(image);
        mkfs
    }
}

/// See the head of the file. Dropping it takes everything down.
pub struct Machine {
    pub disk: Disk,
    kind: Kind,
    base: tempfile::TempDir,
    served: Option<BackgroundSession>,
}

impl Machine {
    /// A machine with an empty file system, mounted; `None`, and a printed reason, where that cannot be.
    pub fn new(kind: Kind) -> Option<Self> {
        let blank = Disk::new(Medium::new(kind.bytes()));
        let mut machine = Self::serve(blank, kind)?;
        let image = machine.path("disk").join(IMAGE);
        let Ok(made) = kind.mkfs(&image).output() else {
            println!("SKIPPED: mkfs.{} is not installed", kind.name());
            return None;
        };
        assert!(made.status.success(), "{made:?}");
        if let Err(why) = machine.mount() {
            println!("SKIPPED: no {} on a loop device: {why}", kind.name());
            return None;
        }
        Some(machine)
    }

    fn serve(disk: Disk, kind: Kind) -> Option<Self> {
        if !(crate::process::is_root() && crate::process::has_tool("losetup")) {
            return None;
        }
        let base = tempfile::Builder::new()
            .prefix("stillfs-machine-")
            .tempdir();
        let base = base.unwrap();
        fs::create_dir(base.path().join("disk")).unwrap();
        fs::create_dir(base.path().join("root")).unwrap();
        let mut machine = Self {
            disk,
            kind,
            base,
            served: None,
        };
        match machine.disk.mount(&machine.path("disk")) {
            Ok(served) => machine.served = Some(served),
            Err(error) => {
                println!("SKIPPED: cannot mount with FUSE: {error}");
                return None;
            }
        }
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().canonicalize().unwrap().join(name)
    }

    /// Where the file system is.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Attaches the disk and mounts what is on it. The loop device goes with the mount, whatever
    /// becomes of this process.
    fn mount(&mut self) -> Result<(), String> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=off"]);
        let attached = end_of(attach.arg(self.path("disk").join(IMAGE)));
        if !attached.status.success() {
            return Err(attached.err);
        }
        let device = attached.out.trim();
        let mut mount = Command::new("mount");
        mount.args(["-t", self.kind.name()]).arg(device);
        let mounted = end_of(mount.arg(self.root()));
        succeed(Command::new("losetup").arg("--detach").arg(device));
        match mounted.status.success() {
            true => Ok(()),
            false => Err(mounted.err),
        }
    }

    /// Takes down what the kernel still has of the machine without power, and turns it on again. No
    /// process may use it any more.
    pub fn reboot(&mut self) {
        self.unmount();
        self.disk.restore();
        let mounted = self.mount();
        assert_eq!(mounted, Ok(()), "the file system did not survive");
    }

    fn unmount(&self) {
        eventually("nobody uses the file system", || {
            umount2(&self.root(), MntFlags::empty()).is_ok()
        });
        eventually("the loop device is detached", || !self.is_attached());
    }

    /// Whether a loop device uses the disk.
    pub fn is_attached(&self) -> bool {
        let mut list = Command::new("losetup");
        list.args(["--noheadings", "--output", "NAME", "--associated"]);
        !succeed(list.arg(self.path("disk").join(IMAGE))).is_empty()
    }

    /// Turns it off cleanly.
    pub fn shut_down(mut self) {
        self.unmount();
        let served = self.served.take().expect("it is served");
        served.umount_and_join().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(served) = self.served.take() else {
            return;
        };
        // The loop device lets go of the disk with the last user of the file system.
        let _ = umount2(&self.root(), MntFlags::MNT_DETACH);
        let _ = umount2(&self.path("disk"), MntFlags::MNT_DETACH);
        drop(served);
    }
}

/// The kernel short of memory: it writes to the disk what nobody has synced yet, at any time and in any
/// order, without a flush. Dropping it ends it.
pub struct Trickle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    /// Of the files of a database.
    pub fn start(database: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stops, database) = (stop.clone(), database.to_owned());
        let thread = thread::spawn(move || {
            while !stops.load(Ordering::SeqCst) {
                for dir in ["", "wal", "changes", "shadow"] {
                    write_out(&database.join(dir));
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A file that goes meanwhile, or a disk without power, is no concern of this.
fn write_out(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let Some(file) = is_file.then(|| File::open(entry.path()).ok()).flatten() {
            // What is dirty cannot be dropped, so the kernel begins to write it.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}
