//! An SQLite file with its application at work.

use std::fs;

use crate::scene::{
    STEP, Scene, SqliteWriter, content, expect_sqlite, id, make_sqlite, names, number, python, sql,
};

#[test]
fn live_file_is_backed_up_under_load_and_restored_elsewhere() {
    let scene = Scene::new();
    let path = scene.at("app.db");
    make_sqlite(&path, "WAL");
    let mut writer = SqliteWriter::start(&path);
    let full = scene.backup(&["app.db", "--repo", "repo"]);
    assert_eq!(full["databases"][0]["kind"], "sqlite");
    let next = scene.backup(&["app.db", "--repo", "repo"]);
    assert_eq!(
        (&next["kind"], &next["parent"]),
        (&"incremental".into(), &full["id"])
    );
    assert!(
        number(&next, "bytes_new") * 4 < number(&next, "bytes"),
        "{next}"
    );
    let verified = scene.last(&["verify", "repo", "--read-data", "--restore-test", "--json"]);
    assert_eq!(
        verified["verified"].as_array().unwrap().len(),
        2,
        "{verified}"
    );
    // Whoever has it open keeps a restore out.
    let refused = ["restore", "repo", "app.db", "--force"];
    scene.fails(11, &refused, &["app.db is in use by process", "python3"]);
    assert!(writer.is_running());
    drop(writer);
    let now = expect_sqlite(&path);
    scene.ok(&["restore", "repo", "one.db", "--backup", id(&full)]);
    scene.ok(&["restore", "repo", "sub.db"]);
    let (first, second) = (
        expect_sqlite(&scene.at("one.db")),
        expect_sqlite(&scene.at("sub.db")),
    );
    assert!(
        20 <= first && first < second && second <= now,
        "{first} {second} {now}"
    );
}

/// BK9: the log of a crashed application must not be played into the restored file.
#[test]
fn restore_over_a_stopped_file_leaves_no_log_beside_it() {
    let scene = Scene::new();
    let path = scene.at("app.db");
    make_sqlite(&path, "WAL");
    sql(&path, STEP);
    scene.backup(&["app.db", "--repo", "repo"]);
    let dump = "print(*db.iterdump(), sep='\\n')";
    let pinned = sql(&path, dump);
    // One that is killed leaves its log.
    let crash = format!("import os\n{}os.kill(os.getpid(), 9)", STEP.repeat(5));
    assert!(!python(&path, &crash).status().unwrap().success());
    assert!(fs::metadata(scene.at("app.db-wal")).unwrap().len() > 0);
    scene.fails(1, &["restore", "repo", "app.db"], &["--force replaces it"]);
    scene.ok(&["restore", "repo", "app.db", "--force"]);
    assert_eq!(names(&scene.at("")), ["app.db", "repo"]);
    assert_eq!(sql(&path, dump), pinned);
    assert_eq!(expect_sqlite(&path), 1);
}

/// A connection in a rollback mode that does nothing holds no lock, and is in the way all the same.
#[test]
fn idle_connection_in_rollback_mode_keeps_a_restore_out() {
    let scene = Scene::new();
    let path = scene.at("app.db");
    make_sqlite(&path, "DELETE");
    sql(&path, STEP);
    scene.backup(&["app.db", "--repo", "repo", "--compress", "none"]);
    let idle =
        "db.execute('SELECT * FROM n').fetchall()\nprint('open', flush=True)\nsys.stdin.read()";
    let mut idle = python(&path, idle)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(idle.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let before = content(&scene.at(""));
    scene.fails(
        11,
        &["restore", "repo", "app.db", "--force"],
        &["in use by process"],
    );
    assert_eq!(content(&scene.at("")), before);
    drop(idle.stdin.take());
    idle.wait().unwrap();
    scene.ok(&["restore", "repo", "app.db", "--force"]);
    assert_eq!(expect_sqlite(&path), 1);
}

/// The directory is no place for a file: what is in it stays.
#[test]
fn file_is_not_restored_over_a_directory() {
    let scene = Scene::new();
    make_sqlite(&scene.at("app.db"), "WAL");
    scene.backup(&["app.db", "--repo", "repo"]);
    fs::create_dir(scene.at("dir")).unwrap();
    fs::write(scene.at("dir/file"), "a").unwrap();
    scene.fails(2, &["restore", "repo", "dir", "--force"], &["dir"]);
    assert_eq!(names(&scene.at("dir")), ["file"]);
}
