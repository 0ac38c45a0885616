//! What a hostile client sends to a pin server: frames, messages, out of turn and cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stillfs::os::unix_socket;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::wire::{self, ENGINE};

fuzz_target!(
    init: stillfs_fuzz::plant(&[
        [&[1], &wire::conversation()[..]].concat(),
        vec![2, 0, 1, 0, 4, 0, 1, 0, 5],
        // Pin, with every field; Release; Reclaim.
        vec![2, 0, 10, 0, 1, 1, 100, 0, 1, 50, 1, b'h', 2, b'/', b'm'],
        [&[2, 0, 17, 0, 3][..], &[9; 16]].concat(),
        [&[2, 0, 65, 0, 2][..], &[9; 64]].concat(),
    ]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let bytes = match input.u8() {
            0 => wire::frames(&mut input),
            1 => input.rest().to_vec(),
            _ => [wire::HELLO, &wire::frames(&mut input)].concat(),
        };
        let stream = unix_socket::connect(&ENGINE.socket());
        wire::converse(stream.expect("the server is there"), &bytes);
    }
);
