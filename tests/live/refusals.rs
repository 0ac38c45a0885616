//! What cannot be mounted or served: each with its message and its exit code.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::namespace::LET_GO;
use crate::process::{assert_same_bytes, end_of, is_root, stillfs};
use crate::rig::{Engine, Rig, copy, is_mounted, kill_daemon, refused, status, umount};

fn mount_refused(source: &Path, point: &Path, code: i32, text: &str) {
    let words = [OsStr::new("mount"), source.as_os_str(), point.as_os_str()];
    let said = refused(&words, code, text);
    assert_eq!(said.lines().count(), 1, "one line says it: {said}");
    assert!(said.starts_with("stillfs: "), "{said}");
}

#[test]
fn a_source_that_is_no_database_is_refused() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let point = rig.dir("mnt");
    let missing = rig.path("missing");
    let text = format!("{} does not exist", missing.display());
    mount_refused(&missing, &point, 1, &text);
    let empty = rig.dir("empty");
    mount_refused(&empty, &point, 1, "holds no database that stillfs knows");
    let foreign = rig.dir("foreign");
    for content in [&b""[..], b"SQLite", &[0; 65536]] {
        fs::write(foreign.join("data.pages"), content).unwrap();
        mount_refused(&foreign, &point, 1, "holds no database that stillfs knows");
    }
    let file = rig.path("file");
    fs::write(&file, "text").unwrap();
    mount_refused(&file, &point, 1, "is no database that stillfs knows");
    for neither in [&missing, &empty, &file] {
        let words = [OsStr::new("status"), neither.as_os_str()];
        refused(&words, 1, "no view is mounted at");
    }
    let serve = [OsStr::new("serve"), file.as_os_str()];
    refused(&serve, 1, "Not a directory");
    assert!(!is_mounted(&point));
    assert_eq!(rig.records(), []);
}

/// Row: mount.over
#[test]
fn a_mount_point_that_is_unfit_is_refused() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let source = &rig.source;
    mount_refused(source, &rig.path("missing"), 1, "mkdir -p");
    let file = rig.path("file");
    fs::write(&file, "text").unwrap();
    mount_refused(source, &file, 1, "is not a directory");
    let full = rig.dir("full");
    fs::write(full.join("x"), "").unwrap();
    mount_refused(source, &full, 1, "is not empty");
    // A mount inside the source would read itself.
    let inside = source.join("inside");
    fs::create_dir(&inside).unwrap();
    mount_refused(source, &inside, 2, "is inside the source");
    mount_refused(source, source, 2, "is inside the source");
    mount_refused(source, &rig.path(""), 2, "contains the source");

    let point = rig.mount("mnt", &[]);
    mount_refused(source, &point, 11, "already shows a view");
    assert_eq!(rig.pins().len(), 1);
    kill_daemon(&point);
    let advice = format!("stillfs umount {}", point.display());
    mount_refused(source, &point, 1, &advice);
    umount(&point);
    let words = [OsStr::new("umount"), point.as_os_str()];
    refused(&words, 1, "is not a mount point");
    rig.assert_nothing_left(&[]);
}

#[test]
fn an_option_that_there_is_not_is_refused_before_anything_is_pinned() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let point = rig.dir("mnt");
    for (option, text) in [
        ("alow_other", "unknown mount option 'alow_other'"),
        ("rw", "a view is read-only"),
        ("direct_io=1", "takes no value"),
    ] {
        let words = ["mount", "-o", option].map(OsStr::new);
        let words = [&words[..], &[rig.source.as_os_str(), point.as_os_str()]].concat();
        refused(&words, 2, text);
        let words = ["run", "-o", option].map(OsStr::new);
        let words = [
            &words[..],
            &[rig.source.as_os_str(), "--".as_ref(), "true".as_ref()],
        ]
        .concat();
        refused(&words, 2, text);
    }
    assert!(!is_mounted(&point));
    rig.assert_nothing_left(&[]);
}

/// Runs `stillfs mount` where `/dev/fuse` is as `hide`, a shell command, makes it.
fn mount_where(hide: &str, rig: &Rig, point: &Path) -> Option<crate::process::Ended> {
    let script = format!("{LET_GO}\n{hide} || exit 99; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(stillfs().get_program()).arg("mount");
    let ended = end_of(command.arg(&rig.source).arg(point));
    if ended.code() == 99 || ended.err.starts_with("unshare:") {
        println!("SKIPPED: no mount namespace: {}", ended.err.trim());
        return None;
    }
    Some(ended)
}

/// Without an engine a pin must be written beside the database, which a read-only disk does not take.
#[test]
fn a_read_only_directory_without_an_engine_is_told_what_to_do() {
    if !is_root() {
        return;
    }
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    rig.take_engine().kill();
    let point = rig.dir("mnt");
    let hide = format!(
        "mount --bind {0} {0} && mount -o remount,ro,bind {0}",
        rig.source.display()
    );
    let Some(ended) = mount_where(&hide, &rig, &point) else {
        return;
    };
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains("no engine runs on"), "{ended:?}");
    assert!(ended.err.contains("start an engine"), "{ended:?}");
    assert!(!is_mounted(&point));
    rig.start();
    rig.assert_nothing_left(&[]);
}

/// A container without the device is the first thing that a user of containers meets.
#[test]
fn a_machine_without_fuse_is_told_what_is_missing() {
    if !is_root() {
        return;
    }
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let point = rig.dir("mnt");
    let own_dev = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3";
    let nodev = rig.dir("nodev");
    let denied = format!(
        "mount -t tmpfs -o nodev none {0} && mknod -m 666 {0}/fuse c 10 229 && \
         mount --bind {0}/fuse /dev/fuse",
        nodev.display()
    );
    for (hide, text) in [
        (own_dev, "/dev/fuse is missing"),
        (denied.as_str(), "/dev/fuse cannot be opened"),
        (
            "mount --bind /dev/null /dev/fuse",
            "/dev/fuse is not the FUSE device",
        ),
    ] {
        let Some(ended) = mount_where(hide, &rig, &point) else {
            return;
        };
        assert_eq!(ended.code(), 1, "{hide}: {ended:?}");
        assert!(ended.err.contains(text), "{hide}: {ended:?}");
    }
    rig.assert_nothing_left(&[]);
}

/// A slip of the command line must not leave a database where there was none, nor touch one.
#[test]
fn an_address_that_cannot_be_had_leaves_no_database() {
    let base = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = base.path().join("file");
    fs::write(&file, "text").unwrap();
    let missing = base.path().join("missing/socket");
    let dir = base.path().join("db");
    let serve = |options: &[&OsStr], text: &str| {
        let words = [OsStr::new("serve"), dir.as_os_str()];
        refused(&[&words, options].concat(), 1, text)
    };
    let (listen, unix) = (OsStr::new("--listen"), OsStr::new("--unix"));
    serve(&[listen, OsStr::new(&address)], "Address already in use");
    serve(&[unix, missing.as_os_str()], "No such file or directory");
    let both = [unix, file.as_os_str(), listen, OsStr::new("127.0.0.1:0")];
    serve(&both, "something that is no socket is there");
    assert!(!dir.exists());
    assert_eq!(fs::read(&file).unwrap(), b"text");

    // A socket in the folder itself comes when that folder is there, however both are written.
    let inside = base.path().join("db/../db/socket");
    let (socket, odd) = (
        dir.join("socket"),
        dir.parent().unwrap().join("./db/socket"),
    );
    for path in [socket.as_path(), &odd, &inside] {
        let engine =
            Engine::start_with(&dir, &["--unix", path.to_str().unwrap()], Stdio::inherit());
        assert!(UnixStream::connect(&socket).is_ok());
        assert!(engine.stop().success());
    }
}

/// Two engines on one directory would destroy it.
#[test]
fn a_second_engine_on_a_directory_is_refused() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mut serve = stillfs();
    serve.arg("serve").arg(&rig.source);
    let ended = end_of(serve.args(["--listen", "127.0.0.1:0"]));
    assert_eq!(ended.code(), 11, "{ended:?}");
    assert!(
        ended.err.contains(rig.source.to_str().unwrap()),
        "{ended:?}"
    );
    // That is the reason too where the second one wants the first one's port.
    let port = rig.engine().address.to_string();
    let words = [OsStr::new("serve"), rig.source.as_os_str()];
    let words = [&words[..], &[OsStr::new("--listen"), OsStr::new(&port)]].concat();
    refused(&words, 11, "is in use by another process");
    crate::books::Books::read(rig.engine().address).audit();
}

/// A socket's address has room for 107 bytes; a directory's path has not that limit.
#[test]
fn a_directory_with_a_long_path_works() {
    let Some(rig) = Rig::without_engine() else {
        return;
    };
    let long = rig.path(&"d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&long).unwrap();
    let engine = Engine::start(&long);
    crate::books::open_accounts(engine.address, 100);
    let point = rig.path(&"m".repeat(200));
    fs::create_dir(&point).unwrap();
    let mut mount = stillfs();
    crate::process::succeed(mount.arg("mount").arg(&long).arg(&point));
    copy(&point, &rig.path("copy"));
    assert_same_bytes(&point, &rig.path("copy"));
    assert_eq!(
        status(&long)["engines"][0]["pins"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    umount(&point);
    assert_eq!(
        status(&long)["engines"][0]["pins"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

/// What the server of a hostile socket says to whoever connects.
#[derive(Clone, Copy, Debug)]
enum Hostile {
    Garbage,
    HugeFrame,
    Zeros,
    HangsUp,
    Silent,
    Trickle,
}

impl Hostile {
    fn talk(self, mut client: UnixStream) {
        let _ = client.set_read_timeout(Some(Duration::from_millis(100)));
        let _ = client.read(&mut [0; 4096]);
        let _ = client.set_read_timeout(None);
        let say = |mut to: &UnixStream, bytes: &[u8]| to.write_all(bytes).is_ok();
        match self {
            Self::Garbage => drop(say(&client, b"-ERR this is no pin server\r\n")),
            Self::HugeFrame => drop(say(&client, &[0xff; 64])),
            Self::Zeros => while say(&client, &[0; 4096]) {},
            Self::HangsUp => return,
            Self::Silent => {}
            Self::Trickle => {
                // Of a frame of 100 bytes one at a time: each is progress, and the whole is none.
                let mut next = &[100, 0, 0, 0][..];
                while say(&client, next) {
                    next = b"x";
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
        // Until the client hangs up.
        let _ = client.read_to_end(&mut Vec::new());
    }

    /// Listens at the socket of `dir` as long as the test runs.
    fn serve(self, dir: &Path) {
        let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || self.talk(client));
            }
        });
    }
}

/// A socket that somebody else answers must not hang a backup job for ever.
#[test]
fn a_hostile_pin_server_is_an_error_and_no_hang() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    assert!(rig.take_engine().stop().success());
    thread::scope(|scope| {
        let rig = &rig;
        for (number, hostile) in [
            Hostile::Garbage,
            Hostile::HugeFrame,
            Hostile::Zeros,
            Hostile::HangsUp,
            Hostile::Silent,
            Hostile::Trickle,
        ]
        .into_iter()
        .enumerate()
        {
            let dir = rig.dir(&format!("h{number}"));
            let point = rig.dir(&format!("p{number}"));
            fs::copy(rig.source.join("data.pages"), dir.join("data.pages")).unwrap();
            hostile.serve(&dir);
            scope.spawn(move || {
                let words = [OsStr::new("mount"), dir.as_os_str(), point.as_os_str()];
                let said = refused(&words, 1, "stillfs: ");
                println!("{hostile:?}: {said}");
                assert!(!is_mounted(&point));
                let state = status(&dir)["engines"][0]["state"].clone();
                assert!(state.as_str().unwrap().starts_with("no answer"), "{state}");
            });
        }
    });
    assert_eq!(rig.records(), []);
}
