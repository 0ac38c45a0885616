//! A directory with databases of both engines, plain files and links.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use serde_json::json;

use crate::scene::{
    LoadedEngine, STEP, Scene, SqliteWriter, content, expect_sqlite, expect_whole, id, make_sqlite,
    number, python, sql,
};

/// An application directory at rest, without its databases.
fn make_plain(scene: &Scene) {
    let app = scene.at("app");
    fs::create_dir_all(app.join("sub/empty")).unwrap();
    fs::write(app.join("notes.txt"), "a plain file").unwrap();
    fs::set_permissions(app.join("notes.txt"), PermissionsExt::from_mode(0o640)).unwrap();
    fs::hard_link(app.join("notes.txt"), app.join("sub/same.txt")).unwrap();
    symlink("../nowhere", app.join("sub/link")).unwrap();
    fs::write(app.join("nothing"), "").unwrap();
    fs::write(app.join("zeros"), vec![0; 300_000]).unwrap();
    fs::write(
        app.join("blocks"),
        (0..200_000_u32)
            .map(|at| at.to_le_bytes()[0])
            .collect::<Vec<_>>(),
    )
    .unwrap();
    for old in ["sub/empty", "sub", ""] {
        let dir = fs::File::open(app.join(old)).unwrap();
        let time =
            std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_600_000_000_123_456_789);
        dir.set_modified(time).unwrap();
    }
}

/// Both engines at work, in one directory: each database comes back as one commit of its own.
#[test]
fn directory_with_running_databases_is_backed_up_and_restored() {
    let scene = Scene::new();
    fs::create_dir(scene.at("app")).unwrap();
    make_plain(&scene);
    let engine = LoadedEngine::start(&scene.at("app/engine"), 20);
    make_sqlite(&scene.at("app/wal.db"), "WAL");
    make_sqlite(&scene.at("app/sub/rollback.db"), "DELETE");
    sql(&scene.at("app/sub/rollback.db"), STEP);
    let mut writer = SqliteWriter::start(&scene.at("app/wal.db"));
    let full = scene.backup(&["app", "--repo", "repo"]);
    let databases = full["databases"].as_array().unwrap().iter();
    let mut databases: Vec<_> = databases.map(|one| (&one["path"], &one["kind"])).collect();
    databases.sort_by_key(|(path, _)| path.as_str());
    let expected = [
        (&json!("engine/data.pages"), &json!("stillfs")),
        (&json!("sub/rollback.db"), &json!("sqlite")),
        (&json!("wal.db"), &json!("sqlite")),
    ];
    assert_eq!(databases, expected);
    let next = scene.backup(&["app", "--repo", "repo"]);
    assert!(
        number(&next, "bytes_new") * 3 < number(&next, "bytes"),
        "{next}"
    );
    scene.fails(11, &["restore", "repo", "app", "--force"], &["in use"]);
    assert!(writer.is_running());
    drop(writer);
    engine.stop();
    let verified = scene.last(&["verify", "repo", "--read-data", "--restore-test", "--json"]);
    assert_eq!(
        verified["verified"].as_array().unwrap().len(),
        2,
        "{verified}"
    );
    scene.ok(&["restore", "repo", "back", "--backup", id(&full)]);
    scene.ok(&["check", "back/wal.db"]);
    let rows = expect_sqlite(&scene.at("back/wal.db"));
    assert!(rows >= 20);
    assert_eq!(expect_sqlite(&scene.at("back/sub/rollback.db")), 1);
    expect_whole(&scene.at("back/engine"), 20);
}

/// Names, kinds, modes, times, links and bytes, of a directory that nobody changes.
#[test]
fn directory_at_rest_comes_back_as_it_was() {
    let scene = Scene::new();
    make_plain(&scene);
    make_sqlite(&scene.at("app/a.db"), "DELETE");
    let app = fs::File::open(scene.at("app")).unwrap();
    app.set_modified(std::time::UNIX_EPOCH).unwrap();
    let facts = scene.backup(&["app", "--repo", "repo"]);
    assert_eq!(facts["left_out"], json!([]));
    let before = content(&scene.at("app"));
    scene.ok(&["restore", "repo", "back"]);
    assert_eq!(content(&scene.at("back")), before);
    // In place, over what is there.
    fs::write(scene.at("app/more"), "not in the backup").unwrap();
    fs::remove_file(scene.at("app/zeros")).unwrap();
    scene.ok(&["restore", "repo", "app", "--force", "--latest"]);
    assert_eq!(content(&scene.at("app")), before);
}

#[test]
fn what_is_excluded_too_large_or_the_repository_is_left_out_as_asked() {
    let scene = Scene::new();
    make_plain(&scene);
    make_sqlite(&scene.at("app/a.db"), "WAL");
    fs::create_dir(scene.at("app/cache")).unwrap();
    for file in ["a.log", "sub/b.log", "cache/c", "keep.txt"] {
        fs::write(scene.at("app").join(file), "x").unwrap();
    }
    let words = "backup app --repo app/sub/repo --exclude *.log --exclude /cache --max-size 250K";
    let words: Vec<&str> = words.split(' ').collect();
    // The second would find what the first stored.
    scene.ok(&words);
    let output = scene.run(&words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("the repository lies in the source, at sub/repo"),
        "{said}"
    );
    scene.fails(
        2,
        &["restore", "app/sub/repo", "app", "--force"],
        &["holds the repository"],
    );
    scene.fails(
        2,
        &["restore", "app/sub/repo", "app/sub/repo/x"],
        &["lies in the repository"],
    );
    scene.fails(
        2,
        &["backup", "app/sub/repo/packs", "--repo", "app/sub/repo"],
        &["lies in"],
    );
    scene.ok(&["restore", "app/sub/repo", "back"]);
    let names = content(&scene.at("back")).into_iter().map(|(path, _)| path);
    let names: Vec<String> = names
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    let expected = [
        "a.db",
        "blocks",
        "keep.txt",
        "notes.txt",
        "nothing",
        "sub",
        "sub/empty",
        "sub/link",
        "sub/same.txt",
    ];
    assert_eq!(names, expected);
}

/// Exit code 3, and its name: nobody takes such a backup for a whole one.
#[test]
fn database_that_cannot_be_pinned_is_named_and_told_by_the_exit_code() {
    let scene = Scene::new();
    make_plain(&scene);
    make_sqlite(&scene.at("app/a.db"), "WAL");
    make_sqlite(&scene.at("app/sub/locked.db"), "DELETE");
    let hold = "db.execute('BEGIN EXCLUSIVE')\nprint('held', flush=True)\nsys.stdin.read()";
    let mut holder = python(&scene.at("app/sub/locked.db"), hold)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    scene.fails(
        11,
        &["backup", "app", "--repo", "repo"],
        &["sub/locked.db", "--skip-unpinnable"],
    );
    let output = scene.run(&[
        "backup",
        "app",
        "--repo",
        "repo",
        "--skip-unpinnable",
        "--json",
    ]);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("the backup lacks 1 part of its source"),
        "{said}"
    );
    assert!(said.contains("left out sub/locked.db: "), "{said}");
    let summary = crate::scene::lines(&output).pop().unwrap();
    let left_out = &summary["backup"]["left_out"][0];
    assert_eq!(
        (&left_out["path"], &left_out["is_wanted"]),
        (&json!("sub/locked.db"), &json!(false))
    );
    let output = scene.run(&["restore", "repo", "back"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the backup itself lacks 1 part"), "{said}");
}
