//! Lines that are slow, and lines that end in the middle of an object.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::bucket::{Bucket, REPO};
use crate::http::Request;
use crate::proxy::{Act, Pace};
use crate::scene::{expect_sqlite, names};

const FULL: [&str; 7] = [
    "app.db",
    "--type",
    "full",
    "--compress",
    "none",
    "--repo",
    REPO,
];

fn is_pack(request: &Request, method: &str) -> bool {
    request.method == method && request.path().contains("/packs/")
}

/// OS6: far away, and over a line on which a pack takes longer than a lock lives: everything takes its time.
#[test]
fn slow_lines_take_longer_and_change_nothing() {
    let Some(bucket) = Bucket::new() else { return };
    bucket.make_app(1);
    bucket.proxy.slow_down(Pace {
        delay: Duration::from_millis(60),
        bytes_per_second: None,
    });
    let first = bucket.backup();
    bucket.expect_rows(&first, 1);
    bucket.proxy.slow_down(Pace {
        delay: Duration::ZERO,
        bytes_per_second: Some(700_000),
    });
    bucket.step();
    bucket.scene.ok(&[
        &["backup", "app.db", "--repo", "s3://bucket/slow"][..],
        &FULL[1..5],
    ]
    .concat());
    let renewals = bucket.proxy.seen();
    let renewals = renewals
        .iter()
        .filter(|request| request.method == "PUT" && request.path().ends_with("/LOCK"));
    assert!(renewals.count() > 2, "the lock was not renewed");
    bucket.scene.ok(&["restore", "s3://bucket/slow", "back.db"]);
    assert_eq!(expect_sqlite(&bucket.scene.at("back.db")), 2);
}

/// OS2, OS3: what is cut off once is sent or asked for again, and is whole.
#[test]
fn connections_that_end_in_an_object_are_made_again() {
    let Some(bucket) = Bucket::new() else { return };
    bucket.make_app(1);
    for bytes in [0, 40_000, usize::MAX] {
        let (sent, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        bucket.proxy.plan(move |request| {
            if is_pack(request, "PUT") && sent.fetch_add(1, Ordering::SeqCst) < 1 {
                return Act::CutBody(bytes);
            }
            let is_read = is_pack(request, "GET") && asked.fetch_add(1, Ordering::SeqCst) < 2;
            if is_read {
                Act::CutAnswer(bytes)
            } else {
                Act::Pass
            }
        });
        bucket.scene.backup(&FULL);
        bucket.verify();
        let cut = bucket.proxy.seen();
        assert!(cut.iter().filter(|request| is_pack(request, "GET")).count() > 2);
        bucket
            .scene
            .ok(&["restore", REPO, "back.db", "--force", "--latest"]);
        assert_eq!(expect_sqlite(&bucket.scene.at("back.db")), 1);
    }
}

/// OS2, OS3: what is cut off always fails; there is no short object then, and no short file.
#[test]
fn lines_that_always_end_in_an_object_give_none() {
    let Some(bucket) = Bucket::new() else { return };
    bucket.make_app(1);
    bucket.proxy.plan(|request| match is_pack(request, "PUT") {
        true => Act::CutBody(300_000),
        false => Act::Pass,
    });
    let words = [&["backup"], &FULL[..]].concat();
    bucket.scene.fails(15, &words, &["packs/", "times"]);
    let packs = bucket.folder().join("packs");
    assert!(!packs.exists() || names(&packs).is_empty());
    bucket.proxy.pass();
    assert_eq!(bucket.backups(), [""; 0]);
    let whole = bucket.backup();
    bucket.proxy.plan(|request| match is_pack(request, "GET") {
        true => Act::CutAnswer(50_000),
        false => Act::Pass,
    });
    let before = names(&bucket.scene.at(""));
    bucket
        .scene
        .fails(15, &["restore", REPO, "back.db"], &["packs/"]);
    assert!(!bucket.scene.at("back.db").exists(), "{before:?}");
    bucket
        .scene
        .fails(15, &["verify", REPO, "--read-data"], &["packs/"]);
    bucket.proxy.pass();
    bucket.verify();
    bucket.expect_rows(&whole, 1);
}
