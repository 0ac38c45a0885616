//! How a thread stands back for others.

#![allow(unsafe_code)]

/// What the calling thread becomes: the others of a machine that is busy go first.
const NICE: i32 = 10;
/// `IOPRIO_WHO_PROCESS`: a thread, where 0 is the calling one.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The class "best effort" (2), and its lowest level (7).
const IOPRIO_LOWEST: libc::c_int = 2 << 13 | 7;

/// Lets every other thread go first, at the processor and at the disk, from here to the end of the
/// calling thread. Where the system refuses, it stays as it was; it never comes to stand before others.
pub fn stand_back() {
    // SAFETY: neither call takes a pointer; thread 0 is the calling one.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if nice < NICE {
        // SAFETY: as above.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    }
    // SAFETY: the call takes three numbers.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_LOWEST) };
}

/// Lets the calling thread run only where nobody else of its session or service wants to: it hardly gets
/// on where all processors are busy. Only the privileged come back from that. Where the system refuses, it
/// stays as it was.
pub fn stand_aside() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; thread 0 is the calling one.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: the call takes no pointer.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    fn policy() -> i32 {
        // SAFETY: the call takes no pointer; thread 0 is the calling one.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// The threads of whoever asks for a backup must stay as they are.
    #[test]
    fn only_the_thread_that_asks_stands_back() {
        let before = (nice(), policy());
        let behind = std::thread::spawn(|| {
            stand_back();
            let back = (nice(), policy());
            stand_aside();
            (back, policy())
        });
        let (back, aside) = behind.join().unwrap();
        assert_eq!(back, (before.0.max(NICE), before.1));
        assert_eq!(aside, libc::SCHED_IDLE);
        assert_eq!((nice(), policy()), before);
    }
}
