//! What goes wrong in one step.

use stillfs::os::sim::{Fault, Faults, Operation};

use crate::draw::Draw;

/// Operations that the engine, the shadow and the readers make.
const OPERATIONS: &[Operation] = &[
    Operation::Open,
    Operation::Unnamed,
    Operation::Read,
    Operation::Read,
    Operation::Write,
    Operation::Write,
    Operation::Write,
    Operation::SetLen,
    Operation::SetLen,
    Operation::SyncData,
    Operation::SyncData,
    Operation::StartWriteBack,
    Operation::SyncDir,
    Operation::Lock,
    Operation::CreateDir,
    Operation::Remove,
    Operation::Rename,
    Operation::List,
    Operation::FreeBytes,
];

const FILES: &[&str] = &["data.pages", "slots", "shadow", "wal", "db"];

/// Draws a plan, and the words for it.
pub(crate) fn draw_faults(draw: &Draw) -> (Faults, String) {
    match draw.below(10) {
        0 | 1 => {
            let number = few(draw);
            let text = format!("the machine stops before change {number}");
            (Faults::power_off_before_change(number), text)
        }
        2 | 3 => {
            let number = few(draw);
            let text = format!("the process is killed before change {number}");
            (Faults::kill_before_change(number), text)
        }
        _ => draw_errors(draw),
    }
}

fn few(draw: &Draw) -> u64 {
    let most = draw.pick(&[2, 8, 40]);
    draw.below(most)
}

fn draw_errors(draw: &Draw) -> (Faults, String) {
    let mut faults = Faults::none();
    let mut texts = Vec::new();
    for _ in 0..draw.between(1, 2) {
        let (fault, what) = draw_effect(draw);
        let skipped = few(draw);
        let times = draw.pick(&[1, 1, 1, 3, u64::MAX]);
        // Whatever is interrupted for ever would be tried again for ever.
        let times = if what.contains("EINTR") {
            times.min(3)
        } else {
            times
        };
        let on = draw.one_in(2).then(|| draw.pick(FILES));
        let fault = fault.after(skipped).times(times);
        let fault = on.into_iter().fold(fault, Fault::on);
        faults = faults.with(fault);
        let on = on.unwrap_or("any file");
        texts.push(format!("{what} on {on} after {skipped}, {times} times"));
    }
    (faults, texts.join("; "))
}

fn draw_effect(draw: &Draw) -> (Fault, String) {
    match draw.below(8) {
        0 => {
            let bytes = draw.between(1, 5000);
            let most = usize::try_from(bytes).expect("small");
            (Fault::short_read(most), format!("read of {bytes} bytes"))
        }
        1 => {
            let bytes = draw.between(1, 5000);
            let most = usize::try_from(bytes).expect("small");
            (Fault::short_write(most), format!("write of {bytes} bytes"))
        }
        _ => {
            let operation = draw.pick(OPERATIONS);
            let (code, name) = draw.pick(&[(5, "EIO"), (5, "EIO"), (28, "ENOSPC"), (4, "EINTR")]);
            (
                Fault::errno(operation, code),
                format!("{name} of {operation:?}"),
            )
        }
    }
}
