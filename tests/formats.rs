//! docs/formats.md says what is on the disk: its tables are compared with the heads of the modules and
//! with the files of a small database.

#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};

use stillfs::database::{Database, EngineOptions};
use stillfs::engine::header::{FORMAT_VERSION, HEADER_BYTES};
use stillfs::os::{Host, OpenMode, read_up_to};
use stillfs::page::{PAGE_HEADER_BYTES, PAGE_VERSION, PageNo, PageSize};
use stillfs::pin::{PATH_BYTES_MAX, PAYLOAD_BYTES_MAX, PINS_PER_REPORT_MAX, PROTOCOL_VERSION};
use stillfs::repository::Digest;
use stillfs::repository::pack::{FRAME_BYTES, PACK_VERSION, SLOTS_MAX, UNIT_BYTES_MAX};
use stillfs::shadow::index::{ENTRY_BYTES, Entry, INDEX_HEADER_BYTES};

/// Each layout of the document, and the module whose head has the same table.
const LAYOUTS: &[(&str, &str)] = &[
    ("page", "src/page.rs"),
    ("header", "src/engine/header.rs"),
    ("node", "src/engine/btree/mod.rs"),
    ("leaf cell", "src/engine/btree/mod.rs"),
    ("inner cell", "src/engine/btree/mod.rs"),
    ("overflow", "src/engine/btree/mod.rs"),
    ("catalog", "src/engine/catalog.rs"),
    ("trunk", "src/engine/free_list.rs"),
    ("segment", "src/engine/wal/mod.rs"),
    ("record", "src/engine/wal/mod.rs"),
    ("summary", "src/engine/wal/summary/mod.rs"),
    ("summary entry", "src/engine/wal/summary/mod.rs"),
    ("index", "src/shadow/index.rs"),
    ("pack header", "src/repository/pack/mod.rs"),
    ("pack frame", "src/repository/pack/mod.rs"),
    ("pack slot", "src/repository/pack/mod.rs"),
    ("pack trailer", "src/repository/pack/mod.rs"),
    ("manifest", "src/repository/manifest/mod.rs"),
    ("encrypted object", "src/repository/crypt/cipher.rs"),
    ("log piece", "src/repository/log/piece.rs"),
    ("cursor", "src/engine/wal/archive.rs"),
];

/// One line of a table: where, how many bytes (or empty), what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    offset: String,
    size: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(root().join("docs/formats.md")).expect("docs/formats.md")
}

/// The rows after a line `offset size`, up to the first line that is not indented.
fn rows<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Row> {
    let is_inside = |line: &&str| line.starts_with("  ");
    let cell = |line: &str, from: usize, to: usize| {
        let end = to.min(line.len());
        line.get(from..end).unwrap_or_default().trim().to_owned()
    };
    lines
        .take_while(is_inside)
        .map(|line| Row {
            offset: cell(line, 0, 6),
            size: cell(line, 6, 11),
            text: cell(line, 11, usize::MAX),
        })
        // A line without an offset is a remark.
        .filter(|row| !row.offset.is_empty())
        .collect()
}

/// The layout `name` of the document.
fn layout(name: &str) -> Vec<Row> {
    let document = document();
    let marker = format!("<!-- layout: {name} -->");
    let lines = document.lines().skip_while(|line| *line != marker);
    // The indent of a code block is no part of the table.
    let table = lines
        .skip_while(|line| line.trim() != "offset size")
        .skip(1)
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    let rows = rows(table);
    assert!(!rows.is_empty(), "docs/formats.md has no layout {name}");
    rows
}

/// All tables in the head of a source file.
fn tables_of_head(path: &str) -> Vec<Vec<Row>> {
    let text = fs::read_to_string(root().join(path)).expect("a module that is named above");
    let head: Vec<_> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let starts = (0..head.len()).filter(|at| head[*at].trim() == "offset size");
    starts
        .map(|start| rows(head[start + 1..].iter().copied()))
        .collect()
}

fn places(rows: &[Row]) -> Vec<(&str, &str)> {
    rows.iter()
        .map(|row| (row.offset.as_str(), row.size.as_str()))
        .collect()
}

#[test]
fn layouts_are_those_of_the_modules_heads() {
    for (name, path) in LAYOUTS {
        let documented = layout(name);
        let tables = tables_of_head(path);
        assert!(
            tables
                .iter()
                .any(|table| places(table) == places(&documented)),
            "docs/formats.md, layout {name}: no table in {path} has these offsets and sizes: {documented:?}"
        );
    }
    let count = document().matches("<!-- layout: ").count();
    assert_eq!(count, LAYOUTS.len(), "every layout has a row in LAYOUTS");
}

/// A table with a hole or an overlap describes no file.
#[test]
fn fields_of_a_layout_follow_each_other() {
    for (name, _) in LAYOUTS {
        let rows = layout(name);
        for pair in rows.windows(2) {
            let number = |text: &str| text.parse::<u64>().ok();
            let (Some(offset), Some(size)) = (number(&pair[0].offset), number(&pair[0].size))
            else {
                continue;
            };
            if let Some(next) = number(&pair[1].offset) {
                assert_eq!(offset + size, next, "layout {name} before {:?}", pair[1]);
            }
        }
    }
}

/// Bytes, and the layout that says what they are.
struct Bytes {
    name: &'static str,
    rows: Vec<Row>,
    bytes: Vec<u8>,
}

impl Bytes {
    fn new(name: &'static str, bytes: Vec<u8>) -> Self {
        let rows = layout(name);
        Self { name, rows, bytes }
    }

    /// The field whose description begins with `text`.
    fn field(&self, text: &str) -> &[u8] {
        let row = self.rows.iter().find(|row| row.text.starts_with(text));
        let row = row.unwrap_or_else(|| panic!("layout {} has no field {text}", self.name));
        let number = |text: &str| text.parse::<usize>().expect("a fixed field");
        let offset = number(&row.offset);
        &self.bytes[offset..offset + number(&row.size)]
    }

    fn number(&self, text: &str) -> u64 {
        let mut wide = [0; 8];
        let field = self.field(text);
        wide[..field.len()].copy_from_slice(field);
        u64::from_le_bytes(wide)
    }

    /// A field `crc32 of bytes A .. B` holds just that.
    fn check_crc(&self, from: usize, to: usize) {
        let named = match to == self.bytes.len() {
            true if self.name == "page" => format!("crc32 of bytes {from} .. page size"),
            _ => format!("crc32 of bytes {from} .. {to}"),
        };
        let crc = crc32fast::hash(&self.bytes[from..to]);
        assert_eq!(self.number(&named), u64::from(crc), "{}", self.name);
    }

    fn check_reserved(&self) {
        for row in self.rows.iter().filter(|row| row.text.contains("reserved")) {
            let number = |text: &str| text.parse::<usize>().expect("a fixed field");
            let (from, size) = (number(&row.offset), number(&row.size));
            let zeros = vec![0; size];
            assert_eq!(
                self.bytes[from..from + size],
                zeros,
                "{}: {row:?}",
                self.name
            );
        }
    }
}

/// A database with one table `t` of three entries, in the log and not yet in the page file.
struct Sample {
    host: Host,
    database: Database,
}

const PAGE_BYTES: usize = 4096;

impl Sample {
    fn new() -> Self {
        let host = Host::simulated(1).host;
        let options = EngineOptions {
            page_size: PageSize::new(PAGE_BYTES as u64).expect("a valid size"),
            ..EngineOptions::default()
        };
        let database = Database::open_on(&host, "/db", &options).expect("a new database");
        let mut write = database.begin_write().expect("a transaction");
        for key in [b"a", b"b", b"c"] {
            write.put("t", key, b"value").expect("a put");
        }
        write.commit().expect("a commit");
        Self { host, database }
    }

    fn read(&self, path: impl AsRef<Path>, bytes: usize) -> Vec<u8> {
        let file = self.host.disk.open(path.as_ref(), OpenMode::Read);
        let mut out = vec![0; bytes];
        let found = read_up_to(&*file.expect("a file"), &mut out, 0).expect("its bytes");
        out.truncate(found);
        out
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let file = self.read("/db/data.pages", (page + 1) * PAGE_BYTES);
        file[page * PAGE_BYTES..].to_vec()
    }
}

#[test]
fn header_and_pages_on_the_disk_are_as_documented() {
    let sample = Sample::new();
    sample.database.checkpoint().expect("a checkpoint");
    let engine = sample.database.engine();
    let (identity, header) = (engine.identity(), engine.header());
    let (timestamp, lsn, wall_ns, page_count) = header.commit();
    let newest = usize::try_from(header.sequence % 2).expect("0 or 1");
    let bytes = Bytes::new("header", sample.page(newest));
    assert_eq!(bytes.field("magic"), b"STILLFS\x01");
    assert_eq!(bytes.number("format version, 1"), u64::from(FORMAT_VERSION));
    assert_eq!(bytes.number("page size in bytes"), PAGE_BYTES as u64);
    assert_eq!(bytes.field("database id"), identity.database.0);
    assert_eq!(bytes.field("history id"), identity.history.0);
    assert_eq!(bytes.number("epoch"), identity.epoch.0);
    assert_eq!(bytes.number("sequence"), header.sequence);
    assert_eq!(bytes.number("state: 1 clean, 2 the log is needed"), 2);
    assert_eq!(bytes.number("log start"), header.log_start.0);
    assert_eq!(bytes.number("timestamp"), timestamp.0);
    assert_eq!(bytes.number("its wall clock"), wall_ns);
    assert_eq!(bytes.number("its LSN"), lsn.0);
    assert_eq!(bytes.number("page count"), page_count);
    assert_eq!(bytes.number("pages in the free list"), 0);
    bytes.check_crc(32, 508);
    bytes.check_reserved();
    assert!(bytes.bytes[HEADER_BYTES..].iter().all(|byte| *byte == 0));
    for (number, kind) in [(newest, 1), (2, 2), (3, 2)] {
        let page = Bytes::new("page", sample.page(number));
        page.check_crc(4, PAGE_BYTES);
        page.check_reserved();
        assert_eq!(page.number("kind"), kind);
        assert_eq!(page.number("format version"), u64::from(PAGE_VERSION));
        assert_eq!(page.number("page number"), number as u64);
        assert_eq!(page.number("LSN"), lsn.0);
        assert!(document().contains(&format!("        {PAGE_HEADER_BYTES}       body")));
    }
}

#[test]
fn nodes_and_the_catalog_on_the_disk_are_as_documented() {
    let sample = Sample::new();
    sample.database.checkpoint().expect("a checkpoint");
    let catalog = Bytes::new("node", sample.page(2));
    assert_eq!(catalog.number("number of cells"), 1);
    assert_eq!(catalog.number("level"), 0);
    let first = usize::from(u16::from_le_bytes([catalog.bytes[56], catalog.bytes[57]]));
    assert_eq!(catalog.number("content start"), first as u64);
    let cell = Bytes::new("leaf cell", catalog.bytes[first..].to_vec());
    assert_eq!(cell.number("key bytes"), 1);
    assert_eq!(cell.number("0: the value follows"), 0);
    assert_eq!(cell.number("value bytes"), 32);
    assert_eq!(cell.bytes[8], b't');
    let record = Bytes::new("catalog", cell.bytes[9..9 + 32].to_vec());
    assert_eq!(record.number("number of entries"), 3);
    record.check_reserved();
    let table = usize::try_from(record.number("root page")).expect("a page");
    let leaf = Bytes::new("node", sample.page(table));
    assert_eq!(leaf.number("number of cells"), 3);
    leaf.check_reserved();
}

#[test]
fn segment_and_records_on_the_disk_are_as_documented() {
    let sample = Sample::new();
    let identity = sample.database.engine().identity();
    let names = sample.host.disk.list(Path::new("/db/wal")).expect("a log");
    let name = names[0].to_str().expect("digits");
    assert_eq!(name, "0000000000000001.wal");
    let log = sample.read(Path::new("/db/wal").join(name), 1 << 20);
    let segment = Bytes::new("segment", log[..512].to_vec());
    assert_eq!(segment.field("magic"), b"SFSWAL\0\x01");
    assert_eq!(segment.number("format version, 1"), 1);
    assert_eq!(segment.number("page size in bytes"), PAGE_BYTES as u64);
    assert_eq!(segment.field("database id"), identity.database.0);
    assert_eq!(segment.field("history id"), identity.history.0);
    assert_eq!(segment.number("sequence"), 1);
    assert_eq!(segment.number("epoch"), identity.epoch.0);
    segment.check_crc(0, 508);
    segment.check_reserved();
    let (salt, start) = (segment.field("salt"), segment.number("start LSN"));
    let (mut at, mut kinds) = (512, Vec::new());
    // Behind the last record are zeros.
    while log[at..].iter().any(|byte| *byte != 0) {
        let record = Bytes::new("record", log[at..].to_vec());
        let payload = usize::try_from(record.number("payload bytes")).expect("small");
        let covered = [salt, &record.bytes[4..24 + payload]].concat();
        assert_eq!(
            record.number("crc32 of: salt (8 bytes), bytes 4 .. 24 of the record, the payload"),
            u64::from(crc32fast::hash(&covered))
        );
        assert_eq!(record.number("LSN"), start + (at as u64 - 512));
        kinds.push(record.number("kind"));
        at += (24 + payload).next_multiple_of(8);
    }
    // Two new pages and the page count before: images; then what makes it a commit.
    assert_eq!(kinds.last(), Some(&3), "{kinds:?}");
    assert!(kinds[..kinds.len() - 1].iter().all(|kind| *kind == 1));
}

#[test]
fn summary_of_a_removed_segment_is_as_documented() {
    let sample = Sample::new();
    let identity = sample.database.engine().identity();
    sample.database.checkpoint().expect("a checkpoint");
    let lsn = sample.database.engine().header().commit().1.0;
    let pin = sample.database.pin().expect("a pin");
    let wall_ns = pin.view().header().wall_ns;
    let file = sample.read("/db/changes/0000000000000001.sum", 1 << 20);
    let summary = Bytes::new("summary", file[..64].to_vec());
    assert_eq!(summary.field("magic"), b"SFSSUM\0\x01");
    assert_eq!(summary.number("format version, 2"), 2);
    assert_eq!(summary.number("page size in bytes"), PAGE_BYTES as u64);
    assert_eq!(summary.field("database id"), identity.database.0);
    assert_eq!(summary.field("history id"), identity.history.0);
    assert_eq!(summary.number("sequence"), 1);
    summary.check_crc(0, 60);
    summary.check_reserved();
    let entry = Bytes::new("summary entry", file[64..].to_vec());
    assert_eq!(entry.number("start LSN"), 0);
    assert!(entry.number("end LSN") > lsn);
    assert_eq!(entry.number("epoch of the segment"), identity.epoch.0);
    assert_eq!(entry.number("runs of pages"), 1);
    assert_eq!(entry.number("LSN of the end of its last commit"), lsn);
    entry.check_crc(4, 56);
    let payload_bytes = usize::try_from(entry.number("payload bytes")).expect("small");
    let payload = &entry.bytes[56..56 + payload_bytes];
    let mark_bytes = entry.number("bytes of the marks, at the end of the payload");
    let runs_bytes = payload_bytes - usize::try_from(mark_bytes).expect("small");
    // The catalog and the leaf of the table.
    assert_eq!(payload[..runs_bytes], [2, 2]);
    assert_eq!(entry.number("marks of commits"), 1);
    let (marked, rest) = leb128(&payload[runs_bytes..]);
    assert_eq!((marked, leb128(rest)), (lsn, (wall_ns, &[][..])));
    let crc = crc32fast::hash(payload);
    assert_eq!(entry.number("crc32 of the payload"), u64::from(crc));
    assert_eq!(entry.bytes.len(), (56 + payload_bytes).next_multiple_of(8));
}

/// The number at the start of `bytes`, and what comes after it.
fn leb128(bytes: &[u8]) -> (u64, &[u8]) {
    let length = 1 + bytes.iter().take_while(|byte| **byte >= 0x80).count();
    let (number, rest) = bytes.split_at(length);
    let digits = number.iter().rev();
    let value = digits.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, rest)
}

#[test]
fn index_of_a_pin_is_as_documented() {
    let sample = Sample::new();
    let pin = sample.database.pin().expect("a pin");
    let facts = pin.view().header().clone();
    let name = format!("{}.pin", pin.id());
    assert_eq!(name.len(), 32 + 4);
    let file = sample.read(Path::new("/db/shadow").join(name), 1 << 20);
    let index = Bytes::new("index", file);
    assert_eq!(index.field("magic"), b"SFSPIN\0\x01");
    assert_eq!(index.number("format version, 1"), 1);
    assert_eq!(index.number("page size in bytes"), PAGE_BYTES as u64);
    assert_eq!(index.field("database id"), facts.database.0);
    assert_eq!(index.field("history id"), facts.history.0);
    assert_eq!(index.field("pin id"), facts.pin.0);
    assert_eq!(index.field("SHA-256"), facts.token_digest);
    assert_eq!(
        index.number("first accepted epoch"),
        facts.accepted_epochs[0].0
    );
    assert_eq!(
        index.number("second accepted epoch"),
        facts.accepted_epochs[1].0
    );
    assert_eq!(index.number("timestamp"), facts.timestamp.0);
    assert_eq!(index.number("its LSN"), facts.lsn.0);
    assert_eq!(index.number("its page count"), facts.page_count);
    assert_eq!(index.number("its wall clock"), facts.wall_ns);
    assert_eq!(index.number("device"), facts.live.device);
    assert_eq!(index.number("inode"), facts.live.inode);
    assert_eq!(index.number("flags: bit 0 = granted"), 1);
    assert_eq!(index.number("when the shadow is full"), 0);
    assert_eq!(index.number("device of the slot file"), facts.slots.device);
    assert_eq!(index.number("inode of the slot file"), facts.slots.inode);
    let taken = index.number("when the pin was taken");
    assert_eq!(u128::from(taken), facts.taken.as_millis());
    assert_eq!(
        index.number("maximum age in milliseconds"),
        24 * 60 * 60 * 1000
    );
    let limit = facts.shadow_limit_bytes.expect("there is a default");
    assert_eq!(index.number("shadow limit in bytes"), limit);
    let sequence = sample.database.engine().header().sequence;
    assert_eq!(index.number("sequence of the live header"), sequence);
    assert!(sequence > 0);
    index.check_crc(0, 508);
    index.check_reserved();
    let entries = index.bytes.len() as u64 - INDEX_HEADER_BYTES;
    assert_eq!(entries, facts.page_count * ENTRY_BYTES);
    let first = usize::try_from(INDEX_HEADER_BYTES).expect("small");
    let raw = u64::from_le_bytes(index.bytes[first..first + 8].try_into().expect("8 bytes"));
    let slot = usize::try_from((raw >> 32) - 1).expect("a slot");
    let slots = sample.read("/db/shadow/slots", (slot + 1) * PAGE_BYTES);
    let image = &slots[slot * PAGE_BYTES..];
    let crc = u32::from_le_bytes(image[..4].try_into().expect("4 bytes"));
    assert_eq!(raw & 0xffff_ffff, u64::from(crc), "page {}", PageNo(0));
    assert_eq!(Entry::Unreadable.encode(), 0xffff_ffff << 32);
}

/// The objects of a repository that are kept as files of the tests; their content is looked at where the
/// crate's own tests read them.
#[test]
fn packs_and_manifests_are_as_documented() {
    let folder = root().join("tests/fixtures/repository-1");
    let read = |object: &str| fs::read(folder.join(object)).expect("an object");
    let pack = read("packs/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1");
    let header = Bytes::new("pack header", pack[..64].to_vec());
    assert_eq!(header.field("magic"), b"SFSPACK\x01");
    assert_eq!(header.number("format version, 1"), u64::from(PACK_VERSION));
    assert_eq!(header.field("pack id"), [0xa1; 16]);
    header.check_crc(0, 60);
    header.check_reserved();
    let trailer = Bytes::new("pack trailer", pack[pack.len() - 32..].to_vec());
    assert_eq!(trailer.field("magic"), b"SFSPEND\x01");
    assert_eq!((trailer.number("frames"), trailer.number("slots")), (1, 2));
    let directory = usize::try_from(trailer.number("offset of the directory")).expect("small");
    let crc = crc32fast::hash(&pack[directory..pack.len() - 12]);
    assert_eq!(trailer.number("crc32 of the directory"), u64::from(crc));
    let frame = Bytes::new("pack frame", pack[directory..][..24].to_vec());
    assert_eq!(frame.number("stored bytes"), directory as u64 - 64);
    let crc = crc32fast::hash(&pack[64..directory]);
    assert_eq!(frame.number("crc32 of those"), u64::from(crc));
    assert_eq!(frame.number("form: 1 plain"), 1);
    let slot = Bytes::new("pack slot", pack[directory + 24..][..36].to_vec());
    assert_eq!(slot.field("digest"), Digest::of(&pack[64..80]).0);
    assert_eq!(slot.number("bytes before compression"), 16);

    let manifest = read("backups/20261120T190729Z-1f3a5c7e");
    let head = Bytes::new("manifest", manifest[..32].to_vec());
    assert_eq!(head.field("magic"), b"SFSMANI\x01");
    assert_eq!(head.number("format version, 1"), 1);
    let [facts, body] = ["facts bytes", "body bytes"].map(|field| head.number(field));
    assert_eq!(32 + facts + body + 4, manifest.len() as u64);
    for sentence in [
        format!("at most {FRAME_BYTES} bytes\ntogether"),
        format!("at most {SLOTS_MAX} in a pack"),
        format!("block of a plain file, of 1 to {UNIT_BYTES_MAX} bytes"),
    ] {
        assert!(document().contains(&sentence), "{sentence}");
    }
}

#[test]
fn bounds_of_the_control_protocol_are_as_documented() {
    let document = document();
    for sentence in [
        format!("Protocol version {PROTOCOL_VERSION}:"),
        format!("4 bytes n, 1 to {PAYLOAD_BYTES_MAX}"),
        format!("| path | v: length, at most {PATH_BYTES_MAX};"),
        format!("v count of pins (at most {PINS_PER_REPORT_MAX})"),
    ] {
        assert!(
            document.contains(&sentence),
            "docs/formats.md lacks: {sentence}"
        );
    }
}
