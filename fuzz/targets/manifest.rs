//! A manifest with patches in its facts and its body, and bodies of the fuzzer's own, decoded. What is
//! believed is encoded again and decoded once more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stillfs::codec;
use stillfs::repository::Manifest;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::repository::{MANIFEST, mend_manifest};

/// No databases in the facts, two packs and a root: what a body of the fuzzer's own stands behind.
const FACTS: &[u8] = br#"{"id":"20261120T190729Z-1f3a5c7e","kind":"full","parent":null,"full":"20261120T190729Z-1f3a5c7e","source":{"kind":"tree","path":"/","host":"h"},"tag":null,"stillfs":"0","begun_ns":1,"finished_ns":2,"moment_ns":3,"databases":[],"digest":"0000000000000000000000000000000000000000000000000000000000000000","statistics":{"files":0,"units":0,"units_read":0,"units_new":0,"bytes":0,"bytes_read":0,"bytes_new":0,"bytes_stored":0,"duration_ns":0},"left_out":[],"log_index":null,"term":null}"#;

fn seeds() -> Vec<Vec<u8>> {
    let facts = codec::get_u32(&MANIFEST, 16).expect("a whole manifest");
    let body = &MANIFEST[32 + facts as usize..MANIFEST.len() - 4];
    vec![[&[2], body].concat(), vec![0; 4], vec![1, 3, 9, 0x14, 0, 1]]
}

fuzz_target!(init: stillfs_fuzz::plant(&seeds()), |data: &[u8]| {
    let mut input = Input::new(data);
    let how = input.u8();
    let mut manifest = MANIFEST.clone();
    if how & 2 == 2 {
        manifest.truncate(32);
        codec::put(&mut manifest, 16, &(FACTS.len() as u32).to_le_bytes());
        manifest.extend_from_slice(FACTS);
        manifest.extend_from_slice(input.rest());
        manifest.extend([0; 4]);
    } else {
        input.patch(&mut manifest, 16);
    }
    if how & 3 != 0 {
        let facts_bytes = codec::get_u32(&manifest, 16).unwrap_or_default();
        mend_manifest(&mut manifest, facts_bytes as usize);
    }
    if let Ok(decoded) = Manifest::decode("m", &manifest) {
        assert_eq!(decoded.check(), Ok(()));
        let again = decoded.encode();
        assert_eq!(Manifest::decode("m", &again).expect("it was believed"), decoded);
    }
});
