//! Copies of a whole folder, made by the tools that people have (M8, M9).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;

use crate::folder::{DATABASE_BYTES, Folder, Way, application};
use crate::machine;
use crate::rig::{ENDED, errno_of, eventually, has_tool, run};

const WAYS: [Way; 2] = [Way::Kernel, Way::Daemon];

/// What `find` prints of everything but directories: each line of `format`, sorted.
fn listed(root: &Path, kind: &[&str], format: &str) -> Vec<OsString> {
    let mut find = Command::new("find");
    find.arg(root).args(kind);
    let output = find.args(["-printf", &format!("{format}\\0")]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = output.stdout.split(|byte| *byte == 0).map(Vec::from);
    let mut lines: Vec<_> = lines.map(OsString::from_vec).collect();
    lines.sort();
    lines
}

const DIRECTORIES: [&str; 2] = ["-type", "d"];
const OTHERS: [&str; 3] = ["!", "-type", "d"];

/// Compares two folders by all that a copy has to keep.
fn assert_same(one: &Path, other: &Path) {
    for (kind, format) in [
        (&DIRECTORIES[..], "%P %y %m %U %G %n %T@"),
        (&OTHERS[..], "%P %y %m %U %G %n %s %T@ %l"),
    ] {
        assert_eq!(listed(one, kind, format), listed(other, kind, format));
    }
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference", "-x", "null"]);
    // It says of pipes and sockets that they are, and ends with 1.
    let printed = diff.arg(one).arg(other).output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.lines().all(|line| line.starts_with("File ")),
        "{printed}"
    );
    let blue = machine::xattr(&other.join("conf/settings"), "user.color".as_ref());
    assert_eq!(blue.unwrap().unwrap(), b"blue");
    let inode = |name: &str| fs::metadata(other.join(name)).unwrap().ino();
    assert_eq!(inode("data/deep/one"), inode("data/two"));
    assert_eq!(inode("data/deep/one"), inode("conf/three"));
    let device = |root: &Path| fs::symlink_metadata(root.join("null")).unwrap().rdev();
    assert_eq!(device(one), device(other));
}

fn assert_sparse(copy: &Path) {
    let facts = fs::metadata(copy.join("data/sparse")).unwrap();
    assert_eq!(facts.len(), 12 << 20);
    assert!(facts.blocks() * 512 < 1 << 20, "{} blocks", facts.blocks());
}

/// A view of a folder shows what the folder is, down to times, links, blocks and numbers.
///
/// Row: tree.contents
#[test]
fn a_view_of_a_folder_shows_what_lies_there() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "") else {
            return;
        };
        assert_same(&folder.source, &folder.mnt);
        assert_sparse(&folder.mnt);
        let exact = "%P %i %n %s %b %T@ %C@";
        let (raw, shown) = (
            listed(&folder.source, &OTHERS, exact),
            listed(&folder.mnt, &OTHERS, exact),
        );
        assert_eq!(raw, shown);
        let target = fs::read_link(folder.mnt.join("link")).unwrap();
        assert_eq!(target, Path::new("conf/settings"));
        assert_eq!(
            fs::symlink_metadata(folder.mnt.join("link"))
                .unwrap()
                .size(),
            13
        );
        // Nobody becomes root by a device of a view.
        assert_eq!(
            errno_of(fs::File::open(folder.mnt.join("null"))),
            libc::EACCES
        );
        assert_eq!(
            errno_of(fs::File::open(folder.mnt.join("socket"))),
            libc::ENXIO
        );
    }
}

/// Row: tree.copies
#[test]
fn cp_tar_and_rsync_make_true_copies_of_a_folder() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "") else {
            return;
        };
        let copy = |name: &str| folder.rig.path(name);
        run(Command::new("cp")
            .arg("-a")
            .arg(&folder.mnt)
            .arg(copy("cp")));
        assert_same(&folder.source, &copy("cp"));
        assert_sparse(&copy("cp"));
        let tar = |name: &str, flags: &[&str]| {
            let mut tar = Command::new("tar");
            tar.args([
                "--format=posix",
                "--pax-option=exthdr.name=%d/PaxHeaders/%f",
            ]);
            tar.args(flags)
                .args(["--xattrs", "--exclude=./socket", "-cf"])
                .arg(copy(name));
            let printed = complete(tar.arg("-C").arg(&folder.mnt).arg("."));
            assert_eq!(printed, "", "{way:?}");
            fs::read(copy(name)).unwrap()
        };
        assert!(tar("archive", &["-S"]).len() < 6 << 20, "holes are kept");
        // Access and change times stand in an archive, and nothing of them has changed.
        assert!(tar("first", &[]) == tar("second", &[]), "{way:?}");
        fs::create_dir(copy("tar")).unwrap();
        let mut untar = Command::new("tar");
        untar.args(["--xattrs", "-xpSf"]).arg(copy("archive"));
        run(untar.arg("-C").arg(copy("tar")));
        run(Command::new("cp")
            .arg("-a")
            .arg(folder.mnt.join("socket"))
            .arg(copy("tar")));
        run(Command::new("touch")
            .arg("-r")
            .arg(&folder.mnt)
            .arg(copy("tar")));
        assert_same(&folder.source, &copy("tar"));
        assert_sparse(&copy("tar"));
        if !has_tool("rsync") {
            continue;
        }
        let from = format!("{}/", folder.mnt.display());
        let rsync = |flags: &str| {
            let mut rsync = Command::new("rsync");
            // Else it takes two times within one second for the same.
            rsync.args([flags, "--sparse", "--modify-window=-1"]);
            rsync.args(["--itemize-changes", &from]);
            complete(rsync.arg(copy("rsync")))
        };
        rsync("-aHAX");
        assert_same(&folder.source, &copy("rsync"));
        assert_sparse(&copy("rsync"));
        assert_eq!(rsync("-aHAX"), "", "{way:?}");
        assert_eq!(rsync("-aHAXc"), "", "{way:?}");
        match way {
            Way::Kernel => assert_eq!(folder.bytes_read(), 0),
            Way::Daemon => assert!(folder.bytes_read() > 3_000_000),
        }
        eventually("every file is closed", || folder.open() == 0);
    }
}

/// What a command printed, complaints included.
fn complete(command: &mut Command) -> String {
    let output = outcome(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn outcome(command: &mut Command) -> Output {
    command.env("LC_ALL", "C").output().unwrap()
}

/// A second run of a backup reads no file that has not changed: number, size and times are enough.
///
/// Row: tree.backups
#[test]
fn restic_and_borg_read_unchanged_live_files_once() {
    let folder = Folder::with(Way::Daemon, "", |at| {
        application(at);
        // borg reads again what has the newest ctime, lest it changed once more: one small file.
        let ctime = |name: &str| {
            let facts = fs::metadata(at.join(name)).unwrap();
            (facts.ctime(), facts.ctime_nsec())
        };
        let last = at.join("conf/settings");
        eventually("a file is newer than all others", || {
            fs::set_permissions(&last, fs::Permissions::from_mode(0o640)).unwrap();
            ctime("conf/settings") > ctime("data/old").max(ctime("data/two"))
        });
    });
    let Some(folder) = folder else { return };
    let repository = |name: &str| folder.rig.path(name).display().to_string();
    if has_tool("restic") {
        let restic = |arguments: &[&str]| {
            let mut restic = Command::new("restic");
            restic.args(["-r", &repository("restic"), "--no-cache", "-q"]);
            restic
                .env("RESTIC_PASSWORD", "x")
                .env("HOME", folder.rig.path(""));
            run(restic.args(arguments).current_dir(&folder.mnt))
        };
        restic(&["init"]);
        restic(&["backup", "."]);
        assert_second_reads_nothing(&folder, || restic(&["backup", "."]));
    }
    if has_tool("borg") {
        let borg = |arguments: &[&str]| {
            let mut borg = Command::new("borg");
            borg.env("BORG_BASE_DIR", folder.rig.path("borg-base"));
            borg.env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
            borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            run(borg.args(arguments).current_dir(&folder.mnt))
        };
        let at = repository("borg");
        borg(&["init", "-e", "none", &at]);
        borg(&["create", &format!("{at}::one"), "."]);
        assert_second_reads_nothing(&folder, || borg(&["create", &format!("{at}::two"), "."]));
    }
}

fn assert_second_reads_nothing(folder: &Folder, second: impl FnOnce() -> String) {
    assert!(folder.bytes_read() > 3_000_000);
    let before = folder.bytes_read();
    second();
    let again = folder.bytes_read() - before;
    assert!(again < 100, "{again} bytes were read again");
}

/// M8: one file that went away, or was replaced, is one complaint, and everything else is copied.
///
/// Row: live.gone
#[test]
fn a_file_that_is_gone_or_replaced_is_reported_alone() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "") else {
            return;
        };
        let (gone, replaced) = ("conf/settings", "data/blob");
        let size = fs::metadata(folder.source.join(replaced)).unwrap().len();
        fs::remove_file(folder.source.join(gone)).unwrap();
        fs::write(folder.source.join("fresh"), b"another file").unwrap();
        fs::rename(folder.source.join("fresh"), folder.source.join(replaced)).unwrap();
        // The name was listed, and what was listed with it is what there is to say.
        assert_eq!(fs::metadata(folder.mnt.join(gone)).unwrap().len(), 19);
        assert_eq!(fs::metadata(folder.mnt.join(replaced)).unwrap().len(), size);
        for _ in 0..2 {
            assert_eq!(errno_of(fs::read(folder.mnt.join(gone))), libc::ENOENT);
            assert_eq!(errno_of(fs::read(folder.mnt.join(replaced))), libc::ESTALE);
        }
        let mut names = listed(&folder.mnt, &[], "%P");
        assert!(names.contains(&gone.into()));
        assert!(
            !names.contains(&"fresh".into()),
            "names are those of the pin"
        );
        names.retain(|name| name != gone && name != replaced);
        let copy = folder.rig.path("copy");
        let output = outcome(Command::new("cp").arg("-a").arg(&folder.mnt).arg(&copy));
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 2, "{said}");
        assert_eq!(listed(&copy, &[], "%P"), names);
        let mut tar = Command::new("tar");
        let tar = tar
            .args(["--exclude=./socket", "-cf"])
            .arg(folder.rig.path("archive"));
        let output = outcome(tar.arg("-C").arg(&folder.mnt).arg("."));
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 3, "two files and the sum: {said}");
        if has_tool("rsync") {
            let from = format!("{}/", folder.mnt.display());
            let to = folder.rig.path("rsync");
            let output = outcome(Command::new("rsync").args(["-aHAX", &from]).arg(to));
            assert!(
                [23, 24].contains(&output.status.code().unwrap()),
                "{output:?}"
            );
        }
    }
}

/// M4: an end is that of one database, and nothing else of the folder suffers.
///
/// Row: tree.ended
#[test]
fn an_ended_database_fails_alone() {
    let Some(folder) = Folder::new(Way::Kernel, "") else {
        return;
    };
    folder.database.behaviour.store(ENDED, Ordering::Relaxed);
    let database = folder.mnt.join(crate::folder::DATABASE);
    assert_eq!(errno_of(fs::read(&database)), libc::EIO);
    assert_eq!(fs::metadata(&database).unwrap().len(), DATABASE_BYTES);
    let copy = folder.rig.path("copy");
    let output = outcome(Command::new("cp").arg("-a").arg(&folder.mnt).arg(&copy));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("app.db") && said.contains("Input/output error"),
        "{said}"
    );
    let blob = |root: &Path| fs::read(root.join("data/blob")).unwrap();
    assert!(blob(&copy) == blob(&folder.source));
}

/// `find` and `tar` over many small files, with figures for whoever looks at them.
///
/// Row: tree.many
#[test]
fn ten_thousand_files_are_listed_and_copied() {
    let many = 10_000;
    let folder = Folder::with(Way::Kernel, "", |at| {
        for number in 0..many {
            let bytes = if number % 100 == 0 {
                70_000
            } else {
                number % 2000
            };
            fs::write(at.join(format!("a-file-{number:05}")), vec![7; bytes]).unwrap();
        }
    });
    let Some(folder) = folder else { return };
    let clock = std::time::Instant::now();
    let mut last = clock.elapsed();
    let mut lap = || {
        let lap = clock.elapsed() - last;
        last = clock.elapsed();
        lap
    };
    let raw = listed(&folder.source, &OTHERS, "%P %i %s %T@");
    let raw_find = lap();
    let shown = listed(&folder.mnt, &OTHERS, "%P %i %s %T@");
    let find = lap();
    assert!(raw == shown && raw.len() > many);
    let tar = |root: &Path, to: &str| {
        let mut tar = Command::new("tar");
        let to = folder.rig.path(to);
        run(tar.arg("-cf").arg(&to).arg("-C").arg(root).arg("."));
        fs::metadata(to).unwrap().len()
    };
    lap();
    let raw = tar(&folder.source, "raw");
    let raw_tar = lap();
    let shown = tar(&folder.mnt, "shown");
    let tar = lap();
    assert_eq!(raw, shown);
    println!(
        "find {find:?} (raw {raw_find:?}), tar {tar:?} (raw {raw_tar:?}), {} times asked for attributes",
        folder.shared.stats.load(Ordering::Relaxed)
    );
}
