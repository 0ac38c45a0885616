//! What goes wrong on a simulated disk, and when.

use std::ffi::{OsStr, OsString};
use std::io;

/// A kind of call to the disk or to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `open` in any mode, `CreateNew` included.
    Open,
    /// `unnamed`.
    Unnamed,
    /// `read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `punch`.
    Punch,
    /// `sync_data`.
    SyncData,
    /// `start_write_back`.
    StartWriteBack,
    /// `try_lock`.
    Lock,
    /// `create_dir`.
    CreateDir,
    /// `remove` and `remove_dir`.
    Remove,
    /// `rename`; its file name is the one of the target.
    Rename,
    /// `link`; its file name is the new one.
    Link,
    /// `list`.
    List,
    /// `sync_dir`.
    SyncDir,
    /// `free_bytes`.
    FreeBytes,
}

#[derive(Clone, Copy, Debug)]
enum FaultEffect {
    Errno(i32),
    Kind(io::ErrorKind),
    Short(usize),
}

/// One thing that goes wrong.
///
/// Failing syncs (except with `EINTR`) decide for good which un-synced changes the disk keeps.
#[derive(Clone, Debug)]
pub struct Fault {
    operation: Operation,
    effect: FaultEffect,
    file_name: Option<OsString>,
    skipped: u64,
    times: u64,
}

impl Fault {
    /// The next `operation` fails with an error of the system, such as `libc::EIO`.
    #[must_use]
    pub fn errno(operation: Operation, code: i32) -> Self {
        Self::new(operation, FaultEffect::Errno(code))
    }

    /// The next `operation` fails with an error of this kind.
    #[must_use]
    pub fn kind(operation: Operation, kind: io::ErrorKind) -> Self {
        Self::new(operation, FaultEffect::Kind(kind))
    }

    /// The next read gives at most `bytes` bytes.
    #[must_use]
    pub fn short_read(bytes: usize) -> Self {
        Self::new(Operation::Read, FaultEffect::Short(bytes))
    }

    /// The next write takes at most `bytes` bytes.
    #[must_use]
    pub fn short_write(bytes: usize) -> Self {
        Self::new(Operation::Write, FaultEffect::Short(bytes))
    }

    fn new(operation: Operation, effect: FaultEffect) -> Self {
        Self {
            operation,
            effect,
            file_name: None,
            skipped: 0,
            times: 1,
        }
    }

    /// Not the next one, but the one after `count` that go well.
    #[must_use]
    pub fn after(self, count: u64) -> Self {
        Self {
            skipped: count,
            ..self
        }
    }

    /// Not once, but `count` times in a row; `u64::MAX` for ever.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self {
            times: count,
            ..self
        }
    }

    /// Only calls whose path ends with this name are counted and fail. Files have the name that they
    /// were opened under; unnamed ones have the one of their directory.
    #[must_use]
    pub fn on(self, file_name: impl Into<OsString>) -> Self {
        Self {
            file_name: Some(file_name.into()),
            ..self
        }
    }
}

/// How everything stops before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The machine: nobody can do anything any more.
    PowerOff,
    /// The process that was about to make the change.
    Kill,
}

/// A plan of what goes wrong, counted from when it is given to the disk.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each with the number of matching calls so far.
    faults: Vec<(Fault, u64)>,
    stop: Option<(u64, Stop)>,
    changes: u64,
}

/// What happens to a call.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may move so many bytes, and else goes well.
    Proceed {
        bytes_max: usize,
    },
    Fail(io::Error),
    Stop(Stop),
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// This goes wrong too.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push((fault, 0));
        self
    }

    /// The machine stops before the change with this number (0 is the next one).
    ///
    /// Changes are the calls that can alter what a crash leaves: open with `CreateNew`, write, set_len,
    /// both syncs, create_dir, remove, rename and link. From then on every call of every process fails.
    #[must_use]
    pub fn power_off_before_change(number: u64) -> Self {
        Self {
            stop: Some((number, Stop::PowerOff)),
            ..Self::default()
        }
    }

    /// The process that comes to make the change with this number is killed before it does.
    #[must_use]
    pub fn kill_before_change(number: u64) -> Self {
        Self {
            stop: Some((number, Stop::Kill)),
            ..Self::default()
        }
    }

    pub(super) fn judge(&mut self, operation: Operation, name: &OsStr, is_change: bool) -> Verdict {
        if is_change {
            let number = self.changes;
            self.changes += 1;
            if let Some((at, stop)) = self.stop
                && number == at
            {
                return Verdict::Stop(stop);
            }
        }
        let mut effect = None;
        for (fault, seen) in &mut self.faults {
            let matches = fault.operation == operation
                && fault
                    .file_name
                    .as_deref()
                    .is_none_or(|wanted| wanted == name);
            if !matches {
                continue;
            }
            let number = *seen;
            *seen += 1;
            if number >= fault.skipped && number - fault.skipped < fault.times {
                effect = effect.or(Some(fault.effect));
            }
        }
        match effect {
            None => Verdict::Proceed {
                bytes_max: usize::MAX,
            },
            Some(FaultEffect::Short(bytes_max)) => Verdict::Proceed { bytes_max },
            Some(FaultEffect::Errno(code)) => Verdict::Fail(io::Error::from_raw_os_error(code)),
            Some(FaultEffect::Kind(kind)) => Verdict::Fail(kind.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(faults: &mut Faults, operation: Operation, name: &str) -> bool {
        matches!(
            faults.judge(operation, OsStr::new(name), false),
            Verdict::Fail(_)
        )
    }

    #[test]
    fn fault_strikes_only_its_operation_on_its_file_in_its_turn() {
        let fault = Fault::errno(Operation::Write, libc::EIO)
            .on("a")
            .after(1)
            .times(2);
        let mut faults = Faults::none().with(fault);
        assert!(!fails(&mut faults, Operation::Write, "a"));
        assert!(!fails(&mut faults, Operation::Write, "b"));
        assert!(!fails(&mut faults, Operation::Read, "a"));
        assert!(fails(&mut faults, Operation::Write, "a"));
        assert!(fails(&mut faults, Operation::Write, "a"));
        assert!(!fails(&mut faults, Operation::Write, "a"));
    }

    #[test]
    fn fault_for_ever_does_not_end() {
        let mut faults = Faults::none()
            .with(Fault::kind(Operation::Open, io::ErrorKind::NotFound).times(u64::MAX));
        assert!((0..100).all(|_| fails(&mut faults, Operation::Open, "x")));
    }

    #[test]
    fn only_changes_are_counted_towards_the_stop() {
        let mut faults = Faults::power_off_before_change(1);
        let name = OsStr::new("a");
        assert!(matches!(
            faults.judge(Operation::Write, name, true),
            Verdict::Proceed { .. }
        ));
        assert!(matches!(
            faults.judge(Operation::Read, name, false),
            Verdict::Proceed { .. }
        ));
        let verdict = faults.judge(Operation::SyncData, name, true);
        assert!(matches!(verdict, Verdict::Stop(Stop::PowerOff)));
    }
}
