//! A bucket does what a folder does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::bucket::{Bucket, REPO};
use crate::rig::Served;
use crate::scene::{STEP, Scene, content, expect_sqlite, id, make_sqlite, names, sql};

/// A directory with a database and a plain file, and what of it must come back to the byte.
fn make_app(scene: &Scene) {
    fs::create_dir(scene.at("app")).unwrap();
    make_sqlite(&scene.at("app/app.db"), "WAL");
    change(scene, "first");
}

fn change(scene: &Scene, text: &str) {
    sql(&scene.at("app/app.db"), STEP);
    fs::create_dir_all(scene.at("app/files")).unwrap();
    fs::write(scene.at("app/files/notes"), text.repeat(1000)).unwrap();
}

#[track_caller]
fn expect_back(scene: &Scene, name: &str, rows: u64, text: &str) {
    assert_eq!(expect_sqlite(&scene.at(&format!("{name}/app.db"))), rows);
    let notes = fs::read_to_string(scene.at(&format!("{name}/files/notes")));
    assert_eq!(notes.unwrap(), text.repeat(1000));
}

/// From the first backup to the copies, each compared with what the source was.
#[test]
fn backups_go_to_a_bucket_and_come_back() {
    let Some(bucket) = Bucket::new() else { return };
    let scene = &bucket.scene;
    make_app(scene);
    let first = scene.backup(&["app", "--repo", REPO]);
    let packs = names(&bucket.folder().join("packs"));
    change(scene, "second");
    let now = content(&scene.at("app/files"));
    let second = scene.backup(&["app", "--repo", REPO]);
    assert_eq!(
        (&first["kind"], &second["kind"]),
        (&json!("full"), &json!("incremental"))
    );
    assert_eq!(bucket.backups(), [id(&first), id(&second)]);

    let verified = scene.last(&["verify", REPO, "--read-data", "--json"]);
    assert_eq!(verified["verified"], json!([id(&first), id(&second)]));
    scene.ok(&["restore", REPO, "back"]);
    expect_back(scene, "back", 2, "second");
    assert_eq!(content(&scene.at("back/files")), now);
    scene.ok(&["restore", REPO, "old", "--backup", id(&first)]);
    expect_back(scene, "old", 1, "first");

    // Out of the bucket, into another, and the bucket's own objects as a folder.
    scene.ok(&["copy", REPO, "folder"]);
    scene.ok(&["copy", "folder", "s3://bucket/other"]);
    scene.ok(&["copy", REPO, "s3://second"]);
    let mirror = bucket.folder();
    for place in [
        "folder",
        "s3://bucket/other",
        "s3://second",
        mirror.to_str().unwrap(),
    ] {
        let said = scene.ok(&["verify", place, "--read-data"]);
        assert!(said.contains("ok: 2 backups verified"), "{place}: {said}");
        let words = ["restore", place, "again", "--latest", "--force"];
        scene.ok(&words);
        expect_back(scene, "again", 2, "second");
    }

    scene.ok(&["hold", REPO, id(&second)]);
    scene.ok(&["forget", REPO, id(&first), "--prune"]);
    assert_eq!(bucket.backups(), [id(&second)]);
    assert_ne!(names(&bucket.folder().join("packs")), packs);
    bucket.verify();
    scene.ok(&["restore", REPO, "back", "--force"]);
    expect_back(scene, "back", 2, "second");
    scene.fails(
        1,
        &["restore", REPO, "none", "--backup", id(&first)],
        &[id(&first)],
    );
}

/// What watches over backups knows those in buckets, and a configuration may name one.
#[test]
fn bucket_is_watched_as_a_folder_is() {
    let Some(bucket) = Bucket::new() else { return };
    let scene = &bucket.scene;
    bucket.make_app(0);
    let entry = format!(
        "[[backup]]\nname = \"app\"\nsource = \"{}\"\nrepo = \"{REPO}\"\n\
         keep = {{ last = 1 }}\n",
        scene.at("app.db").display()
    );
    fs::write(scene.at("config.toml"), entry).unwrap();
    for rows in 1..3 {
        bucket.step();
        scene.ok(&["scheduled", "--config", "config.toml"]);
        let kept = bucket.backups();
        assert_eq!(kept.len(), 1, "{kept:?}");
        bucket.expect_rows(&kept[0], rows);
    }
    let status = scene.object(&["status", "--repo", REPO, "--json"]);
    assert!(status.to_string().contains(REPO), "{status}");
    let metrics = scene.ok(&["metrics", "--repo", REPO]);
    assert!(metrics.contains(REPO), "{metrics}");
    let success = "stillfs_backup_last_success_timestamp_seconds{";
    assert!(metrics.contains(success), "{metrics}");
    assert_ne!(names(&bucket.folder().join("audit")), [""; 0]);
}

/// CR1: nothing in the clear, and no way in without the key.
#[test]
fn encrypted_repository_lives_in_a_bucket() {
    const KEY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    const HOLDER: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let Some(mut bucket) = Bucket::new() else {
        return;
    };
    let key = bucket.scene.at("key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    bucket.make_app(1);
    bucket.scene.ok(&["init", REPO, "--to", HOLDER]);
    let none = ["backup", "app.db", "--repo", REPO];
    bucket.scene.fails(14, &none, &["encrypted"]);
    bucket.scene.set("STILLFS_KEY_FILE", "key");
    let first = bucket.backup();
    bucket.step();
    let second = bucket.backup();
    bucket.scene.ok(&["key", "rotate", REPO]);
    bucket.step();
    let third = bucket.backup();
    bucket.scene.ok(&["forget", REPO, &second, "--prune"]);
    bucket.verify();
    bucket.expect_rows(&first, 1);
    bucket.expect_rows(&third, 3);
    let everything = format!("{:?}", content(&bucket.scene.at("server")));
    for word in [first.as_str(), "app.db", "SQLite format", "CREATE TABLE"] {
        assert!(!everything.contains(word), "{word} is in the bucket");
    }
}

/// BK13: the log goes to the bucket, and any moment comes back.
#[test]
fn points_in_time_come_back_from_a_bucket() {
    let Some(bucket) = Bucket::new() else { return };
    let scene = &bucket.scene;
    let served = Served::start(&scene.at("live"));
    let mut client = served.connect();
    scene.ok(&["archive", "live", "--repo", REPO]);
    scene.backup(&["live", "--repo", REPO]);
    let mut moments = Vec::new();
    for value in 0..4_u8 {
        for number in 0..4_u8 {
            client.set(&[b'k', number, value % 3], &[value; 400]);
        }
        sleep(Duration::from_millis(3));
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
        sleep(Duration::from_millis(3));
        moments.push((now.to_string(), scene.digest("live")));
        scene.ok(&["archive", "live", "--repo", REPO]);
    }
    // Of the last one nobody knows that no other came before it.
    for (at, (time, digest)) in moments.iter().enumerate().take(3) {
        let name = format!("at{at}");
        scene.ok(&["restore", REPO, &name, "--to-time", time]);
        assert_eq!(scene.digest(&name), *digest, "{time}");
    }
    bucket.verify();
    assert_eq!(served.stop(), 0);
}
