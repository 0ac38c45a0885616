//! Copy tools that read a view over and over, and can be killed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::load::Random;
use crate::process::{PATIENCE, eventually, succeed};
use crate::view::{Owes, Still};

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The tool that runs. It is waited for only under the lock, so its number is its own.
    child: Mutex<Option<Child>>,
    was_killed: AtomicBool,
    copies: AtomicU64,
}

/// See the head of the file. Dropping it ends the tool.
#[derive(Debug)]
pub struct Copier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Copies into `dir`, which it makes and removes.
    pub fn start(still: Arc<Still>, dir: PathBuf, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let body = move || {
            let mut random = Random(seed);
            while !of_thread.stop.load(Ordering::SeqCst) {
                fs::create_dir(&dir).unwrap();
                copy(&of_thread, &still, &dir, random.below(3));
                // What was killed may take a moment to let go.
                eventually("a copy is removed", || fs::remove_dir_all(&dir).is_ok());
            }
        };
        Self {
            shared,
            thread: Some(thread::spawn(body)),
        }
    }

    /// Kills the tool that runs, if one does.
    pub fn kill_tool(&self) -> bool {
        let child = self.shared.child.lock();
        let Some(child) = child.as_ref() else {
            return false;
        };
        self.shared.was_killed.store(true, Ordering::SeqCst);
        // With its own helpers: rsync is three processes.
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        killpg(group, Signal::SIGKILL).is_ok()
    }

    /// Ends it. Gives how many copies it made; fails if one was wrong.
    pub fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Err(panic) = self.thread.take().expect("it runs").join() {
            std::panic::resume_unwind(panic);
        }
        self.shared.copies.load(Ordering::SeqCst)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            self.kill_tool();
            let _ = thread.join();
        }
    }
}

fn command(tool: u64, from: &Path, dir: &Path) -> Command {
    let mut command = match tool {
        0 => Command::new("tar"),
        1 => Command::new("rsync"),
        _ => Command::new("cp"),
    };
    match tool {
        0 => command
            .args(["--format=posix", "-cf"])
            .arg(dir.join("view.tar"))
            .arg("-C")
            .arg(from)
            .arg("."),
        1 => command
            .arg("-a")
            .arg(format!("{}/", from.display()))
            .arg(dir.join("view")),
        _ => command.arg("-a").arg(from).arg(dir.join("view")),
    };
    command
}

/// One copy: if the tool says that it succeeded, every byte is right; if not, there is a reason.
fn copy(shared: &Shared, still: &Still, dir: &Path, tool: u64) {
    let mut command = command(tool, &still.point, dir);
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("said")).unwrap());
    shared.was_killed.store(false, Ordering::SeqCst);
    *shared.child.lock() = Some(command.spawn().unwrap());
    let started = Instant::now();
    let status = loop {
        let ended = {
            let mut child = shared.child.lock();
            let ended = child.as_mut().expect("ours").try_wait().unwrap();
            ended.inspect(|_| *child = None)
        };
        if let Some(status) = ended {
            break status;
        }
        if started.elapsed() > PATIENCE {
            let _ = shared.child.lock().take().map(|mut child| child.kill());
            panic!("does not end: {command:?}");
        }
        thread::sleep(Duration::from_millis(3));
    };
    if !status.success() {
        let said = fs::read_to_string(dir.join("said")).unwrap_or_default();
        let has_reason = shared.was_killed.load(Ordering::SeqCst) || still.owes() != Owes::Bytes;
        assert!(has_reason, "{command:?}: {status}: {said}");
        // What reads nothing but errors is no load on anybody.
        thread::sleep(Duration::from_millis(20));
        return;
    }
    if tool == 0 {
        fs::create_dir(dir.join("view")).unwrap();
        let mut untar = Command::new("tar");
        untar.arg("-xf").arg(dir.join("view.tar"));
        succeed(untar.arg("-C").arg(dir.join("view")));
    }
    let copied = fs::read(dir.join("view/data.pages")).unwrap();
    still.compare(copied, &format!("{command:?}"));
    shared.copies.fetch_add(1, Ordering::SeqCst);
}
