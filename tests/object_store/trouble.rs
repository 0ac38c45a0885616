//! What is wrong with a store, its credentials or a clock is told, each by its exit code, and loses nothing.

use std::process::Output;

use crate::bucket::{Bucket, REPO};
use crate::http::Answer;
use crate::proxy::Act;
use crate::rig::expect_problem;
use crate::scene::names;

/// The library that moves the clock of a program, if it is there. Says SKIPPED if not.
pub(crate) fn faketime() -> Option<String> {
    let pattern = "/usr/lib/*/faketime/libfaketimeMT.so.1";
    let found = glob::glob(pattern).unwrap().flatten().next();
    if found.is_none() {
        println!("SKIPPED: no {pattern}: run scripts/prepare");
    }
    found.map(|path| path.to_str().unwrap().to_owned())
}

/// With a repository in it, which has one backup.
fn bucket() -> Option<(Bucket, String)> {
    let bucket = Bucket::new()?;
    bucket.make_app(1);
    let id = bucket.backup();
    bucket.step();
    Some((bucket, id))
}

const COMMANDS: [&[&str]; 5] = [
    &["backup", "app.db", "--repo", REPO],
    &["backups", REPO],
    &["verify", REPO],
    &["restore", REPO, "none"],
    &["forget", REPO, "--keep-last", "1", "--prune"],
];

fn run(bucket: &Bucket, words: &[&str], more: &[(&str, &str)]) -> Output {
    let mut command = bucket.scene.command(words);
    for (name, value) in more {
        match *value {
            "" => command.env_remove(name),
            value => command.env(name, value),
        };
    }
    command.output().unwrap()
}

/// Nothing was made of what could not be done, and what was there is whole.
fn expect_whole(bucket: &Bucket, id: &str) {
    bucket.proxy.pass();
    assert_eq!(bucket.backups(), [id]);
    assert!(!bucket.scene.at("none").exists());
    bucket.verify();
    bucket.expect_rows(id, 1);
}

#[test]
fn wrong_credentials_and_clocks_are_told() {
    let Some((bucket, id)) = bucket() else { return };
    let wrong = "other-secret";
    for words in COMMANDS {
        for (more, parts) in [
            (
                &[("AWS_SECRET_ACCESS_KEY", wrong)][..],
                ["credentials", "AWS_SECRET_ACCESS_KEY"],
            ),
            (
                &[("AWS_ACCESS_KEY_ID", "NOBODY")],
                ["credentials", "AWS_ACCESS_KEY_ID"],
            ),
            (
                &[("AWS_SECRET_ACCESS_KEY", "")],
                ["AWS_SECRET_ACCESS_KEY", "is not set"],
            ),
            (
                &[("AWS_ACCESS_KEY_ID", "")],
                ["AWS_ACCESS_KEY_ID", "is not set"],
            ),
        ] {
            let output = run(&bucket, words, more);
            expect_problem(&output, 15, &parts);
            let told = format!("{output:?}");
            assert!(!told.contains(wrong), "a secret is told: {told}");
        }
    }
    let Some(library) = faketime() else { return };
    for offset in ["+1h", "-1h"] {
        let fake = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        for words in COMMANDS {
            expect_problem(&run(&bucket, words, &fake), 15, &["clock"]);
        }
    }
    expect_whole(&bucket, &id);
}

#[test]
fn bucket_that_is_not_there_is_told() {
    let Some((bucket, id)) = bucket() else { return };
    for words in COMMANDS {
        let words: Vec<&str> = words
            .iter()
            .map(|word| {
                if *word == REPO {
                    "s3://nobody/repo"
                } else {
                    *word
                }
            })
            .collect();
        bucket
            .scene
            .fails(10, &words, &["s3://nobody/repo", "bucket"]);
        let words: Vec<&str> = words
            .iter()
            .map(|word| {
                if word.starts_with("s3:") {
                    "s3://bucket/none"
                } else {
                    *word
                }
            })
            .collect();
        if words[0] != "backup" {
            bucket.scene.fails(10, &words, &["s3://bucket/none"]);
        }
    }
    assert_eq!(names(&bucket.scene.at("server/bucket")), ["some"]);
    for wrong in ["s3://", "s3://bucket/../x", "gs://bucket/x"] {
        bucket
            .scene
            .fails(2, &["backups", wrong], &["s3://BUCKET/PREFIX"]);
    }
    expect_whole(&bucket, &id);
}

/// A full store, as each of the kinds that there are says it.
#[test]
fn full_store_fails_a_backup_and_loses_none() {
    let Some((bucket, id)) = bucket() else { return };
    for (status, code) in [
        ("507 Insufficient Storage", "XMinioStorageFull"),
        ("403 Forbidden", "QuotaExceeded"),
        ("507 Insufficient Storage", "InsufficientStorage"),
    ] {
        bucket.proxy.plan(move |request| {
            let is_content = request.body_bytes > 300 && request.method == "PUT";
            match is_content {
                true => Act::Answer(Answer::error(status, code)),
                false => Act::Pass,
            }
        });
        bucket.scene.fails(1, COMMANDS[0], &["no room", code]);
        expect_whole(&bucket, &id);
    }
}

/// The server goes in the middle, comes back, and has all that it had.
#[test]
fn server_that_goes_is_told_and_one_that_comes_back_is_used() {
    let Some((mut bucket, id)) = bucket() else {
        return;
    };
    bucket.server.kill();
    for words in [COMMANDS[0], COMMANDS[3]] {
        bucket.scene.fails(15, words, &["cannot be reached"]);
    }
    let nobody = format!("http://{}", bucket.server.address);
    let output = run(&bucket, COMMANDS[1], &[("AWS_ENDPOINT_URL", &nobody)]);
    expect_problem(&output, 15, &["cannot be reached"]);
    bucket.server.start_again();
    expect_whole(&bucket, &id);
    let busy = [
        "503 Service Unavailable",
        "500 Internal Server Error",
        "429 Too Many Requests",
    ];
    bucket.proxy.plan(move |request| match request.number % 7 {
        0 => {
            let status = busy[request.number / 7 % busy.len()];
            Act::Answer(Answer::error(status, "SlowDown"))
        }
        _ => Act::Pass,
    });
    let next = bucket.backup();
    bucket.verify();
    bucket.expect_rows(&next, 2);
}

fn html(_: Answer) -> Answer {
    Answer::new(
        "200 OK",
        "text/html",
        "<html><body>Welcome to the hotel</body></html>",
    )
}

fn half(mut answer: Answer) -> Answer {
    answer.body.truncate(answer.body.len() / 2);
    let bytes = answer.body.len().to_string();
    match answer.head.to_ascii_lowercase().contains("content-length") {
        true => answer.with_field("content-length", &bytes),
        false => answer,
    }
}

fn long(mut answer: Answer) -> Answer {
    let bytes = answer.body.len() + 1000;
    if answer.head.to_ascii_lowercase().contains("content-length") {
        answer = answer.with_field("content-length", &bytes.to_string());
    }
    answer
}

fn other_range(answer: Answer) -> Answer {
    match answer.head.to_ascii_lowercase().contains("content-range") {
        true => answer.with_field("content-range", "bytes 7-70/71"),
        false => answer,
    }
}

/// As many bytes as were asked for, of somewhere else.
fn other_bytes(mut answer: Answer) -> Answer {
    if answer.status() < 300 {
        let most = answer.body.len().min(1);
        answer.body.rotate_left(most);
    }
    answer
}

fn garbage(mut answer: Answer) -> Answer {
    answer.head = "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned();
    answer.body.clear();
    answer
}

/// OS3: whatever answers instead of a store, no command believes it, and none says that all is well.
#[test]
fn rubbish_for_an_answer_is_told_and_believed_by_nobody() {
    let Some((bucket, id)) = bucket() else { return };
    let verify: &[&str] = &["verify", REPO, "--read-data"];
    type Rubbish = (
        &'static str,
        fn(Answer) -> Answer,
        [&'static [&'static str]; 2],
    );
    let rubbish: [Rubbish; 6] = [
        ("html", html, [COMMANDS[0], verify]),
        ("half", half, [COMMANDS[3], verify]),
        ("long", long, [COMMANDS[0], COMMANDS[3]]),
        ("other range", other_range, [COMMANDS[3], verify]),
        ("other bytes", other_bytes, [COMMANDS[3], verify]),
        ("garbage", garbage, [COMMANDS[1], COMMANDS[0]]),
    ];
    for (name, change, commands) in rubbish {
        bucket
            .proxy
            .plan(move |request| match request.method.as_str() {
                "GET" => Act::Alter(change),
                _ => Act::Pass,
            });
        for words in commands {
            let output = run(&bucket, words, &[]);
            let exit = output.status.code();
            let said = String::from_utf8_lossy(&output.stderr);
            let is_told = exit.is_some_and(|exit| [1, 10, 12, 15].contains(&exit));
            assert!(
                is_told && !said.contains("panicked"),
                "{name} {words:?}: {output:?}"
            );
            assert!(!said.is_empty(), "{name} {words:?}: {output:?}");
        }
        bucket.proxy.pass();
        assert_eq!(bucket.backups(), [id.as_str()], "{name}");
    }
    expect_whole(&bucket, &id);
}
