//! A served database that a backup takes the place of, and the views of it.

use std::fs;
use std::process::Stdio;

use crate::process::{eventually, stillfs, succeed};
use crate::resp::{Client, Value};
use crate::restart::digest;
use crate::rig::{Engine, Rig, copy, umount};

fn say(client: &mut Client, text: &str) -> std::io::Result<Value> {
    client.command(&text.split(' ').collect::<Vec<_>>())
}

/// Waits for a job that must succeed.
fn done(client: &mut Client) {
    let mut last = Vec::new();
    eventually("the job is over", || {
        last = say(client, "BACKUP STATUS").unwrap().list();
        let state = last[5].clone().bytes();
        !["running", "finishing"].contains(&&*String::from_utf8_lossy(&state))
    });
    assert_eq!(last[5], Value::Bytes(Some(b"done".to_vec())), "{last:?}");
}

/// EX5: a view from before keeps a restore in place out, and stays right; one from after it shows what was
/// restored, also while that is written to.
#[test]
fn mounts_and_a_restore_in_place_keep_each_other_apart() {
    let Some(mut rig) = Rig::without_engine() else {
        return;
    };
    let root = rig.dir("root");
    rig.start_with(&["--backup-root", root.to_str().unwrap()], Stdio::inherit());
    let mut client = rig.engine().client();
    for number in 0..500 {
        say(
            &mut client,
            &format!("SET key{number} {}", "v".repeat(1000)),
        )
        .unwrap();
    }
    say(&mut client, "BACKUP DATABASE TO app").unwrap();
    done(&mut client);
    say(&mut client, "SET state later").unwrap();
    let mount = rig.mount("mnt", &[]);
    let before = digest(&mount);
    let refused = say(&mut client, "RESTORE DATABASE FROM app").unwrap_err();
    assert!(
        refused.to_string().contains("BUSY the database has 1 pin"),
        "{refused}"
    );
    assert_eq!(digest(&mount), before);
    umount(&mount);
    rig.engine().wait_unpinned();

    say(&mut client, "RESTORE DATABASE FROM app").unwrap();
    done(&mut client);
    assert_eq!(say(&mut client, "GET state").unwrap(), Value::Bytes(None));
    rig.mount_on(&mount, &["-o", "direct_io"]);
    for number in 0..500 {
        say(
            &mut client,
            &format!("SET key{number} {}", "w".repeat(1000)),
        )
        .unwrap();
    }
    say(&mut client, "CHECKPOINT").unwrap();
    copy(&mount, &rig.path("copy"));
    succeed(stillfs().arg("check").arg(rig.path("copy")));
    umount(&mount);
    rig.assert_nothing_left(&[]);
    let copied = Engine::start(&rig.path("copy"));
    let mut reader = copied.client();
    assert_eq!(say(&mut reader, "DBSIZE").unwrap(), Value::Integer(500));
    for number in 0..500 {
        let value = say(&mut reader, &format!("GET key{number}"))
            .unwrap()
            .bytes();
        assert!(value == vec![b'v'; 1000], "key{number}");
    }
    assert!(!fs::exists(rig.source.join(".stillfs-restoring")).unwrap());
}
