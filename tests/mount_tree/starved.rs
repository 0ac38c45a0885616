//! A daemon that may have few files open, and readers that want many.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use stillfs::mount::{Lazy, unmount};

use crate::folder::{Folder, Way};
use crate::rig::{can_mount, errno_of, eventually, expected, is_root};

/// How many files the folder has, and how many descriptors its daemon.
const FILES: u64 = 120;
const DESCRIPTORS: u64 = 80;

/// What the daemon prints before its mount point when its mount is up.
const MOUNTED: &str = "mounted at ";

/// Not a test: the daemon that the test below starts, since a limit is that of a whole process.
#[test]
#[ignore = "a process that another test starts"]
fn daemon() {
    let folder = Folder::with(Way::Kernel, "", |at| {
        for number in 0..FILES {
            let name = at.join(number.to_string());
            fs::write(name, expected(number, 100_000)).unwrap();
        }
        // Only now: what made the files is to have its descriptors.
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).unwrap();
    });
    let mut folder = folder.unwrap();
    println!("\n{MOUNTED}{}", folder.mnt.display());
    folder.rig.session.take().unwrap().wait().unwrap();
}

/// Ends with its mount.
struct Daemon {
    child: Child,
    mnt: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if unmount(&self.mnt, Lazy::Yes).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn start() -> Daemon {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starved::daemon", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mnt = lines.find_map(|line| Some(line.unwrap().strip_prefix(MOUNTED)?.into()));
    std::thread::spawn(move || lines.for_each(drop));
    let mnt = mnt.expect("the daemon mounts");
    Daemon { child, mnt }
}

/// M9: a daemon without a descriptor left says so, goes on, and has them again when files are closed.
#[test]
fn a_daemon_that_can_open_no_more_says_so_and_goes_on() {
    if !can_mount() || !is_root() {
        return;
    }
    let daemon = start();
    let open = |number: u64| File::open(daemon.mnt.join(number.to_string()));
    for _ in 0..2 {
        let mut files = Vec::new();
        let refused = (0..FILES).find_map(|number| match open(number) {
            Ok(file) => {
                files.push((number, file));
                None
            }
            Err(error) => Some(errno_of::<()>(Err(error))),
        });
        assert_eq!(refused, Some(libc::ENFILE));
        assert!(files.len() > 10, "{} are open", files.len());
        for (number, file) in &files {
            let mut bytes = [0; 100];
            file.read_exact_at(&mut bytes, 50_000).unwrap();
            assert_eq!(bytes[..], expected(*number, 50_100)[50_000..]);
        }
        assert!(fs::read_dir(&daemon.mnt).unwrap().count() as u64 == FILES);
        drop(files);
        eventually("descriptors are free again", || open(0).is_ok());
    }
}
