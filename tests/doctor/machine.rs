//! The machine.

use crate::consultation::{Namespace, expect, expect_well, find};
use crate::rig::Rig;

/// Words before a command that make it that of an ordinary user; the program is copied to where that
/// user may run it.
const AS_USER: &str = "mkdir -p /run/bin && cp $(command -v stillfs) /run/bin && chmod -R a+rx /run/bin \
     && PATH=/run/bin:$PATH setpriv --reuid 65534 --regid 65534 --clear-groups";

/// Finding: fuse_device
#[test]
fn a_device_that_is_not_there_foreign_or_denied_is_told_apart() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    expect(
        &inside.doctor(""),
        "fuse_device",
        "/dev/fuse",
        "ok",
        "can be opened",
    );

    inside.must("mount --bind /dev/null /dev/fuse");
    let found = expect(
        &inside.doctor(""),
        "fuse_device",
        "",
        "problem",
        "is not the FUSE device",
    );
    inside.mend(&found);
    expect_well(&inside.doctor(""), "fuse_device", "");

    inside.must("mknod -m 600 /run/fuse c 10 229 && mount --bind /run/fuse /dev/fuse");
    let found = expect(
        &inside.doctor(AS_USER),
        "fuse_device",
        "",
        "problem",
        "cannot be opened",
    );
    inside.mend(&found);
    expect_well(&inside.doctor(AS_USER), "fuse_device", "");

    inside.must("mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3");
    let found = expect(
        &inside.doctor(""),
        "fuse_device",
        "",
        "problem",
        "is missing",
    );
    assert_eq!(found["remedy"], "modprobe fuse");
}

/// Finding: fuse_helper
#[test]
fn a_helper_that_cannot_mount_matters_to_ordinary_users_only() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    let nowhere = "stillfs=$(command -v stillfs); stillfs() { PATH=/nowhere $stillfs \"$@\"; };";
    expect(
        &inside.doctor(nowhere),
        "fuse_helper",
        "",
        "warning",
        "was not found",
    );

    inside.must("mkdir /run/helper && cp $(command -v sleep) /run/helper/fusermount3");
    let root = "PATH=/run/helper:$PATH";
    let user = AS_USER.replace("PATH=/run/bin", "PATH=/run/helper:/run/bin");
    expect(
        &inside.doctor(root),
        "fuse_helper",
        "",
        "warning",
        "does not run as root",
    );
    let found = expect(
        &inside.doctor(&user),
        "fuse_helper",
        "",
        "problem",
        "you cannot mount",
    );
    inside.mend(&found);
    expect_well(
        &inside.doctor(root),
        "fuse_helper",
        "/run/helper/fusermount3",
    );
    expect_well(
        &inside.doctor(&user),
        "fuse_helper",
        "/run/helper/fusermount3",
    );
}

/// Finding: allow_other
#[test]
fn allow_other_needs_a_line_of_its_own() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    inside.must("echo '#user_allow_other' > /run/conf && mount --bind /run/conf /etc/fuse.conf");
    expect(
        &inside.doctor(""),
        "allow_other",
        "/etc/fuse.conf",
        "ok",
        "only root",
    );
    let mut found = expect(
        &inside.doctor(AS_USER),
        "allow_other",
        "",
        "warning",
        "you cannot",
    );
    found["remedy"] = found["remedy"]
        .as_str()
        .unwrap()
        .replace("sudo ", "")
        .into();
    inside.mend(&found);
    expect(
        &inside.doctor(AS_USER),
        "allow_other",
        "",
        "ok",
        "ordinary users may",
    );
}

/// Finding: open_files
#[test]
fn a_low_limit_of_open_files_is_told_of() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    let low = "ulimit -Sn 256;";
    let found = expect(
        &inside.doctor(low),
        "open_files",
        "",
        "warning",
        "256 open files, where",
    );
    let remedy = found["remedy"].as_str().unwrap();
    expect_well(
        &inside.doctor(&format!("{low} {remedy};")),
        "open_files",
        "",
    );

    let lowest = "ulimit -n 256;";
    let found = expect(
        &inside.doctor(lowest),
        "open_files",
        "",
        "warning",
        "at most 256",
    );
    let remedy = found["remedy"].as_str().unwrap();
    // What root is told need not be within this one's power, but it must be what would mend it.
    let raised = inside.run(&format!("{lowest} {remedy}"));
    if raised.code() == 0 {
        let after = inside.doctor(&format!("{lowest} {remedy};"));
        expect_well(&after, "open_files", "");
    } else {
        assert!(raised.err.contains("cannot modify limit"), "{raised:?}");
    }
}

/// Finding: runtime_directory
#[test]
fn a_runtime_directory_that_cannot_be_trusted_is_told_of() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    let id = "runtime_directory";
    let found = inside.doctor("");
    expect(
        &found,
        id,
        "/run/stillfs",
        "ok",
        "is made by the first mount",
    );
    assert!(
        inside.run("ls /run/stillfs").code() != 0,
        "a look makes nothing"
    );
    for (ill, text) in [
        ("mkdir -m 755 /run/stillfs", "mode 755"),
        (
            "rm -r /run/stillfs; touch /run/stillfs",
            "is not a directory",
        ),
        ("ln -s / /run/stillfs", "is not a directory"),
        (
            "mkdir -m 700 /run/stillfs && chown 65534 /run/stillfs",
            "belongs to user 65534",
        ),
    ] {
        inside.must(ill);
        let found = expect(&inside.doctor(""), id, "", "problem", text);
        inside.mend(&found);
        expect_well(&inside.doctor(""), id, "/run/stillfs");
    }
}

/// Finding: runtime_directory
#[test]
fn a_runtime_directory_that_takes_no_record_is_told_of_and_left_clean() {
    let (Some(rig), Some(inside)) = (Rig::with_fill(10), Namespace::new()) else {
        return;
    };
    let id = "runtime_directory";
    inside.must("mkdir -m 700 /run/stillfs && mount -o remount,size=64k /run");
    inside.run("head -c 1M /dev/zero > /run/fill");
    let found = expect(&inside.doctor(""), id, "/run/stillfs", "problem", "is full");
    inside.mend(&found);
    let (source, point) = (rig.source.display(), rig.dir("mnt"));
    let ended = inside.run(&format!("stillfs mount {source} {}", point.display()));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains("No space left"), "{ended:?}");
    assert_eq!(inside.run("ls -A /run/stillfs").out, "");
    inside.must("rm /run/fill");
    expect_well(&inside.doctor(""), id, "/run/stillfs");
    for made in ["", "rmdir /run/stillfs; "] {
        inside.must(&format!("{made}mount -o remount,ro /run"));
        let found = expect(&inside.doctor(""), id, "/run", "problem", "Read-only");
        inside.mend(&found);
        expect_well(&inside.doctor(""), id, "/run/stillfs");
    }
}

/// Finding: mount_record
#[test]
fn a_record_that_nobody_can_read_is_told_of_and_hangs_nobody() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    inside.must("mkdir -m 700 /run/stillfs");
    for ill in [
        "echo junk > /run/stillfs/a.mount",
        "truncate -s 1T /run/stillfs/a.mount",
        "mkfifo /run/stillfs/a.mount",
        "ln -s /etc/passwd /run/stillfs/a.mount",
    ] {
        inside.must(ill);
        let found = inside.doctor("");
        let found = expect(
            &found,
            "mount_record",
            "/run/stillfs/a.mount",
            "warning",
            "",
        );
        inside.mend(&found);
        assert_eq!(find(&inside.doctor(""), "mount_record", ""), None);
    }
}

/// Finding: run_view
#[test]
fn what_is_in_the_way_of_the_next_run_is_moved_aside_and_not_lost() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    inside.must(
        "mkdir -m 700 /run/stillfs && mkdir -p /run/stillfs/views/{a,b} '/run/stillfs/views/c d'",
    );
    let found = expect(
        &inside.doctor(""),
        "run_view",
        "views",
        "ok",
        "3 empty mount points",
    );
    inside.must("echo kept > '/run/stillfs/views/c d/file'");
    let full = expect(
        &inside.doctor(""),
        "run_view",
        "/c d",
        "problem",
        "in the way",
    );
    inside.mend(&full);
    inside.must("test $(cat '/run/stillfs/views-aside/c d/file') = kept");
    inside.mend(&found);
    assert_eq!(find(&inside.doctor(""), "run_view", ""), None);
}
