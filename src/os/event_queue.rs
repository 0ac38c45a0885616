//! Waiting for many sockets at once, in one thread that others may call (`epoll`, `eventfd`).
//!
//! A socket is told of once when something becomes possible, and not again before that was used up: whoever
//! hears of it remembers it until a call on the socket fails with `WouldBlock`, or moves less than it could.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What is told at once.
const EVENTS_MAX: usize = 256;
/// Stands for a call.
const CALL: u64 = u64::MAX;

/// What has become possible with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which socket.
    pub token: u64,
    /// The other side sends nothing more, or the socket is shut down: after what was sent, reading finds
    /// the end.
    pub has_ended: bool,
    /// It failed, or is shut down in both directions.
    pub is_cut: bool,
}

/// See the head of the file.
#[derive(Debug)]
pub struct EventQueue {
    epoll: Epoll,
    call: EventFd,
    is_called: AtomicBool,
}

impl EventQueue {
    /// A queue that watches nothing yet. Costs two descriptors. Errors: the system's.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let call = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&call, EpollEvent::new(EpollFlags::EPOLLIN, CALL))?;
        Ok(Self {
            epoll,
            call,
            is_called: AtomicBool::new(false),
        })
    }

    /// Tells of bytes to read from `socket`, and of its end, from now on. Shape: `token` is not
    /// `u64::MAX`. Errors: the system's.
    pub fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        debug_assert_ne!(token, CALL);
        Ok(self.epoll.add(socket, EpollEvent::new(READING, token))?)
    }

    /// Whether it also tells of room to write; if there is some already, then of that. Errors: the
    /// system's.
    pub fn set_watches_room(
        &self,
        socket: BorrowedFd<'_>,
        token: u64,
        watches: bool,
    ) -> io::Result<()> {
        let flags = match watches {
            true => READING | EpollFlags::EPOLLOUT,
            false => READING,
        };
        Ok(self
            .epoll
            .modify(socket, &mut EpollEvent::new(flags, token))?)
    }

    /// Tells nothing of `socket` any more. Errors: the system's.
    pub fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(socket)?)
    }

    /// Ends the present wait, or the next one.
    pub fn call(&self) {
        if !self.is_called.swap(true, Ordering::SeqCst) {
            // It fails only where calls have added up to 2^64, and wakes then too.
            let _ = self.call.write(1);
        }
    }

    /// Waits until there are events, somebody calls, or `timeout` has passed (`None` is for ever), and
    /// puts the events into `events` in place of what was there. Signals do not end it early.
    ///
    /// Errors: the system's, for want of memory.
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut found = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut found, rounded_up(timeout)) {
            // Whoever waits looks at the time anyway.
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in found.iter().take(count) {
            if event.data() == CALL {
                let _ = self.call.read();
                // Before whoever was called looks for why: a later call is heard by the next wait.
                self.is_called.store(false, Ordering::SeqCst);
                continue;
            }
            let has = |flags| event.events().intersects(flags);
            let is_cut = has(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            events.push(Event {
                token: event.data(),
                has_ended: is_cut || has(EpollFlags::EPOLLRDHUP),
                is_cut,
            });
        }
        Ok(())
    }
}

const READING: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// To whole milliseconds, so that a wait never turns into a busy loop.
fn rounded_up(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else {
        return EpollTimeout::NONE;
    };
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    fn tokens(queue: &EventQueue, timeout: Option<Duration>) -> Vec<u64> {
        let mut events = Vec::new();
        queue.wait(&mut events, timeout).unwrap();
        events.iter().map(|event| event.token).collect()
    }

    #[test]
    fn what_can_be_read_is_told_once_and_the_end_too() {
        let queue = EventQueue::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        queue.add(far.as_fd(), 7).unwrap();
        assert!(tokens(&queue, SOON).is_empty());
        near.write_all(b"x").unwrap();
        assert_eq!(tokens(&queue, None), [7]);
        assert!(tokens(&queue, SOON).is_empty());
        near.shutdown(Shutdown::Write).unwrap();
        let mut events = Vec::new();
        queue.wait(&mut events, None).unwrap();
        assert!(events[0].has_ended && !events[0].is_cut);
        drop(near);
        queue.wait(&mut events, None).unwrap();
        assert!(events[0].is_cut);
        queue.remove(far.as_fd()).unwrap();
        far.shutdown(Shutdown::Both).unwrap();
        assert!(tokens(&queue, SOON).is_empty());
    }

    #[test]
    fn room_is_told_of_while_it_is_watched() {
        let queue = EventQueue::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        queue.add(far.as_fd(), 1).unwrap();
        while (&far).write(&[0; 4096]).is_ok() {}
        queue.set_watches_room(far.as_fd(), 1, true).unwrap();
        assert!(tokens(&queue, SOON).is_empty());
        near.set_nonblocking(true).unwrap();
        while near.read(&mut [0; 65536]).is_ok() {}
        assert_eq!(tokens(&queue, None), [1]);
        queue.set_watches_room(far.as_fd(), 1, false).unwrap();
        assert!(tokens(&queue, SOON).is_empty());
    }

    #[test]
    fn calls_end_a_wait_and_none_is_lost() {
        let queue = EventQueue::new().unwrap();
        queue.call();
        queue.call();
        assert!(tokens(&queue, None).is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| queue.call());
            assert!(tokens(&queue, None).is_empty());
        });
        queue.call();
        assert!(tokens(&queue, None).is_empty());
    }
}
