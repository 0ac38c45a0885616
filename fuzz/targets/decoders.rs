//! Small decoders by themselves, with and without a right checksum, and mount records.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use stillfs::engine::header::Header;
use stillfs::lsn::Lsn;
use stillfs::mount::MountRecord;
use stillfs::page::{self, PAGE_HEADER_BYTES, PageNo};
use stillfs::shadow::index::{Entry, IndexHeader};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::page_image::{field, mend_page, mend_sector};
use stillfs_fuzz::sample;

const RECORD: &[u8] = br#"_{"mount_point":"/m","source":[47,115],"source_kind":"stillfs","pid":1,"started_wall_ns":2,"pin_id":"00","timestamp":3,"snapshot_wall_ns":4,"expires_wall_ns":5,"facts":{"a":"b"}}"#;

fn seeds() -> Vec<Vec<u8>> {
    let page_file = sample::content(&sample::CLOSED, "data.pages");
    let pins = sample::PINNED.iter();
    let mut index = pins.filter(|(path, _)| path.extension().is_some_and(|ending| ending == "pin"));
    let index = &index.next_back().expect("the sample has two pins").1;
    vec![
        [&[1], &page_file[..512]].concat(),
        [&[3], &index[..512]].concat(),
        [&[5], &page_file[8192..12288]].concat(),
        RECORD.to_vec(),
    ]
}

fuzz_target!(init: stillfs_fuzz::plant(&seeds()), |data: &[u8]| {
    let mut input = Input::new(data);
    let what = input.u8();
    let mut bytes = input.rest().to_vec();
    match what {
        0..=1 => {
            if what == 1 {
                mend_sector(&mut bytes, 32);
            }
            if let Ok(header) = Header::decode(&bytes) {
                let again = header.encode(PageNo(0));
                assert_eq!(Header::decode(&again).as_ref(), Ok(&header));
            }
        }
        2..=3 => {
            if what == 3 {
                mend_sector(&mut bytes, 0);
            }
            if let Ok(header) = IndexHeader::decode(&bytes) {
                assert_eq!(IndexHeader::decode(&header.encode()), Ok(header));
            }
            let raw = field(&bytes, 0);
            if let Some(entry) = Entry::decode(raw) {
                assert_eq!(entry.encode(), raw);
            }
        }
        4..=5 => {
            if what == 5 && bytes.len() >= PAGE_HEADER_BYTES {
                mend_page(&mut bytes);
            }
            let _ = black_box(page::check(&bytes, PageNo(field(&bytes, 8)), Lsn::MAX));
        }
        _ => {
            if let Ok(record) = serde_json::from_slice::<MountRecord>(&bytes) {
                let text = serde_json::to_string(&record).expect("a record can be written");
                let again = serde_json::from_str::<MountRecord>(&text);
                assert_eq!(again.expect("what was written can be read"), record);
            }
        }
    }
});
