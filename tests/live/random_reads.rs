//! Readers that do not read from front to back, like a database that is opened on the mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::load::{Load, Random};
use crate::process::{has_tool, succeed};
use crate::rig::{Rig, copy};

/// Compares random slices of a mapped file with a copy of it, and then all of it.
const MAPPED: &str = r#"
import mmap, random, sys
random.seed(7)
expected = open(sys.argv[2], "rb").read()
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert len(mapped) == len(expected), (len(mapped), len(expected))
    for _ in range(3000):
        at = random.randrange(len(expected))
        count = random.choice([1, 100, 8192, 200000])
        assert mapped[at:at + count] == expected[at:at + count], at
    assert mapped[:] == expected
print("same", len(expected))
"#;

/// A read: where, how much was asked for, what came.
struct Slice {
    offset: u64,
    asked: usize,
    bytes: Vec<u8>,
}

impl Slice {
    fn assert_part_of(&self, expected: &[u8]) {
        let from = usize::try_from(self.offset).unwrap();
        let upto = expected.len().min(from + self.asked);
        assert!(self.bytes == expected[from..upto], "read at {from}");
    }
}

fn read_slices(path: &Path, seed: u64) -> Vec<Slice> {
    let mut random = Random(seed);
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let slice = |_| {
        let offset = random.below(size);
        let asked = usize::try_from(1 << random.below(18)).unwrap();
        let mut bytes = vec![0; asked];
        let count = file.read_at(&mut bytes, offset).unwrap();
        bytes.truncate(count);
        Slice {
            offset,
            asked,
            bytes,
        }
    };
    (0..600).map(slice).collect()
}

/// Page faults, small reads and read-ahead must all see the same bytes as a copy tool (N1, M2).
#[test]
fn mapped_and_random_reads_equal_a_sequential_copy_under_load() {
    let Some(rig) = Rig::with_fill(4000) else {
        return;
    };
    if !has_tool("python3") {
        return;
    }
    let load = Load::start(rig.engine().address);
    for (name, options) in [("cached", &[][..]), ("direct", &["-o", "direct_io"][..])] {
        let mount = rig.mount(name, options);
        let (file, to) = (mount.join("data.pages"), rig.path(&format!("copy-{name}")));
        load.progress();
        // Readers and copy run at the same time: neither finds the kernel's cache filled.
        let slices: Vec<Slice> = thread::scope(|scope| {
            let file = &file;
            let readers = [1, 2, 3].map(|seed| scope.spawn(move || read_slices(file, seed)));
            copy(&mount, &to);
            readers
                .into_iter()
                .flat_map(|reader| reader.join().unwrap())
                .collect()
        });
        let expected = fs::read(to.join("data.pages")).unwrap();
        slices
            .iter()
            .for_each(|slice| slice.assert_part_of(&expected));
        load.progress();
        read_slices(&file, 4)
            .iter()
            .for_each(|slice| slice.assert_part_of(&expected));
    }
    // Page faults of a mount that nothing else has read: the copy to compare with is of the same
    // commit, made through another mount.
    load.stop();
    let (mapped, other) = (rig.mount("mapped", &[]), rig.mount("other", &[]));
    let load = Load::start(rig.engine().address);
    copy(&other, &rig.path("copy-other"));
    let mut python = Command::new("python3");
    python.args(["-c", MAPPED]).arg(mapped.join("data.pages"));
    let said = succeed(python.arg(rig.path("copy-other/data.pages")));
    assert!(said.starts_with("same "), "{said}");
    load.stop();
}
