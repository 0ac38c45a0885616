//! The three files of an SQLite database in WAL mode as a hostile application leaves them: recognised,
//! pinned with its index and by its log alone, and read.
#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use stillfs::source::sqlite::hostile::{Bytes, show, show_on_media};
use stillfs_fuzz::input::Input;

/// Bytes of a page, and of what a patch of the input is counted in.
const PAGE_BYTES: usize = 512;

thread_local! {
    static PLACE: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0; 8], vec![1; 8], vec![3, 0, 0, 0, 0, 0x14, 0, 128]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let how = input.u8();
        let mut bytes = honest(how & 8 == 8);
        input.patch(&mut bytes.index, PAGE_BYTES);
        input.patch(&mut bytes.log, PAGE_BYTES);
        input.patch(&mut bytes.database, PAGE_BYTES);
        if how & 1 == 1 {
            bytes.mend();
        }
        if how & 2 == 2 {
            bytes.log.truncate(usize::from(input.u16()));
        }
        if how & 4 == 4 {
            bytes.index.truncate(usize::from(input.u16()));
        }
        PLACE.with(|place| {
            let place = place.get_or_init(|| tempfile::tempdir().expect("there is room"));
            for shown in [show(place.path(), &bytes), show_on_media(place.path(), &bytes)] {
                let _ = format!("{:?}", shown.expect("files can be written"));
            }
        });
    }
);

/// A database of four pages of which two are in the log, with an index that says so.
fn honest(is_big_endian: bool) -> Bytes {
    let mut database = vec![7; 4 * PAGE_BYTES];
    database[..20].copy_from_slice(b"SQLite format 3\0\x02\0\x02\x02");
    let mut log = Vec::new();
    log.extend((0x377f_0682 | u32::from(is_big_endian)).to_be_bytes());
    for number in [3_007_000, 512, 1, 0x1122_3344, 0x5566_7788, 0, 0_u32] {
        log.extend(number.to_be_bytes());
    }
    let mut index = vec![0; 32_768];
    for (frame, (page, commit_pages)) in [(2_u32, 0_u32), (4, 0), (2, 4)].into_iter().enumerate() {
        for number in [page, commit_pages, 0x1122_3344, 0x5566_7788, 0, 0] {
            log.extend(number.to_be_bytes());
        }
        log.extend([page.to_le_bytes()[0]; PAGE_BYTES]);
        index[136 + 4 * frame..][..4].copy_from_slice(&page.to_le_bytes());
    }
    index[..4].copy_from_slice(&3_007_000_u32.to_le_bytes());
    index[12] = 1;
    index[14..16].copy_from_slice(&512_u16.to_le_bytes());
    index[16..20].copy_from_slice(&3_u32.to_le_bytes());
    index[20..24].copy_from_slice(&4_u32.to_le_bytes());
    index[32..40].copy_from_slice(&log[16..24]);
    index[104..108].copy_from_slice(&3_u32.to_le_bytes());
    let mut bytes = Bytes {
        database,
        log,
        index,
    };
    bytes.mend();
    bytes
}
