//! What lies on top of a view, or shows it elsewhere.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::namespace::LET_GO;
use crate::process::{end_of, eventually, is_root, stillfs, succeed};
use crate::rig::{daemon_of, is_mounted, umount};
use crate::scene::Scene;

/// Row: bind.lasts
#[test]
fn a_bind_mount_keeps_the_view_and_umount_says_so() {
    if !is_root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let daemon = daemon_of(&scene.mnt);
    let bound = scene.rig.dir("bound");
    succeed(
        Command::new("mount")
            .arg("--bind")
            .arg(&scene.mnt)
            .arg(&bound),
    );
    let ended = end_of(stillfs().arg("umount").arg(&scene.mnt));
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert!(
        ended
            .err
            .contains(&format!("still mounted at {}", bound.display())),
        "{ended:?}"
    );
    assert!(!is_mounted(&scene.mnt));
    assert_eq!(scene.rig.pins().len(), 1);
    scene.load.progress();
    scene.assert_copied(&bound.join("data.pages"));
    umount(&bound);
    eventually("the pin goes with the last mount", || {
        scene.rig.pins().is_empty()
    });
    scene.rig.assert_nothing_left(&[daemon]);
}

/// Row: overlay.lower
#[test]
fn an_overlay_on_a_view_is_writable_and_the_view_stays() {
    if !is_root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scene.rig.dir(name));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        scene.mnt.display(),
        upper.display(),
        work.display()
    );
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged);
    let ended = end_of(&mut mount);
    if !ended.status.success() {
        println!("SKIPPED: no overlay here: {}", ended.err.trim());
        return;
    }
    scene.assert_copied(&merged.join("data.pages"));
    let file = fs::File::options()
        .write(true)
        .open(merged.join("data.pages"))
        .unwrap();
    file.write_all_at(b"written", 10_000).unwrap();
    fs::remove_file(merged.join("snapshot.json")).unwrap();
    scene.load.progress();
    let mut changed = scene.expected.clone();
    changed[10_000..10_007].copy_from_slice(b"written");
    assert!(fs::read(merged.join("data.pages")).unwrap() == changed);
    scene.assert_copied(&scene.pages());
    assert!(scene.mnt.join("snapshot.json").exists());
    drop(file);
    // An overlay holds its layers without standing in the way of their names.
    let ended = end_of(stillfs().arg("umount").arg(&scene.mnt));
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert!(ended.err.contains("in use by an overlay"), "{ended:?}");
    assert_eq!(scene.rig.pins().len(), 1);
    assert!(fs::read(merged.join("data.pages")).unwrap() == changed);
    succeed(Command::new("umount").arg(&merged));
    eventually("the pin goes with the overlay", || {
        scene.rig.pins().is_empty()
    });
}

/// Row: nfs.export
#[test]
fn a_handle_of_a_file_does_not_outlive_its_mount() {
    if !is_root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    // A server of NFS gives its clients such handles; theirs must fail and not lead elsewhere.
    let script = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('size', ctypes.c_uint), ('kind', ctypes.c_int), ('bytes', ctypes.c_ubyte * 128)]
handle, mount = Handle(128), ctypes.c_int()
path = os.fsencode(sys.argv[1])
if libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
    print('none', os.strerror(ctypes.get_errno())); sys.exit()
print('handle', flush=True)
sys.stdin.readline()
root = os.open(os.path.dirname(path), os.O_RDONLY)
fd = libc.open_by_handle_at(root, ctypes.byref(handle), 0)
print('open' if fd >= 0 else 'stale', ctypes.get_errno())
";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(scene.pages())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let first = lines.next().unwrap().unwrap();
    if first == "handle" {
        umount(&scene.mnt);
        scene.rig.mount_on(&scene.mnt, &[]);
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
        let second = lines.next().unwrap().unwrap();
        assert!(second.starts_with("stale"), "{second}");
    } else {
        assert!(first.starts_with("none"), "{first}");
    }
    assert!(child.wait().unwrap().success());
}

/// Row: bind.namespace
#[test]
fn a_container_that_shows_the_view_keeps_its_pin() {
    if !is_root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    let script = format!("{LET_GO}\necho up; exec cat");
    unshare.args(["sh", "-c", &script]).env("KEPT", &scene.mnt);
    let spawned = unshare
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut container) = spawned else {
        println!("SKIPPED: unshare is not installed");
        return;
    };
    let mut out = std::io::BufReader::new(container.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let ended = end_of(stillfs().arg("umount").arg(&scene.mnt));
    assert_eq!(ended.code(), i32::from(line == "up\n") * 3, "{ended:?}");
    assert!(!is_mounted(&scene.mnt));
    scene.load.progress();
    if line == "up\n" {
        assert_eq!(scene.rig.pins().len(), 1);
        let root = format!("/proc/{}/root{}", container.id(), scene.pages().display());
        scene.assert_copied(Path::new(&root));
    }
    drop(container.stdin.take());
    container.wait().unwrap();
    eventually("the pin goes with the container", || {
        scene.rig.pins().is_empty()
    });
}
