//! Mappings.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::scene::{Scene, errno_of};
use crate::system::Mapping;

const FILE: &str = "STILLFS_TEST_MAPPED_FILE";

/// Row: map.private, map.shared
#[test]
fn a_mapping_shows_the_pinned_bytes_under_writes() {
    let Some(scene) = Scene::new() else { return };
    let file = File::open(scene.pages()).unwrap();
    let size = scene.expected.len();
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let mapping = Mapping::new(&file, size, libc::PROT_READ, flags).unwrap();
        for at in [size - 1, 0, 8191, 8192, size / 2] {
            assert_eq!(mapping.byte(at), scene.expected[at], "{at}");
        }
        scene.load.progress();
        assert!(mapping.bytes() == scene.expected);
    }
}

/// Row: map.write
#[test]
fn only_a_private_mapping_can_be_written_and_only_its_owner_sees_that() {
    let Some(scene) = Scene::new() else { return };
    let file = File::open(scene.pages()).unwrap();
    let size = scene.expected.len();
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let shared = Mapping::new(&file, size, both, libc::MAP_SHARED);
    assert_eq!(errno_of(shared.map(drop)), libc::EACCES);
    let private = Mapping::new(&file, size, both, libc::MAP_PRIVATE).unwrap();
    private.set(5, !scene.expected[5]);
    assert_eq!(private.byte(5), !scene.expected[5]);
    assert!(std::fs::read(scene.pages()).unwrap() == scene.expected);
}

/// Not a test: maps a file, looks at its last byte, and after a word at all of it.
#[test]
#[ignore = "a process that another test starts"]
fn child() {
    let path = PathBuf::from(std::env::var_os(FILE).expect("only started by another test"));
    let file = File::open(path).unwrap();
    let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mapping = Mapping::new(&file, size, libc::PROT_READ, libc::MAP_SHARED).unwrap();
    println!("\nmapped {}", mapping.byte(size - 1));
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let bytes = mapping.bytes();
    // Who gets here has read all of it: then it has to be right.
    println!("\nread {:?}", crc32fast::hash(&bytes));
}

/// Row: map.ended
#[test]
fn a_mapping_of_an_ended_pin_is_a_fault_and_no_other_byte() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mapping::child", "--ignored", "--nocapture"])
        .env(FILE, scene.pages())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last = scene.expected.last().unwrap();
    let expected = format!("mapped {last}");
    assert!(lines.by_ref().any(|line| line.unwrap() == expected));
    scene.load.expect_end();
    scene.rig.take_engine().kill();
    // An engine that cannot adopt the pin starts: from here on nothing of the view is certain.
    std::fs::remove_dir_all(scene.rig.source.join("shadow")).unwrap();
    scene.rig.start();
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}");
    let read: Vec<String> = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("read"))
        .collect();
    assert_eq!(read, [] as [String; 0]);
}
