//! A source: where it lies, who may use it, and its engine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use stillfs::pin::{Name, OnShadowFull, PinClient, PinRequest, WirePath};

use crate::consultation::{Namespace, doctor_of, expect, expect_well, find, mend, understood};
use crate::process::{eventually, signal, suspend};
use crate::rig::Rig;

/// A copy of the rig's database, with no engine.
fn stopped(rig: &mut Rig) -> String {
    assert!(rig.take_engine().stop().success());
    rig.source.to_str().unwrap().to_owned()
}

/// Finding: source
#[test]
fn what_is_no_database_is_told_with_the_way_to_make_one() {
    let Some(rig) = Rig::with_fill(10) else {
        return;
    };
    expect(
        &doctor_of(&rig.source),
        "source",
        "",
        "ok",
        "is a stillfs database",
    );
    let missing = rig.path("missing");
    expect(
        &doctor_of(&missing),
        "source",
        "missing",
        "problem",
        "does not exist",
    );
    let dir = rig.dir("empty");
    let found = expect(
        &doctor_of(&dir),
        "source",
        "empty",
        "problem",
        "is no database that stillfs knows",
    );
    let remedy = found["remedy"].as_str().unwrap();
    assert_eq!(remedy, format!("stillfs serve {}", dir.display()));
    drop(crate::rig::Engine::start(&dir));
    expect_well(&doctor_of(&dir), "source", "empty");
    // No engine takes it, so none is advised.
    fs::write(dir.join("data.pages"), "").unwrap();
    let found = doctor_of(&dir);
    let found = expect(&found, "source", "empty", "problem", "is no database");
    assert_eq!(found["remedy"], Value::Null);
}

/// What another user's database is cannot be told, and it is not called none.
///
/// Finding: source
#[test]
fn a_database_that_may_not_be_looked_at_is_told_with_the_reason() {
    let (Some(rig), Some(inside)) = (Rig::with_fill(10), Namespace::new()) else {
        return;
    };
    let source = rig.source.to_str().unwrap();
    inside.must(&format!(
        "cp -a {source} /run/d && cp \"$(command -v stillfs)\" /run/stillfs-of-all"
    ));
    let as_user = "setpriv --reuid 65534 --regid 65534 --clear-groups /run/stillfs-of-all";
    let found = understood(&inside.run(&format!("{as_user} doctor --json /run/d")));
    let found = expect(&found, "source", "/run/d", "problem", "Permission denied");
    assert_eq!(found["remedy"], Value::Null);
    let ended = inside.run(&format!("{as_user} run /run/d -- true"));
    assert_eq!(ended.code(), 125, "{ended:?}");
    assert!(ended.err.contains("Permission denied"), "{ended:?}");
}

/// The floor that counts is the one of the engine that runs.
///
/// Finding: free_space
#[test]
fn little_room_is_measured_by_the_floor_of_the_engine() {
    let Some(mut rig) = Rig::without_engine() else {
        return;
    };
    for (floor, level, text) in [
        ("1K", "ok", "1.0 KiB are kept"),
        ("512T", "warning", "less than the 512.0 TiB"),
    ] {
        rig.start_with(&["--free-space-floor", floor], Stdio::null());
        expect(&doctor_of(&rig.source), "free_space", "", level, text);
        assert!(rig.take_engine().stop().success());
    }
}

/// Finding: file_system
#[test]
fn a_file_system_of_another_process_is_refused() {
    let Some(rig) = Rig::with_fill(10) else {
        return;
    };
    expect(
        &doctor_of(&rig.source),
        "file_system",
        "",
        "ok",
        "local file system",
    );
    let mount = rig.mount("mnt", &[]);
    let Some(inside) = Namespace::keeping(&mount) else {
        return;
    };
    // The one FUSE file system that is at hand, below its own mount point.
    let script = format!("stillfs doctor --json {}/data.pages", mount.display());
    let found = understood(&inside.run(&script));
    expect(
        &found,
        "file_system",
        "data.pages",
        "problem",
        "lies on fuse",
    );
}

/// Finding: permission
#[test]
fn who_may_not_run_an_engine_is_told_why() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    expect(
        &doctor_of(&rig.source),
        "permission",
        "",
        "ok",
        "you may run an engine",
    );
    let Some(inside) = Namespace::new() else {
        return;
    };
    let source = stopped(&mut rig);
    inside.must(&format!("mount --bind -o ro {source} {source}"));
    let look = format!("stillfs doctor --json {source}");
    let found = understood(&inside.run(&look));
    let found = expect(&found, "permission", "", "problem", "Read-only");
    inside.mend(&found);
    expect_well(&understood(&inside.run(&look)), "permission", "");

    for dir in [rig.path(""), rig.source.clone()] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let program = rig.path("stillfs");
    fs::copy(env!("CARGO_BIN_EXE_stillfs"), &program).unwrap();
    let as_user = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {} doctor --json {source}",
        program.display()
    );
    fs::set_permissions(
        rig.source.join("data.pages"),
        PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let found = understood(&inside.run(&as_user));
    let mut found = expect(
        &found,
        "permission",
        "",
        "problem",
        "you cannot run an engine",
    );
    let remedy = found["remedy"].as_str().unwrap();
    found["remedy"] = remedy
        .replace("sudo ", "")
        .replace("$(id -u)", "65534")
        .into();
    mend(&found);
    expect_well(&understood(&inside.run(&as_user)), "permission", "");
}

/// Finding: free_space, reflink
#[test]
fn a_file_system_with_little_room_is_warned_of() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    expect(&doctor_of(&rig.source), "reflink", "", "ok", "share");
    let Some(inside) = Namespace::new() else {
        return;
    };
    let source = stopped(&mut rig);
    inside.must(&format!(
        "mkdir /run/small && mount -t tmpfs -o size=64m none /run/small && cp -a {source} /run/small/d"
    ));
    let look = "stillfs doctor --json /run/small/d";
    let found = understood(&inside.run(look));
    let found = expect(
        &found,
        "free_space",
        "/run/small/d",
        "warning",
        "less than the",
    );
    assert!(
        found["remedy"]
            .as_str()
            .unwrap()
            .starts_with("du -xah /run/small"),
        "{found}"
    );
    inside.mend(&found);
    inside.must("mount -o remount,size=64g /run/small");
    expect(
        &understood(&inside.run(look)),
        "free_space",
        "/run/small/d",
        "ok",
        "are free",
    );
}

/// Finding: free_space
///
/// What the engine that answers leaves free counts, and not what another would.
#[test]
fn the_floor_is_the_engines_own() {
    let Some(mut rig) = Rig::without_engine() else {
        return;
    };
    let floors = [("1", "ok", "1 B are kept"), ("1024T", "warning", "1.0 PiB")];
    for (floor, level, text) in floors {
        let options = ["--free-space-floor", floor];
        rig.start_with(&options, Stdio::null());
        expect(&doctor_of(&rig.source), "free_space", "", level, text);
        drop(rig.take_engine());
    }
}

/// Finding: engine, pin_server, stale_socket
#[test]
fn who_holds_the_directory_is_named_by_the_kernel() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let source = rig.source.clone();
    let found = doctor_of(&source);
    let engine = expect(&found, "engine", "", "ok", "is held by process");
    let message = engine["message"].as_str().unwrap();
    assert!(
        message.contains("stillfs serve"),
        "its command line: {engine}"
    );
    assert!(!message.contains("LOCK says"), "{engine}");
    expect(&found, "pin_server", "control.sock", "ok", "answers: up");
    // Whatever is written there, the lock is what counts.
    fs::write(source.join("LOCK"), "process 1\x1b[2J\n").unwrap();
    let engine = expect(
        &doctor_of(&source),
        "engine",
        "",
        "ok",
        "LOCK says: process 1",
    );
    assert!(!engine.to_string().contains('\x1b'), "{engine}");

    rig.take_engine().kill();
    let found = doctor_of(&source);
    expect(&found, "engine", "", "ok", "no engine runs");
    assert_eq!(find(&found, "pin_server", ""), None);
    let stale = expect(
        &found,
        "stale_socket",
        "control.sock",
        "warning",
        "engine that crashed",
    );
    mend(&stale);
    assert_eq!(find(&doctor_of(&source), "stale_socket", ""), None);
    rig.start();
    expect(
        &doctor_of(&source),
        "pin_server",
        "control.sock",
        "ok",
        "answers",
    );
    crate::books::Books::read(rig.engine().address).audit();
}

/// Finding: pin_server, engine
#[test]
fn a_pin_server_that_is_gone_or_silent_is_a_problem_and_no_hang() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let socket = rig.source.join("control.sock");
    fs::remove_file(&socket).unwrap();
    expect(
        &doctor_of(&rig.source),
        "pin_server",
        "",
        "problem",
        "nobody listens",
    );
    let engine = rig.take_engine();
    drop(engine);
    rig.start();
    fs::remove_file(&socket).unwrap();
    let _silent = UnixListener::bind(&socket).unwrap();
    let found = doctor_of(&rig.source);
    expect(&found, "pin_server", "", "problem", "");
    expect(&found, "engine", "", "ok", "is held by process");
    // Nothing was taken that keeps an engine from starting.
    rig.take_engine().kill();
    rig.start();
    expect(&doctor_of(&rig.source), "pin_server", "", "ok", "answers");
}

/// An engine that starts while somebody looks starts all the same.
///
/// Finding: engine
#[test]
fn looking_keeps_no_engine_from_starting() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let source = stopped(&mut rig);
    // It exits with 1 also for a mount of another test.
    let looks =
        format!("for n in $(seq 12); do stillfs doctor {source} >&2 || [ $? = 1 ] || exit 2; done");
    let program = Path::new(env!("CARGO_BIN_EXE_stillfs")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut looking = Command::new("bash")
        .args(["-c", &looks])
        .env("PATH", path)
        .spawn()
        .unwrap();
    for _ in 0..4 {
        rig.start();
        assert!(rig.take_engine().stop().success());
    }
    assert!(crate::process::wait(&mut looking, "looking").success());
}

/// Finding: pin
#[test]
fn pins_are_listed_with_their_holder_and_warned_of_before_they_end() {
    let Some(rig) = Rig::with_fill(10) else {
        return;
    };
    let socket = rig.source.join("control.sock");
    let take = |max_age_ms, holder: &str| {
        let request = PinRequest {
            max_age_ms,
            on_full: OnShadowFull::Break,
            shadow_limit_bytes: None,
            holder: Name::cut(holder),
            mount_point: WirePath::default(),
        };
        PinClient::connect(&socket, holder)
            .unwrap()
            .pin(&request)
            .unwrap()
    };
    let long = take(None, "nightly");
    let short = take(Some(300_000), "quick");
    let found = doctor_of(&rig.source);
    let subject = |pin: &stillfs::pin::ClientPin| pin.facts.pin_id.to_string();
    let me = format!("process {}", std::process::id());
    expect(&found, "pin", &subject(&long), "ok", "by nightly");
    expect(&found, "pin", &subject(&long), "ok", &me);
    expect(&found, "pin", &subject(&short), "warning", "ends in 4m");
    let released = subject(&short);
    short.lease.release().unwrap();
    assert_eq!(find(&doctor_of(&rig.source), "pin", &released), None);
    drop(long);
}

/// An engine under a stop signal takes connections and answers none. What it exits with says nothing of
/// this source: it looks at the mounts of the whole machine, and other tests break theirs meanwhile.
///
/// Finding: pin_server
#[test]
fn an_engine_that_is_stopped_does_not_hang_the_look() {
    let Some(rig) = Rig::with_fill(10) else {
        return;
    };
    let pid = rig.engine().pid();
    let held = format!("is held by process {pid} ");
    expect(&doctor_of(&rig.source), "engine", "", "ok", &held);
    suspend(pid);
    expect(&doctor_of(&rig.source), "pin_server", "", "problem", "");
    signal(pid, Signal::SIGCONT);
    eventually("it answers again", || {
        find(&doctor_of(&rig.source), "pin_server", "").unwrap()["level"] == "ok"
    });
}

/// A container has its own numbers of processes: there the holder has no name, and is there all the same.
///
/// Finding: engine, unheld_index
#[test]
fn a_holder_in_another_pid_namespace_is_seen_without_a_name() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let Some(inside) = Namespace::keeping(&mount) else {
        return;
    };
    let look = format!(
        "unshare --pid --fork --mount-proc stillfs doctor --json {}",
        rig.source.display()
    );
    let ended = inside.run(&look);
    if ended.err.starts_with("unshare:") {
        println!("SKIPPED: no pid namespace: {}", ended.err.trim());
        return;
    }
    let found = understood(&ended);
    expect(
        &found,
        "engine",
        "",
        "ok",
        "a process that is not seen from here",
    );
    expect(&found, "pin", "pin ", "ok", "stillfs mount");
    rig.take_engine().kill();
    let found = understood(&inside.run(&look));
    expect(&found, "engine", "", "ok", "no engine runs");
    assert_eq!(find(&found, "unheld_index", ""), None, "its daemon lives");
    drop(inside);
    crate::rig::umount(&mount);
}
