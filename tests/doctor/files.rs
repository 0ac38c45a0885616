//! The files of a source.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::consultation::{doctor_of, expect, expect_well, find, mend};
use crate::process::eventually;
use crate::rig::{Engine, Rig, copy, kill_daemon, mount_status};

/// Finding: unheld_index
#[test]
fn indexes_that_nobody_holds_are_told_from_those_in_use() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    assert_eq!(find(&doctor_of(&rig.source), "unheld_index", ""), None);
    rig.take_engine().kill();
    eventually("the daemon hears of it", || {
        mount_status(&mount)["state"] == "engine gone"
    });
    assert_eq!(rig.pin_files().len(), 1);
    assert_eq!(find(&doctor_of(&rig.source), "unheld_index", ""), None);
    kill_daemon(&mount);
    let found = doctor_of(&rig.source);
    let found = expect(&found, "unheld_index", ".pin", "warning", "nobody holds");
    mend(&found);
    assert_eq!(find(&doctor_of(&rig.source), "unheld_index", ""), None);
    rig.start();
    // Debris that only looks like a pin of the engine that runs.
    let debris = rig
        .source
        .join("shadow")
        .join(format!("{}.pin", "0f".repeat(16)));
    fs::write(&debris, "junk").unwrap();
    let found = doctor_of(&rig.source);
    mend(&expect(&found, "unheld_index", "0f0f", "warning", ""));
    assert!(!debris.exists());
    crate::books::Books::read(rig.engine().address).audit();
}

/// Finding: moved_page_file
#[test]
fn a_page_file_that_was_moved_is_found_and_can_be_put_back() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let data = rig.source.join("data.pages");
    let (aside, copied) = (rig.source.join("aside it's"), rig.path("copy"));
    fs::copy(&data, &copied).unwrap();
    expect_well(&doctor_of(&rig.source), "moved_page_file", "");
    fs::rename(&data, &aside).unwrap();
    fs::copy(&copied, &data).unwrap();
    let found = doctor_of(&rig.source);
    let found = expect(
        &found,
        "moved_page_file",
        "data.pages",
        "problem",
        "put the right one back",
    );
    mend(&found);
    assert!(!aside.exists());
    expect_well(&doctor_of(&rig.source), "moved_page_file", "");

    let mount = rig.mount("mnt", &[]);
    fs::remove_file(&data).unwrap();
    fs::copy(&copied, &data).unwrap();
    let found = doctor_of(&rig.source);
    expect(
        &found,
        "moved_page_file",
        "data.pages",
        "problem",
        "has no name any more",
    );
    rig.take_engine().kill();
    eventually("the daemon hears of it", || {
        mount_status(&mount)["state"] == "engine gone"
    });
    let found = doctor_of(&rig.source);
    expect(
        &found,
        "moved_page_file",
        "data.pages",
        "problem",
        "replaced under the pin",
    );
    kill_daemon(&mount);
    expect_well(&doctor_of(&rig.source), "moved_page_file", "");
}

/// Finding: foreign_segment
#[test]
fn a_segment_of_another_history_is_moved_aside_and_the_engine_starts() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let other = rig.dir("other");
    let engine = Engine::start(&other);
    crate::books::open_accounts(engine.address, 10);
    let segment = fs::read_dir(other.join("wal"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    rig.take_engine().kill();
    assert_eq!(find(&doctor_of(&rig.source), "foreign_segment", ""), None);
    let name = segment.file_name().unwrap().to_str().unwrap();
    let foreign = format!("f{}", &name[1..]);
    fs::copy(&segment, rig.source.join("wal").join(&foreign)).unwrap();
    let found = doctor_of(&rig.source);
    let found = expect(
        &found,
        "foreign_segment",
        &foreign,
        "problem",
        "another history",
    );
    mend(&found);
    assert_eq!(find(&doctor_of(&rig.source), "foreign_segment", ""), None);
    assert!(rig.source.join("wal-foreign").join(&foreign).exists());
    rig.start();
    crate::books::Books::read(rig.engine().address).audit();
}

/// Finding: page_file
#[test]
fn a_page_file_that_was_cut_is_a_problem_unless_the_log_may_have_the_rest() {
    let Some(mut rig) = Rig::with_fill(2000) else {
        return;
    };
    let cut_by = |dir: &Path, bytes: u64| {
        let data = fs::File::options().write(true).open(dir.join("data.pages"));
        let data = data.unwrap();
        data.set_len(data.metadata().unwrap().len() - bytes)
            .unwrap();
    };
    let id = "page_file";
    let crashed = rig.path("crashed");
    rig.take_engine().kill();
    copy(&rig.source, &crashed);
    assert_eq!(find(&doctor_of(&crashed), id, ""), None);
    rig.start();
    assert!(rig.take_engine().stop().success());
    assert_eq!(find(&doctor_of(&rig.source), id, ""), None);
    cut_by(&rig.source, 1);
    let found = doctor_of(&rig.source);
    expect(&found, id, "data.pages", "problem", "it was cut");
    // Its log has the last page too, and only a replay could tell.
    cut_by(&crashed, 1);
    assert_eq!(find(&doctor_of(&crashed), id, ""), None);
    fs::remove_dir_all(crashed.join("wal")).unwrap();
    expect(&doctor_of(&crashed), id, "", "problem", "it was cut");
}

/// Finding: header_copy
#[test]
fn one_bad_header_copy_is_a_warning_and_two_are_a_problem() {
    let Some(mut rig) = Rig::with_fill(10) else {
        return;
    };
    let id = "header_copy";
    expect(
        &doctor_of(&rig.source),
        id,
        "data.pages",
        "ok",
        "both header copies",
    );
    rig.take_engine().kill();
    for place in [100, 8192 + 100] {
        let data = fs::File::options()
            .write(true)
            .open(rig.source.join("data.pages"))
            .unwrap();
        data.write_all_at(b"torn", place).unwrap();
        let found = expect(&doctor_of(&rig.source), id, "", "warning", "one of the two");
        let remedy = found["remedy"].as_str().unwrap();
        assert_eq!(remedy, format!("stillfs serve {}", rig.source.display()));
        rig.start();
        expect(&doctor_of(&rig.source), id, "", "ok", "both header copies");
        assert!(rig.take_engine().stop().success());
    }
    let both = rig.path("both");
    copy(&rig.source, &both);
    let data = fs::File::options()
        .write(true)
        .open(both.join("data.pages"))
        .unwrap();
    data.write_all_at(b"torn", 100).unwrap();
    data.write_all_at(b"torn", 8192 + 100).unwrap();
    expect(
        &doctor_of(&both),
        id,
        "",
        "problem",
        "both header copies are damaged",
    );
    // A later version is no damage.
    data.write_all_at(&99_u32.to_le_bytes(), 40).unwrap();
    expect(&doctor_of(&both), id, "", "problem", "version 99");
}
