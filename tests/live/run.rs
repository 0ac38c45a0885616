//! `stillfs run`: whatever happens, the pin is released.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use stillfs::mount::Registry;

use crate::process::{Ended, end_of, eventually, signal, stillfs, wait, within};
use crate::rig::{Rig, is_mounted, kill_daemon};

fn run(rig: &Rig, words: &[&str]) -> Ended {
    end_of(stillfs().arg("run").arg(&rig.source).arg("--").args(words))
}

/// A `run` that is in the middle of its command. Dropping it kills both.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    mount: PathBuf,
    command: u32,
}

impl Running {
    /// Runs a shell script, which goes on after it has printed where it is.
    fn start(rig: &Rig, script: &str) -> Self {
        let script = format!("echo $STILLFS_MOUNT; echo $$; {script}");
        let mut command = stillfs();
        command.arg("run").arg(&rig.source);
        command.args(["--", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mount = PathBuf::from(lines.next().unwrap().unwrap());
        let command = lines.next().unwrap().unwrap().parse().unwrap();
        assert!(is_mounted(&mount));
        Self {
            child,
            lines,
            mount,
            command,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its own number, as it said; it is a child of nobody who would wait for it.
        let line = fs::read(format!("/proc/{}/cmdline", self.command)).unwrap_or_default();
        if line.windows(13).any(|part| part == b"STILLFS_MOUNT") {
            signal(self.command, Signal::SIGKILL);
        }
    }
}

/// The script that waits for ever, with a child for no longer than a moment.
const FOR_EVER: &str = "while :; do sleep 0.1; done";

#[test]
fn the_exit_code_is_the_commands_and_everything_is_released() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    for code in [0, 1, 7, 125, 255] {
        let ended = run(&rig, &["sh", "-c", &format!("exit {code}")]);
        assert_eq!(ended.code(), code, "{ended:?}");
    }
    let ended = run(&rig, &["sh", "-c", "kill -9 $$"]);
    assert_eq!(ended.code(), 137, "{ended:?}");
    let ended = run(&rig, &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(ended.code(), 143, "{ended:?}");
    rig.assert_nothing_left(&[]);
}

#[test]
fn braces_and_the_variable_are_the_mount() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let script =
        "test \"$1\" = \"$STILLFS_MOUNT\" && test \"$2\" = \"x$1/y$1\" && cat \"$1/snapshot.json\"";
    let ended = run(&rig, &["sh", "-c", script, "sh", "{}", "x{}/y{}"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    let told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(told["source"], rig.source.to_str().unwrap());
    rig.assert_nothing_left(&[]);
}

/// A backup script must be able to tell its own failure from that of stillfs.
#[test]
fn failures_of_stillfs_and_of_the_start_have_codes_of_their_own() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let ended = run(&rig, &["/nowhere/at-all"]);
    assert_eq!(ended.code(), 127, "{ended:?}");
    assert!(ended.err.contains("/nowhere/at-all"), "{ended:?}");
    let plain = rig.path("plain");
    fs::write(&plain, "no program").unwrap();
    let ended = run(&rig, &[plain.to_str().unwrap()]);
    assert_eq!(ended.code(), 126, "{ended:?}");
    rig.assert_nothing_left(&[]);

    let name = rig.source.file_name().unwrap().to_string_lossy();
    let name = format!("missing-{name}");
    let missing = rig.path(&name);
    let ran = rig.path("ran");
    let ended = end_of(stillfs().arg("run").arg(&missing).args([
        OsStr::new("--"),
        OsStr::new("touch"),
        ran.as_os_str(),
    ]));
    assert_eq!(ended.code(), 125, "{ended:?}");
    assert!(ended.err.contains(missing.to_str().unwrap()), "{ended:?}");
    assert!(!ran.exists());
    // Not even a place for its mount is left.
    let views = Registry::of_this_user().unwrap().dir().join("views");
    for view in fs::read_dir(views).unwrap() {
        let view = view.unwrap().file_name().into_string().unwrap();
        assert!(!view.starts_with(&*name), "{view}");
    }
    let ended = run(&rig, &["true"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// restic and borg know files by their path: another one at each run would copy everything again.
#[test]
fn the_mount_is_at_the_same_path_at_every_run() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let first = run(&rig, &["printenv", "STILLFS_MOUNT"]);
    let link = rig.path("link");
    std::os::unix::fs::symlink(&rig.source, &link).unwrap();
    let second = end_of(stillfs().arg("run").arg(&link).args(["--", "echo", "{}"]));
    assert_eq!(first.code(), 0, "{first:?}");
    assert_eq!(first.out, second.out);
    let at = rig.dir("at");
    let mut third = stillfs();
    third.arg("run").arg("--at").arg(&at).arg(&rig.source);
    let third = end_of(third.args(["--", "echo", "{}"]));
    assert_eq!(Path::new(third.out.trim_end()), at);
}

/// A scheduler stops a job with SIGTERM: the command decides how to end, and the pin goes.
#[test]
fn sigterm_reaches_the_command_and_everything_is_released() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let script = format!("trap 'echo got it; exit 7' TERM; echo armed; {FOR_EVER}");
    let mut running = Running::start(&rig, &script);
    assert_eq!(running.lines.next().unwrap().unwrap(), "armed");
    let daemon = crate::rig::daemon_of(&running.mount);
    signal(running.child.id(), Signal::SIGTERM);
    assert_eq!(running.lines.next().unwrap().unwrap(), "got it");
    let status = wait(&mut running.child, "a run that got SIGTERM");
    assert_eq!(status.code(), Some(7));
    rig.assert_nothing_left(&[daemon]);

    let mut running = Running::start(&rig, FOR_EVER);
    signal(running.child.id(), Signal::SIGTERM);
    let status = wait(&mut running.child, "a run that got SIGTERM");
    assert_eq!(status.code(), Some(143));
    rig.assert_nothing_left(&[]);
}

/// Nobody is left to release the pin of a `run` that was killed, but its daemon. The mount outlives the
/// pin for as long as the command lives.
#[test]
fn a_killed_run_leaves_no_pin_and_its_mount_goes_with_the_command() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    // The command is in the way as much as it can be: inside the mount, with a file open.
    let script = format!("cd $STILLFS_MOUNT; exec 5<data.pages; echo in; {FOR_EVER}");
    for script in [FOR_EVER, &script] {
        let mut running = Running::start(&rig, script);
        if script != FOR_EVER {
            assert_eq!(running.lines.next().unwrap().unwrap(), "in");
        }
        let daemon = crate::rig::daemon_of(&running.mount);
        assert_eq!(rig.pins().len(), 1);
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        // An orphan does not keep the pin.
        within(Duration::from_secs(5), "the pin is gone", &mut || {
            rig.pins().is_empty()
        });
        assert!(is_mounted(&running.mount));
        // The next run does not give another view to an orphan that may be in the middle of a copy.
        let ended = run(&rig, &["true"]);
        assert_eq!(ended.code(), 125, "{ended:?}");
        assert!(ended.err.contains("already shows a view"), "{ended:?}");
        assert!(ended.err.contains("choose a place with --at"), "{ended:?}");
        signal(running.command, Signal::SIGKILL);
        within(Duration::from_secs(5), "the mount is gone", &mut || {
            !is_mounted(&running.mount)
        });
        rig.assert_nothing_left(&[daemon]);
        let ended = run(&rig, &["true"]);
        assert_eq!(ended.code(), 0, "{ended:?}");
    }
}

/// Row: run.killed
/// Invariant M5. An empty directory in place of the view would be copied without an error: an
/// empty backup that looks like a good one.
#[test]
fn the_orphan_of_a_killed_run_sees_errors_and_never_an_empty_directory() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let (go, out) = (rig.path("go"), rig.path("out"));
    // A child that has lost the variable is still the command's.
    let script = format!(
        "until test -e {}; do sleep 0.05; done; env -i cp -a $STILLFS_MOUNT/. {}; echo $?; {FOR_EVER}",
        go.display(),
        out.display()
    );
    let mut running = Running::start(&rig, &script);
    let daemon = crate::rig::daemon_of(&running.mount);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    eventually("the pin is gone", || rig.pins().is_empty());
    // Longer than the daemon takes for a look around.
    std::thread::sleep(Duration::from_secs(2));
    fs::write(&go, "").unwrap();
    let code = running.lines.next().unwrap().unwrap();
    assert_ne!(code, "0", "{:?}", fs::read_dir(&out).map(Iterator::count));
    signal(running.command, Signal::SIGKILL);
    eventually("the mount is gone", || !is_mounted(&running.mount));
    rig.assert_nothing_left(&[daemon]);
}

/// Row: run.unmounted
/// Somebody who takes the view away under the command must not get a backup that counts as done.
#[test]
fn a_run_whose_view_was_unmounted_under_it_fails() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let go = rig.path("go");
    let script = format!("until test -e {}; do sleep 0.05; done", go.display());
    let mut running = Running::start(&rig, &script);
    crate::rig::umount(&running.mount);
    fs::write(&go, "").unwrap();
    let status = wait(&mut running.child, "a run whose view was unmounted");
    assert_eq!(status.code(), Some(13));
    rig.assert_nothing_left(&[]);
}

/// Row: run.signals
/// The view of a run lasts as long as the run: a signal that reaches the daemon alone, or before the
/// command, does not empty what the command reads.
#[test]
fn a_daemon_of_a_run_is_not_ended_by_signals_before_its_command() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let go = rig.path("go");
    let script = format!(
        "until test -e {}; do sleep 0.05; done; cat $STILLFS_MOUNT/data.pages | wc -c",
        go.display()
    );
    let mut running = Running::start(&rig, &script);
    let daemon = crate::rig::daemon_of(&running.mount);
    signal(daemon, Signal::SIGTERM);
    signal(daemon, Signal::SIGINT);
    std::thread::sleep(Duration::from_secs(1));
    fs::write(&go, "").unwrap();
    assert_ne!(running.lines.next().unwrap().unwrap(), "0");
    let status = wait(&mut running.child, "a run whose daemon got signals");
    assert_eq!(status.code(), Some(0));
    rig.assert_nothing_left(&[daemon]);
}

/// The next run must not fail for what a crash of the last one left at its path.
#[test]
fn a_dead_mount_of_an_earlier_run_is_cleaned_by_the_next() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mut running = Running::start(&rig, FOR_EVER);
    kill_daemon(&running.mount);
    assert!(is_mounted(&running.mount));
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    eventually("the pin is gone", || rig.pins().is_empty());
    let ended = run(&rig, &["printenv", "STILLFS_MOUNT"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(Path::new(ended.out.trim_end()), running.mount);
    rig.assert_nothing_left(&[]);
}

/// A backup whose view broke under it must not count as done.
#[test]
fn a_run_whose_daemon_died_fails() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let go = rig.path("go");
    let script = format!("until test -e {}; do sleep 0.05; done", go.display());
    let mut running = Running::start(&rig, &script);
    kill_daemon(&running.mount);
    fs::write(&go, "").unwrap();
    let status = wait(&mut running.child, "a run whose daemon died");
    assert_eq!(status.code(), Some(125));
}

/// The command could keep the pin past its time if it inherited what holds it.
#[test]
fn the_command_inherits_no_descriptor() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let ended = run(&rig, &["ls", "-l", "/proc/self/fd"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    let source = rig.source.to_str().unwrap();
    assert!(!ended.out.contains(source), "{ended:?}");
    // Standard input, output and error, and the directory that ls itself reads.
    let count = ended
        .out
        .lines()
        .filter(|line| line.contains(" -> "))
        .count();
    let mut own = Command::new("ls");
    let own = end_of(own.args(["-l", "/proc/self/fd"]));
    let own = own.out.lines().filter(|line| line.contains(" -> ")).count();
    assert_eq!(count, own, "{ended:?}");
}

/// A tool that tolerates read errors must not give a good backup of a damaged database: a read that
/// failed is told, and `run` fails.
#[test]
fn a_failed_read_fails_the_run_although_the_command_did_not() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    rig.engine().client().command(&["CHECKPOINT"]).unwrap();
    let file = rig.source.join("data.pages");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    // Damage under the running engine, in a page that it has no reason to write again.
    let damaged = fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, &bytes[last..=last], last as u64).unwrap();
    let ended = run(&rig, &["sh", "-c", "cat {}/data.pages > /dev/null || true"]);
    assert_eq!(ended.code(), 13, "{ended:?}");
    assert!(ended.err.contains("a read of the view failed"), "{ended:?}");
    assert!(ended.err.contains("data.pages"), "{ended:?}");
    rig.assert_nothing_left(&[]);
}

/// JSON cannot say every path, and a mount must not depend on it.
#[test]
fn a_mount_point_that_is_not_utf8_is_mounted_and_shown() {
    use std::os::unix::ffi::OsStrExt;
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let point = rig.path("").join(OsStr::from_bytes(b"odd\xff name"));
    fs::create_dir(&point).unwrap();
    rig.mount_on(&point, &[]);
    assert!(is_mounted(&point));
    let all = end_of(stillfs().args(["status", "--json"]));
    assert_eq!(all.code(), 0, "{all:?}");
    assert!(all.out.contains("name"), "{all:?}");
    assert_eq!(end_of(stillfs().arg("umount").arg(&point)).code(), 0);
    rig.assert_nothing_left(&[]);
}

/// A page file that was moved away is written no further: the log keeps what it lacks, and the file
/// put back has everything.
#[test]
fn a_page_file_moved_under_the_engine_loses_nothing() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let (file, away) = (rig.source.join("data.pages"), rig.source.join("away"));
    fs::rename(&file, &away).unwrap();
    let mut client = rig.engine().client();
    client.command(&["SET", "moved", "kept"]).unwrap();
    let refused = format!("{:?}", client.command(&["CHECKPOINT"]));
    assert!(refused.contains("moved or replaced"), "{refused}");
    fs::rename(&away, &file).unwrap();
    client.command(&["CHECKPOINT"]).unwrap();
    rig.take_engine().kill();
    rig.start();
    let found = rig
        .engine()
        .client()
        .command(&["GET", "moved"])
        .unwrap()
        .bytes();
    assert_eq!(found, b"kept");
}
