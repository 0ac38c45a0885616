//! What a mount daemon knows of whoever started it, and of the command that the view is for.
//!
//! It hears words on its standard input: of `mount`, [`TAKEN_OVER`]; of `run`, [`COMMAND`] with the
//! command's number and, when that has ended, [`FINISHED`]. An end without the last word is the end of
//! the starter itself, whatever ended it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};

use crate::os::Clock;
use crate::os::process::{RunningProcess, is_in_some_environment};

/// Where the command finds the view.
pub(crate) const MOUNT_VARIABLE: &str = "STILLFS_MOUNT";

/// The starter has noted that the view is mounted, and goes.
const TAKEN_OVER: u8 = b'k';
/// Four bytes follow, little-endian: the number of the process that the view is for.
const COMMAND: u8 = b'c';
/// The command has ended; the view may go.
const FINISHED: u8 = b'f';
/// Between two looks for the command.
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// How listening to a starter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has handed the view over.
    TakenOver,
    /// Its command has ended.
    Finished,
    /// It is gone in the middle; its command, as far as it was started, may live.
    Gone { command: Option<RunningProcess> },
}

/// Listens until nothing more is to be heard.
pub(super) fn listen(mut input: impl Read) -> Heard {
    let mut command = None;
    let mut word = [0];
    while input.read_exact(&mut word).is_ok() {
        match word {
            [TAKEN_OVER] => return Heard::TakenOver,
            [FINISHED] => return Heard::Finished,
            [COMMAND] => {
                let mut number = [0; 4];
                if input.read_exact(&mut number).is_ok() {
                    command = RunningProcess::find(u32::from_le_bytes(number));
                }
            }
            // No word of this program.
            _ => break,
        }
    }
    Heard::Gone { command }
}

/// Errors: the daemon is gone.
pub(super) fn say_taken_over(mut to: impl Write) -> io::Result<()> {
    to.write_all(&[TAKEN_OVER])
}

/// Errors: the daemon is gone.
pub(super) fn say_command(mut to: impl Write, number: u32) -> io::Result<()> {
    let [a, b, c, d] = number.to_le_bytes();
    to.write_all(&[COMMAND, a, b, c, d])
}

/// Errors: the daemon is gone.
pub(super) fn say_finished(mut to: impl Write) -> io::Result<()> {
    to.write_all(&[FINISHED])
}

/// Waits until nobody of a command lives, by its number and by the variable that its children inherit,
/// and until `leave` agrees.
pub(super) fn outlive(
    command: Option<RunningProcess>,
    mount: &OsStr,
    clock: &dyn Clock,
    mut leave: impl FnMut() -> bool,
) {
    let lives = || {
        command.is_some_and(RunningProcess::is_running)
            // Where nothing can be known, somebody may live.
            || is_in_some_environment(MOUNT_VARIABLE, mount).unwrap_or(true)
    };
    loop {
        clock.sleep(LOOK_PAUSE);
        // The second look finds who was just being started at the first.
        if !lives() && !lives() && leave() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_word_tells_a_finished_command_from_a_starter_that_was_killed() {
        let mut said = Vec::new();
        assert_eq!(listen(&said[..]), Heard::Gone { command: None });
        let own = std::process::id();
        say_command(&mut said, own).unwrap();
        let command = RunningProcess::find(own);
        assert!(command.is_some());
        assert_eq!(listen(&said[..]), Heard::Gone { command });
        assert_eq!(listen(&said[..3]), Heard::Gone { command: None });
        say_finished(&mut said).unwrap();
        assert_eq!(listen(&said[..]), Heard::Finished);
        let mut said = Vec::new();
        say_taken_over(&mut said).unwrap();
        assert_eq!(listen(&said[..]), Heard::TakenOver);
        assert_eq!(listen(&b"?f"[..]), Heard::Gone { command: None });
    }
}
