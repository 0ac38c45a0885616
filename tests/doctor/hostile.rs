//! Files that somebody made to hurt whoever looks: no hang, no panic, no flood.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::consultation::{doctor_of, find};
use crate::process::{end_of, stillfs};
use crate::rig::Rig;

/// Whatever a name leads to instead of the file that belongs there.
fn put_something_else(path: &Path, kind: usize) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
    match kind {
        0 => mkfifo(path, Mode::S_IRWXU).unwrap(),
        1 => symlink(path, path).unwrap(),
        2 => symlink("/dev/zero", path).unwrap(),
        3 => fs::create_dir(path).unwrap(),
        4 => fs::write(path, "").unwrap(),
        5 => fs::write(path, [0xff; 70_000]).unwrap(),
        _ => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
    }
}

#[test]
fn nothing_in_a_source_makes_the_look_fail() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    assert!(rig.take_engine().stop().success());
    for (number, name) in [
        "data.pages",
        "LOCK",
        "control.sock",
        "wal",
        "shadow",
        "shadow/00.pin",
    ]
    .iter()
    .enumerate()
    {
        for kind in 0..7 {
            let dir = rig.path(&format!("h{number}-{kind}"));
            crate::rig::copy(&rig.source, &dir);
            put_something_else(&dir.join(name), kind);
            let found = doctor_of(&dir);
            let is_recognised = find(&found, "source", "").unwrap()["level"] == "ok";
            assert!(
                is_recognised || *name == "data.pages",
                "{name} {kind}: {found:#?}"
            );
        }
    }
}

#[test]
fn hundreds_of_indexes_with_odd_names_are_a_short_report() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    assert!(rig.take_engine().stop().success());
    for number in 0..300_u16 {
        let name = format!("shadow/\x1b[2J\n{number}.pin");
        fs::write(rig.source.join(name), number.to_le_bytes().repeat(300)).unwrap();
    }
    let ended = end_of(stillfs().arg("doctor").arg(&rig.source));
    // What other tests have mounted is told of as well.
    let source = rig.source.to_string_lossy().into_owned();
    let told = ended.out.lines().filter(|line| line.contains(&source));
    assert!(told.count() < 60, "{}", ended.out);
    assert!(!ended.out.contains('\x1b'), "{}", ended.out);
    assert!(ended.out.contains("300 like this"), "{}", ended.out);
    let odd = rig.path("\x1b[31m\nok  \u{202e}x");
    let ended = end_of(stillfs().arg("doctor").arg(&odd));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(!ended.out.contains('\x1b'), "{ended:?}");
}
