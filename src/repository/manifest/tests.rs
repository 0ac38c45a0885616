//! Manifests written and read back, and manifests that lie with the right checksums.

#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

use proptest::prelude::*;

use super::*;
use crate::os::random::SeededRandom;
use crate::repository::hex;

/// A small one with an entry of each kind.
pub(in crate::repository) fn sample() -> Manifest {
    let entry = |path: &str, mode, content| Entry {
        path: path.as_bytes().to_vec(),
        mode,
        uid: 1000,
        gid: 100,
        mtime_ns: -5,
        content,
    };
    let file = |bytes, unit_bytes, extents: &[(u32, u32, u32)], version| {
        let extent = |(count, pack, slot): &(u32, u32, u32)| Extent {
            count: *count,
            pack: *pack,
            slot: *slot,
        };
        EntryContent::File(FileContent {
            bytes,
            unit_bytes,
            digest: Digest::of(b"file"),
            extents: extents.iter().map(extent).collect(),
            version,
        })
    };
    let version = FileVersion {
        database: DatabaseId([3; 16]),
        history: HistoryId([4; 16]),
        lsn: Lsn(0x0123_4567_89ab),
    };
    let database = [(2, 0, 0), (3, Extent::ZEROS, 0), (1, 1, 300)];
    let entries = vec![
        entry("", 0o755, EntryContent::Directory),
        entry(
            "data.pages",
            0o600,
            file(6 * 8192, 8192, &database, Some(version)),
        ),
        entry("d", 0o2750, EntryContent::Directory),
        entry("d/a", 0o644, file(65537, 65536, &[(2, 1, 200)], None)),
        entry("d/empty", 0o644, file(0, 65536, &[], None)),
        entry("d/link", 0o777, EntryContent::Link(b"../x".to_vec())),
        entry("hard", 0o644, EntryContent::HardLink(b"d/a".to_vec())),
    ];
    let mut facts = sample_facts(version);
    facts.digest = Manifest::digest_of(&entries);
    Manifest {
        facts,
        packs: vec![PackId([1; 16]), PackId([2; 16])],
        entries,
    }
}

fn sample_facts(version: FileVersion) -> BackupFacts {
    let id: BackupId = "20261120T190729Z-1f3a5c7e".parse().unwrap();
    BackupFacts {
        id: id.clone(),
        kind: BackupKind::Full,
        parent: None,
        full: id,
        source: SourceName {
            kind: "stillfs".to_owned(),
            path: "/srv/db".to_owned(),
            host: "earth".to_owned(),
        },
        tag: Some("nightly".to_owned()),
        stillfs: "0.1.0".to_owned(),
        begun_ns: 1,
        finished_ns: 2,
        moment_ns: 3,
        databases: vec![DatabaseFacts {
            path: "data.pages".to_owned(),
            kind: "stillfs".to_owned(),
            page_bytes: 8192,
            page_count: 6,
            database: Some(hex::encode(&version.database.0)),
            history: Some(hex::encode(&version.history.0)),
            lsn: Some(version.lsn.0),
            timestamp: Some(17),
            epoch: None,
            wall_ns: None,
            digest: Digest::of(b"file"),
        }],
        digest: Digest::default(),
        statistics: Statistics::default(),
        left_out: Vec::new(),
        log_index: None,
        term: None,
    }
}

#[test]
fn manifest_comes_back_as_it_was() {
    let manifest = sample();
    let object = Manifest::object(&manifest.facts.id);
    let bytes = manifest.encode();
    assert_eq!(Manifest::decode(&object, &bytes).unwrap(), manifest);
    // Another object than one of a repository may have any name.
    assert_eq!(Manifest::decode("upload", &bytes).unwrap(), manifest);
}

/// Attributes, names and content count for the digest; where the content is does not.
#[test]
fn digest_of_a_tree_is_of_what_a_restore_gives() {
    let (manifest, digest) = (sample(), sample().facts.digest);
    let with = |change: fn(&mut Vec<Entry>)| {
        let mut entries = manifest.entries.clone();
        change(&mut entries);
        Manifest::digest_of(&entries)
    };
    let changes: [fn(&mut Vec<Entry>); 7] = [
        |entries| entries[0].mode = 0o700,
        |entries| entries[1].uid = 0,
        |entries| entries[2].mtime_ns += 1,
        |entries| entries[3].path = b"d/b".to_vec(),
        |entries| file(&mut entries[3]).digest = Digest::default(),
        |entries| entries[5].content = EntryContent::HardLink(b"../x".to_vec()),
        |entries| drop(entries.pop()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_ne!(with(change), digest, "{number}");
    }
    assert_eq!(
        with(|entries| file(&mut entries[3]).extents[0].slot = 7),
        digest
    );
}

fn file(entry: &mut Entry) -> &mut FileContent {
    match &mut entry.content {
        EntryContent::File(file) => file,
        other => panic!("no file: {other:?}"),
    }
}

type Lie = (&'static str, fn(&mut Manifest));

fn expect_each_is_refused(lies: &[Lie]) {
    for (expected, lie) in lies {
        let mut manifest = sample();
        lie(&mut manifest);
        let error = Manifest::decode("m", &manifest.encode()).unwrap_err();
        let expected = format!("m is damaged: {expected}");
        assert_eq!(error.to_string(), expected, "{manifest:?}");
    }
}

/// BK4, BK5: what a restore would stumble over is refused where it is read, whatever the checksums say.
#[test]
fn tree_that_lies_is_refused() {
    expect_each_is_refused(&[
        ("it has no root", |m| m.entries.clear()),
        ("its first entry is no root", |m| m.entries.swap(0, 2)),
        ("its first entry is no root", |m| {
            m.entries[0].content = EntryContent::Link(vec![1])
        }),
        ("a path is not clean", |m| {
            m.entries[2].path = b"..".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"d/../a".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"d/.".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"/a".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"d//a".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"d/a/".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = b"d/\0".to_vec()
        }),
        ("a path is not clean", |m| {
            m.entries[3].path = vec![b'x'; 65537]
        }),
        ("a path is not clean", |m| m.entries[2].path = Vec::new()),
        ("a path is there twice", |m| {
            m.entries[4].path = b"d/a".to_vec()
        }),
        ("a path is in no directory before it", |m| {
            m.entries[3].path = b"e/a".to_vec()
        }),
        ("a path is in no directory before it", |m| {
            m.entries.swap(2, 3)
        }),
        ("a path is in no directory before it", |m| {
            m.entries[6].path = b"d/link/x".to_vec()
        }),
        ("a path is in no directory before it", |m| {
            m.entries[6].path = b"d/a/x".to_vec()
        }),
        ("an entry has an impossible mode", |m| {
            m.entries[3].mode = 0o10000
        }),
        ("a link leads nowhere", |m| {
            m.entries[5].content = EntryContent::Link(Vec::new())
        }),
        ("a link leads nowhere", |m| {
            m.entries[5].content = EntryContent::Link(vec![0])
        }),
        ("a hard link is of no file before it", |m| {
            m.entries[6].content = EntryContent::HardLink(b"d/b".to_vec());
        }),
        ("a hard link is of no file before it", |m| {
            m.entries[6].content = EntryContent::HardLink(b"d/link".to_vec());
        }),
        ("a hard link is of no file before it", |m| {
            m.entries.swap(3, 6)
        }),
    ]);
}

/// BK5: every unit that a file needs is named, and lies in a pack that is.
#[test]
fn content_that_lies_is_refused() {
    expect_each_is_refused(&[
        ("the extents of a file are not as long as it", |m| {
            file(&mut m.entries[3]).bytes += 65536
        }),
        ("the extents of a file are not as long as it", |m| {
            file(&mut m.entries[3]).bytes = 65536
        }),
        ("an extent has an impossible length", |m| {
            file(&mut m.entries[3]).extents[0].count = 0
        }),
        ("an extent has an impossible length", |m| {
            file(&mut m.entries[3]).extents[0].slot = u32::MAX;
        }),
        ("an extent is in no pack of the manifest", |m| {
            m.packs.truncate(1)
        }),
        ("a pack is named twice", |m| m.packs[1] = m.packs[0]),
        ("the units of a file have an impossible size", |m| {
            file(&mut m.entries[3]).unit_bytes = 65537;
        }),
        ("a database is no file of it", |m| {
            m.facts.databases[0].path = "../x".to_owned()
        }),
    ]);
    let mut huge = sample();
    file(&mut huge.entries[3]).bytes = u64::MAX;
    let mut units = sample();
    file(&mut units.entries[3]).unit_bytes = 0;
    for manifest in [huge, units] {
        assert!(manifest.check().is_err());
    }
}

/// A manifest without databases and with this body, its checksums right.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut base = sample();
    base.facts.databases.clear();
    let mut bytes = base.encode();
    let facts_bytes = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    bytes.truncate(HEAD_BYTES + facts_bytes);
    bytes[24..32].copy_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn body_of(manifest: &Manifest) -> Vec<u8> {
    let bytes = manifest.encode();
    let facts_bytes = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    bytes[HEAD_BYTES + facts_bytes..bytes.len() - CRC_BYTES].to_vec()
}

#[test]
fn counts_and_numbers_that_lie_are_refused_before_memory_is_taken() {
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let root = [&[1, 0][..], &[0; 3], &[0; 8]].concat();
    let file = |tail: &[u8]| {
        let head = [&[0, 2][..], &root, &[2, 1, b'f'], &[0; 3], &[0; 8]].concat();
        [&head, tail].concat()
    };
    let good = [&[0, 1][..], &root].concat();
    let decode = |body: &[u8]| Manifest::decode("m", &with_body(body));
    decode(&good).unwrap();
    decode(&body_of(&sample())).unwrap();
    let bodies = [
        most.to_vec(),
        [&[0], &most[..]].concat(),
        [&good[..], &[0]].concat(),
        // The same numbers, longer than need be; and one that is larger than any.
        [&[0x80, 0x00, 1], &root[..]].concat(),
        [&[0xff; 9][..], &[0x02]].concat(),
        file(&[]),
        file(&[&[0, 1][..], &[0; 32], &[2, 0]].concat()),
        file(&[&[0, 1][..], &[0; 32], &[0], &most].concat()),
        file(
            &[
                &[1, 1][..],
                &[0; 32],
                &[0, 1, 1],
                &[0x80, 0x80, 0x80, 0x80, 0x10, 0],
            ]
            .concat(),
        ),
        [&[0, 1, 5][..], &root[1..]].concat(),
        [&[0, 1, 1], &most[..], &[0; 20]].concat(),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let error = decode(body).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("cut short") || text.contains("follows"),
            "{number}: {text}"
        );
    }
}

/// A tree of directories, files and links that `seed` draws.
fn drawn(seed: u64) -> Manifest {
    let random = SeededRandom::new(seed);
    let mut manifest = sample();
    manifest.facts.databases.clear();
    manifest.packs = (0..random.below(5))
        .map(|n| PackId([n as u8; 16]))
        .collect();
    manifest.entries.truncate(1);
    let (mut directories, mut files) = (vec![Vec::new()], Vec::new());
    for number in 0..random.below(40) {
        let parent = &directories[random.below(directories.len() as u64) as usize];
        let mut path: Vec<u8> = parent.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend([b'n', 0x80 | random.next() as u8, b'a' + number as u8]);
        let content = match random.below(4) {
            0 => EntryContent::Directory,
            1 => EntryContent::Link(vec![b'.'; 1 + random.below(300) as usize]),
            2 if !files.is_empty() => {
                let first: &Vec<u8> = &files[random.below(files.len() as u64) as usize];
                EntryContent::HardLink(first.clone())
            }
            _ => EntryContent::File(drawn_file(&random, manifest.packs.len() as u64)),
        };
        match content {
            EntryContent::Directory => directories.push(path.clone()),
            EntryContent::File(_) => files.push(path.clone()),
            _ => {}
        }
        manifest.entries.push(Entry {
            path,
            mode: random.below(0o10000) as u16,
            uid: random.next() as u32,
            gid: random.below(1000) as u32,
            mtime_ns: random.next() as i64,
            content,
        });
    }
    manifest
}

fn drawn_file(random: &SeededRandom, packs: u64) -> FileContent {
    let unit_bytes = 1 + random.below(65536) as u32;
    let mut extents = Vec::new();
    for _ in 0..random.below(6) {
        let count = 1 + (random.next() as u32 >> random.below(32)) / 2;
        let (pack, slot) = match random.below(packs + 1) {
            0 => (Extent::ZEROS, 0),
            pack => (
                pack as u32 - 1,
                random.next() as u32 >> (1 + random.below(31)),
            ),
        };
        extents.push(Extent { count, pack, slot });
    }
    let units: u64 = extents.iter().map(|extent| u64::from(extent.count)).sum();
    let last = random.below(u64::from(unit_bytes));
    let version = FileVersion {
        database: DatabaseId([random.next() as u8; 16]),
        history: HistoryId([random.next() as u8; 16]),
        lsn: Lsn(random.next()),
    };
    FileContent {
        bytes: (units * u64::from(unit_bytes)).saturating_sub(last),
        unit_bytes,
        digest: Digest::of(&random.next().to_le_bytes()),
        extents,
        version: (random.below(2) == 0).then_some(version),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_manifest_comes_back_as_it_was(seed: u64) {
        let manifest = drawn(seed);
        prop_assert_eq!(manifest.check(), Ok(()));
        let bytes = manifest.encode();
        prop_assert_eq!(Manifest::decode("m", &bytes).unwrap(), manifest);
    }

    /// A body has one form only: what can be decoded at all is what would be encoded.
    #[test]
    fn changed_body_is_refused_or_means_what_it_says(
        seed: u64,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let manifest = drawn(seed);
        let mut body = body_of(&manifest);
        for (at, byte) in changes {
            *at.get_mut(&mut body) = byte;
        }
        let bytes = with_body(&body);
        if let Ok(decoded) = Manifest::decode("m", &bytes) {
            prop_assert!(decoded.encode() == bytes);
        }
    }
}
