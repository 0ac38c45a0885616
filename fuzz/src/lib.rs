//! What the fuzz targets share: where a target's input becomes bytes that a hostile writer could have
//! left, with real files as the start and checksums mended, so that no checksum stops the fuzzer.
//!
//! | module | what it is |
//! |---|---|
//! | [`input`] | the fuzzer's bytes as numbers, pieces and patches |
//! | [`memory_file`] | a file of bytes, and files of a simulated disk |
//! | [`page_image`] | pages and headers with their checksums mended |
//! | [`repository`] | packs and manifests, and the same with their checksums mended |
//! | [`sample`] | databases made by the real code |
//! | [`walk`] | everything that can be read of a database |
//! | [`wire`] | sockets whose other end says what the fuzzer wants |

pub mod allocation;
pub mod input;
pub mod memory_file;
pub mod page_image;
pub mod repository;
pub mod sample;
pub mod walk;
pub mod wire;

use std::path::Path;

/// What a target does first: writes its seeds to the directory in `STILLFS_FUZZ_SEEDS`, if it is set.
///
/// Real code makes them at that moment, so none needs to be kept.
pub fn plant(seeds: &[Vec<u8>]) {
    let Some(dir) = std::env::var_os("STILLFS_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in seeds.iter().enumerate() {
        let path = Path::new(&dir).join(format!("seed-{number}"));
        std::fs::write(path, seed).expect("the directory of the seeds can be written");
    }
}
