//! SQLite databases of other users, and users who are in each other's way.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::namespace::LET_GO;
use crate::ordinary_user::NAMESPACE;
use crate::process::{PATIENCE, end_of, has_tool, stillfs, wait};
use crate::rig::{Place, STRANGER, as_stranger, can_mount, chmod};

/// A process of Python with a connection `db`, that has run the script and waits. Dropping it kills it.
struct Application(Child);

impl Application {
    fn start(path: &Path, script: &str) -> Self {
        let script = format!(
            "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n{script}\n\
             print('ready', flush=True)\nsys.stdin.read()"
        );
        let mut python = Command::new("python3");
        let python = python.args(["-c", &script]).arg(path);
        let spawned = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const FILL: &str = "db.execute('PRAGMA journal_mode=WAL')\ndb.execute('CREATE TABLE IF NOT EXISTS t(a)')\n\
                    db.execute('INSERT INTO t VALUES (1)')\ndb.execute('SELECT * FROM t').fetchall()";

fn can_run() -> bool {
    can_mount() && has_tool("python3") && has_tool("fusermount3") && has_tool("sqlite3")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    format!("{}{ending}", path.display()).into()
}

/// As the stranger, `$1` a directory of his, `$2` the program, in a namespace with a device for everybody.
const STEPS: &str = r#"
place=$1 stillfs=$2 point=$1/point app=$1/../app/app.db
refused() {
    if "$stillfs" mount "$app" "$point" 2> "$place/said"; then echo "was mounted: $*"; exit 1; fi
    grep -q -- "$1" "$place/said" || { cat "$place/said"; exit 1; }
}
mkdir "$point"
"$stillfs" mount "$app" "$point"
cp "$point/app.db" "$place/copy.db"
"$stillfs" umount "$point"
echo shared
read -r line
refused "the -wal of"
echo refused
read -r line
refused "as its owner or as root"
echo all steps done
"#;

/// G27: the rights that are needed are those of a reader with a mark; what is short of them is refused with
/// what helps, and nothing of the application's is written.
#[test]
fn another_user_shares_a_mark_or_is_refused() {
    let place = Place::new();
    let (true, Some(stillfs)) = (can_run(), as_stranger("stillfs", &place)) else {
        return;
    };
    let path = place.dir("app", 0o755).join("app.db");
    let application = Application::start(&path, FILL);
    let home = place.dir_of("home", STRANGER);
    place.dir("home/dev", 0o755);
    fs::write(home.join("steps"), STEPS).unwrap();
    chmod(&home.join("steps"), 0o644);
    let files = || ["", "-wal", "-shm"].map(|ending| fs::read(beside(&path, ending)).unwrap());
    let before = files();
    let mut namespace = Command::new("unshare");
    namespace.args(["--mount", "--propagation", "private", "sh", "-c"]);
    let script = format!("{LET_GO}\n{NAMESPACE}");
    namespace.args([&*script, "sh"]).arg(&home);
    namespace
        .arg(stillfs.get_program())
        .arg(STRANGER.to_string());
    namespace.env("XDG_RUNTIME_DIR", place.path("runtime"));
    let mut child = namespace
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut hear = move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    let heard = hear();
    if heard.is_empty() && wait(&mut child, "a namespace").code() == Some(99) {
        println!("SKIPPED: no mount namespace");
        return;
    }
    assert_eq!(heard, "shared\n");
    assert!(files() == before);
    // One who may not read the log has nothing to show.
    chmod(&beside(&path, "-wal"), 0o600);
    input.write_all(b"go on\n").unwrap();
    assert_eq!(hear(), "refused\n");
    chmod(&beside(&path, "-wal"), 0o644);
    // Without an application there is no mark, and SQLite cannot make an index for him.
    drop(application);
    input.write_all(b"go on\n").unwrap();
    assert_eq!(hear(), "all steps done\n");
    assert!(wait(&mut child, "the steps").success());
    assert!(files() == before);
    let counted = Command::new("sqlite3")
        .arg(home.join("copy.db"))
        .arg("SELECT count(*) FROM t")
        .output();
    assert_eq!(counted.unwrap().stdout, b"1\n");
}

/// G30: through another name of `-shm` or `-wal` somebody could have root write, or show, a file that is none
/// of the database's.
#[test]
fn files_beside_a_database_that_lead_elsewhere_are_refused() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let point = place.dir("point", 0o755);
    let victim = place.path("victim");
    for (ending, is_link) in [("-shm", true), ("-shm", false), ("-wal", true)] {
        let dir = place.dir(&format!("app{ending}{is_link}"), 0o755);
        let path = dir.join("app.db");
        let application = Application::start(&path, FILL);
        let beside = beside(&path, ending);
        fs::rename(&beside, &victim).unwrap();
        match is_link {
            true => symlink(&victim, &beside).unwrap(),
            false => fs::hard_link(&victim, &beside).unwrap(),
        }
        let content = fs::read(&victim).unwrap();
        let ended = end_of(stillfs().arg("mount").arg(&path).arg(&point));
        assert_eq!(ended.code(), 1, "{ending} {is_link}: {ended:?}");
        let said = format!("{ending} is no plain file with one name");
        assert!(ended.err.contains(&said), "{ended:?}");
        assert!(fs::read(&victim).unwrap() == content);
        drop(application);
        fs::remove_file(&victim).unwrap();
    }
}

/// G33: who may write `-shm` may hold its locks for ever; a mount gives up soon.
#[test]
fn a_user_who_holds_the_locks_for_ever_keeps_a_mount_for_a_moment() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let point = place.dir("point", 0o755);
    let dir = place.dir("app", 0o777);
    let path = dir.join("app.db");
    let hold = format!(
        "{FILL}\nimport fcntl, struct\nshm = open(sys.argv[1] + '-shm', 'r+b')\n\
         fcntl.lockf(shm, fcntl.LOCK_EX, 1, 128)"
    );
    let holder = Application::start(&path, &hold);
    let begun = Instant::now();
    let ended = end_of(stillfs().arg("mount").arg(&path).arg(&point));
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(ended.code(), 11, "{ended:?}");
    assert!(ended.err.contains("try again"), "{ended:?}");
    drop(holder);
}
