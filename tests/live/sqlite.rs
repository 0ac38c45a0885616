//! Live SQLite databases on the command line: options, messages, exit codes and `status`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::application::{Application, notes_in};
use crate::process::{end_of, eventually, has_tool, signal, stillfs, succeed, wait};
use crate::rig::{Rig, copy, is_mounted, mount_status, refused, status, umount, umount_ended};

/// A directory for an application, and a mount point.
struct Scene {
    rig: Rig,
    dir: PathBuf,
    point: PathBuf,
}

impl Scene {
    fn new() -> Option<Self> {
        if !has_tool("sqlite3") {
            return None;
        }
        let rig = Rig::without_engine()?;
        let (dir, point) = (rig.source.clone(), rig.dir("view"));
        Some(Self { rig, dir, point })
    }

    fn database(&self) -> PathBuf {
        self.dir.join("app.db")
    }

    /// `stillfs mount SOURCE` with options.
    fn mount(&self, source: &Path, options: &[&str]) {
        succeed(&mut self.mounting(source, options));
    }

    fn mounting(&self, source: &Path, options: &[&str]) -> Command {
        let mut command = stillfs();
        command
            .arg("mount")
            .args(options)
            .arg(source)
            .arg(&self.point);
        command
    }

    fn refused(&self, source: &Path, options: &[&str], code: i32, text: &str) -> String {
        let words = options.iter().map(OsStr::new);
        let words = [OsStr::new("mount")].into_iter().chain(words);
        let words: Vec<&OsStr> = words
            .chain([source.as_os_str(), self.point.as_os_str()])
            .collect();
        refused(&words, code, text)
    }

    /// A database that its application has for itself.
    fn locked(&self, name: &str) -> Application {
        let mut application = Application::start(&self.dir.join(name));
        application.run("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE notes(text);");
        application.note(1);
        application
    }
}

fn rows(mount: &Value) -> Vec<(String, String)> {
    let rows = mount["databases"].as_array().unwrap().iter();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.map(|row| (text(row, "path"), text(row, "state")))
        .collect()
}

#[test]
fn a_live_file_is_shown_and_status_says_how_and_how_to_open_it() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let database = scene.database();
    let mut application = Application::open(&database);
    application.note(10);
    scene.mount(&database, &[]);
    application.note(5);

    let mount = mount_status(&scene.point);
    assert_eq!(
        (&mount["kind"], &mount["state"]),
        (&"sqlite".into(), &"held".into())
    );
    assert_eq!(mount["database_count"], 1);
    assert_eq!(mount["timestamp"], Value::Null);
    assert_eq!(rows(&mount), [(String::new(), "held".to_owned())]);
    // Only a database of stillfs has an engine to ask.
    for path in [&scene.point, &database] {
        assert_eq!(status(path)["engines"], Value::Array(Vec::new()));
        assert_eq!(status(path)["mounts"].as_array().unwrap().len(), 1);
    }
    let told = succeed(stillfs().arg("status").arg(&scene.point));
    let open = told
        .lines()
        .find_map(|line| line.trim().strip_prefix("open "));
    let open = open
        .unwrap_or_else(|| panic!("how to open it: {told}"))
        .trim();
    let mut shell = Command::new("sh");
    let counted = succeed(
        shell
            .arg("-c")
            .arg(format!("{open} 'SELECT count(*) FROM notes'")),
    );
    assert_eq!(counted, "10\n");

    let copied = scene.rig.path("copy");
    copy(&scene.point, &copied);
    let names: Vec<_> = fs::read_dir(&copied)
        .unwrap()
        .map(|name| name.unwrap().file_name())
        .collect();
    assert_eq!(names, ["app.db"]);
    assert_eq!(notes_in(&copied.join("app.db")), 10);
    umount(&scene.point);
    assert_eq!(
        application.run("PRAGMA integrity_check; SELECT count(*) FROM notes;"),
        ["ok", "15"]
    );
    assert_eq!(status(&database)["mounts"], Value::Array(Vec::new()));
}

#[test]
fn a_view_in_front_says_what_it_shows() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let _applications = ["a.db", "b.db"].map(|name| Application::open(&scene.dir.join(name)));
    let mut command = scene.mounting(&scene.dir, &["-f"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let start = format!(
        "mounted {} on {}: 2 databases, pinned within ",
        scene.dir.display(),
        scene.point.display()
    );
    assert!(line.starts_with(&start), "{line}");
    signal(child.id(), Signal::SIGTERM);
    assert_eq!(wait(&mut child, "a view in front").code(), Some(0));
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_database_that_cannot_be_pinned_is_named_or_left_out() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut free = Application::open(&scene.dir.join("free.db"));
    free.note(3);
    let _locked = scene.locked("locked.db");
    let said = scene.refused(&scene.dir, &[], 11, "locked.db");
    assert_eq!(said.lines().count(), 1, "{said}");
    let advice = "--skip-unpinnable shows the tree without it";
    assert_eq!(said.matches(advice).count(), 1, "{said}");
    // A single file is no tree, and has nothing to leave out.
    let alone = scene.refused(&scene.dir.join("locked.db"), &[], 11, "locked.db");
    assert!(!alone.contains("--skip-unpinnable"), "{alone}");
    assert!(!is_mounted(&scene.point));

    let ended = end_of(&mut scene.mounting(&scene.dir, &["--skip-unpinnable"]));
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert!(
        ended.err.contains("the view lacks 1 part of its source"),
        "{ended:?}"
    );
    assert!(ended.err.contains("left out locked.db: "), "{ended:?}");
    assert!(is_mounted(&scene.point));
    let mount = mount_status(&scene.point);
    assert_eq!(mount["left_out_count"], 1);
    assert_eq!(mount["left_out"][0]["path"], "locked.db");
    // One database of a directory is shown by the view of that.
    for path in [scene.dir.join("free.db"), scene.point.join("free.db")] {
        assert_eq!(status(&path)["mounts"].as_array().unwrap().len(), 1);
    }
    assert_eq!(rows(&mount), [("free.db".to_owned(), "held".to_owned())]);
    let told = succeed(stillfs().arg("status").arg(&scene.point));
    assert!(told.contains("left out  locked.db: "), "{told}");
    assert!(!scene.point.join("locked.db").exists());
    umount(&scene.point);

    for (command, code) in [
        ("true", 3),
        ("exit 7", 7),
        ("test -e \"$STILLFS_MOUNT/free.db\"", 3),
    ] {
        let mut run = stillfs();
        run.args(["run", "--skip-unpinnable"]).arg(&scene.dir);
        let ended = end_of(run.args(["--", "sh", "-c", command]));
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.err.contains("left out locked.db: "), "{ended:?}");
    }
}

/// Each database in WAL mode takes some descriptors, and the usual soft limit is for programs with few.
#[test]
fn many_databases_are_pinned_under_a_low_soft_limit() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for number in 0..30 {
        let path = scene.dir.join(format!("{number}.db"));
        let script = "PRAGMA journal_mode=WAL; CREATE TABLE notes(text)";
        succeed(Command::new("sqlite3").arg(&path).arg(script));
    }
    let mounting = scene.mounting(&scene.dir, &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 48 && exec \"$@\"", "sh"]);
    succeed(shell.arg(mounting.get_program()).args(mounting.get_args()));
    assert_eq!(mount_status(&scene.point)["database_count"], 30);
    umount(&scene.point);
}

/// The limit of a log that is held: the view ends and everybody hears of it, or it goes on from a copy.
#[test]
fn a_log_at_its_limit_ends_the_view_or_is_let_go() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let database = scene.database();
    let mut application = Application::open(&database);
    application.note(10);
    scene.mount(&database, &["--source-wal-limit", "1M"]);
    application.note(1000);
    eventually("the view ends", || {
        mount_status(&scene.point)["state"] == "ended"
    });
    let reason = mount_status(&scene.point)["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(reason.contains("limit"), "{reason}");
    fs::read(scene.point.join("app.db")).unwrap_err();
    umount_ended(&scene.point);

    // Large enough that the log does not leap over it between two looks.
    scene.mount(
        &database,
        &["--source-wal-limit", "64M", "--on-full", "spill"],
    );
    let before = application.run("SELECT count(*) FROM notes;")[0]
        .parse::<u64>()
        .unwrap();
    eventually("a copy keeps the view", || {
        application.note(50);
        mount_status(&scene.point)["databases"][0]["state"] == "kept"
    });
    let mount = mount_status(&scene.point);
    assert_eq!(mount["held_wal_bytes"], 0);
    assert_eq!(mount["state"], "held");
    let told = succeed(stillfs().arg("status").arg(&scene.point));
    assert!(
        told.contains("app.db: kept, read from a private "),
        "{told}"
    );
    let copied = scene.rig.path("copy.db");
    copy(&scene.point.join("app.db"), &copied);
    assert_eq!(notes_in(&copied), before);
    umount(&scene.point);
}

#[test]
fn a_view_at_its_maximum_age_ends_although_no_engine_ends_it() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let _application = Application::open(&scene.database());
    let mut run = stillfs();
    run.args(["run", "--max-age", "1s", "-o", "direct_io"])
        .arg(scene.database());
    let script = "until ! cat \"$STILLFS_MOUNT/app.db\" > /dev/null 2>&1; do sleep 0.1; done";
    let ended = end_of(run.args(["--", "sh", "-c", script]));
    assert_eq!(ended.code(), 13, "{ended:?}");
    assert!(ended.err.contains("maximum age"), "{ended:?}");
}

/// Names are bytes: the daemon gets them as they are.
#[test]
fn names_that_are_no_text_reach_the_daemon() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let dir = scene.dir.join(OsStr::from_bytes(b"odd \xff\n'dir"));
    fs::create_dir(&dir).unwrap();
    let name = OsStr::from_bytes(b"a\xfe?b.db");
    let mut application = Application::open(&dir.join(name));
    application.note(2);
    let mut command = scene.mounting(&dir, &["--atomic-set"]);
    let mut option = OsStr::new("--sqlite=").to_owned();
    option.push(name);
    succeed(command.arg(option));
    let copied = scene.rig.path("copy.db");
    copy(&scene.point.join(name), &copied);
    assert_eq!(notes_in(&copied), 2);
    let told = succeed(stillfs().arg("status").arg(&scene.point));
    assert!(told.contains("odd \u{fffd}\\n'dir"), "{told}");
    let checked = succeed(stillfs().arg("check").arg(&scene.point));
    assert!(checked.ends_with("\nok\n"), "{checked}");
    umount(&scene.point);

    // What is said to open a file opens it, whatever its name.
    let strange = dir.join("a\n\u{1b}'b?.db");
    let mut application = Application::open(&strange);
    application.note(3);
    scene.mount(&strange, &[]);
    let told = succeed(stillfs().arg("status").arg(&scene.point));
    let mut lines = told.lines();
    let open = lines.find_map(|line| line.trim().strip_prefix("open "));
    let command = format!("{} 'SELECT count(*) FROM notes'", open.unwrap());
    assert_eq!(succeed(Command::new("sh").args(["-c", &command])), "3\n");
    umount(&scene.point);
}

#[test]
fn a_header_in_rollback_mode_opens_plainly_in_place() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut application = Application::open(&scene.database());
    application.note(4);
    scene.mount(&scene.database(), &["-o", "sqlite_header=rollback,noexec"]);
    assert_eq!(notes_in(&scene.point.join("app.db")), 4);
    umount(&scene.point);
}

#[test]
fn what_an_sqlite_source_has_not_is_refused() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let database = scene.database();
    let _application = Application::open(&database);
    for (options, text) in [
        (
            &["--on-full", "hold"][..],
            "--on-full hold is for stillfs databases",
        ),
        (
            &["--shadow-limit", "1G"],
            "--shadow-limit is for stillfs databases",
        ),
        (&["--on-full", "spill"], "needs --source-wal-limit"),
        (&["--atomic-set"], "--atomic-set is for directories"),
        (
            &["--skip-unpinnable"],
            "--skip-unpinnable is for directories",
        ),
        (&["-o", "files=clone"], "-o files is for directories"),
        (&["-o", "sqlite_header=wal"], "write sqlite_header=rollback"),
        (&["--max-lock", "5m"], "with a unit"),
        (&["--sqlite", "gone.db"], "--sqlite gone.db: "),
        (&["--scratch", "/missing"], "--scratch /missing: "),
    ] {
        scene.refused(&database, options, 2, text);
    }
    let outside = scene.rig.path("outside.db");
    fs::write(&outside, "").unwrap();
    let outside = outside.to_str().unwrap();
    scene.refused(&scene.dir, &["--sqlite", outside], 2, "it is not in ");
    for name in [".", "folder"] {
        fs::create_dir_all(scene.dir.join("folder")).unwrap();
        scene.refused(&scene.dir, &["--sqlite", name], 2, "it is no regular file");
    }
    assert!(!is_mounted(&scene.point));
}
