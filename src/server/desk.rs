//! How a connection's work goes to another thread and comes back to its loop.
//!
//! ```text
//! loop --errand--> writer, or a thread of its own: run, commit, send --> desk --> loop
//! ```
//!
//! Whoever ran a batch sends the replies too, as far as the socket takes them, and leaves the work on the
//! connection's desk. The loop is only called if there is something for it to do: mostly it looks at the desk
//! when the client sends the next request. So a thread sleeps and wakes for many batches at once.

use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::{Sent, Work};
use super::session::ConnectionId;
use super::stream::Stream;
use crate::os::event_queue::EventQueue;

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) id: ConnectionId,
    pub(super) stream: Arc<Stream>,
}

/// What others have for a loop.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) newcomers: Vec<Newcomer>,
    /// Connections whose desks are to be looked at.
    pub(super) returned: Vec<ConnectionId>,
    /// Nobody comes any more.
    pub(super) is_last: bool,
}

/// Where others reach a loop.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) queue: EventQueue,
    mail: Mutex<Mail>,
}

impl Inbox {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            queue: EventQueue::new()?,
            mail: Mutex::default(),
        })
    }

    /// Adds to the mail and calls the loop.
    pub(super) fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.mail.lock());
        self.queue.call();
    }

    /// All that has come since the last time.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock())
    }
}

/// What lies on a desk.
#[derive(Debug, Default)]
enum Content {
    /// Nothing: the work is with its connection, or on its way.
    #[default]
    Nothing,
    /// Nothing, and the loop is to be called.
    Awaited,
    Back(Box<Work>),
    /// The thread that had it broke down.
    Lost,
}

/// What the loop finds.
#[derive(Debug)]
pub(super) enum Found {
    /// It is called as soon as there is something.
    Nothing,
    Back(Box<Work>),
    Lost,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Desk {
    id: ConnectionId,
    inbox: Arc<Inbox>,
    content: Mutex<Content>,
}

impl Desk {
    pub(super) fn new(id: ConnectionId, inbox: Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self {
            id,
            inbox,
            content: Mutex::default(),
        })
    }

    /// Takes what is there.
    pub(super) fn look(&self) -> Found {
        let mut content = self.content.lock();
        match std::mem::take(&mut *content) {
            Content::Nothing | Content::Awaited => {
                *content = Content::Awaited;
                Found::Nothing
            }
            Content::Back(work) => Found::Back(work),
            Content::Lost => Found::Lost,
        }
    }

    fn put(&self, found: Content, calls: bool) {
        let before = std::mem::replace(&mut *self.content.lock(), found);
        if calls || matches!(before, Content::Awaited) {
            self.inbox.post(|mail| mail.returned.push(self.id));
        }
    }
}

/// The work of a connection with another thread. Dropped before [`Self::finish`], it tells the loop that the
/// work is lost.
#[derive(Debug)]
pub(super) struct Errand {
    desk: Arc<Desk>,
    stream: Arc<Stream>,
    /// `None` while a batch of it runs, and once it is back.
    work: Option<Box<Work>>,
    /// The loop has something to do when it comes back.
    calls: bool,
    is_finished: bool,
}

impl Errand {
    pub(super) fn new(desk: Arc<Desk>, stream: Arc<Stream>, work: Box<Work>, calls: bool) -> Self {
        Self {
            desk,
            stream,
            work: Some(work),
            calls,
            is_finished: false,
        }
    }

    /// Takes the work, to be put back.
    pub(super) fn take(&mut self) -> Option<Box<Work>> {
        self.work.take()
    }

    pub(super) fn put_back(&mut self, work: Box<Work>) {
        self.work = Some(work);
    }

    /// Sends the replies, as far as that goes without waiting, and gives the work back to its loop.
    pub(super) fn finish(mut self) {
        let Some(mut work) = self.work.take() else {
            return;
        };
        // The wait for a guessed password comes before the reply, and is the loop's.
        let is_sent =
            work.session.penalty.is_none() && matches!(work.send(&self.stream), Ok(Sent::All));
        let calls = self.calls
            || !is_sent
            || !work.pending.is_empty()
            || work.session.is_closing
            || !work.session.is_authenticated;
        self.is_finished = true;
        self.desk.put(Content::Back(work), calls);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if !self.is_finished {
            self.desk.put(Content::Lost, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::server::budget::Budget;
    use crate::server::session::Session;

    fn errand(calls: bool) -> (Arc<Inbox>, Arc<Desk>, Errand) {
        let budget = Budget::new(0);
        let inbox = Arc::new(Inbox::new().unwrap());
        let desk = Desk::new(ConnectionId(7), Arc::clone(&inbox));
        let stream = Arc::new(Stream::Unix(UnixStream::pair().unwrap().0));
        let session = Session::new(ConnectionId(7), true, budget.share());
        let work = Work::new(session, budget.share());
        let errand = Errand::new(Arc::clone(&desk), stream, work, calls);
        (inbox, desk, errand)
    }

    /// A loop that has looked in vain is called, also if nobody knew that it would have something to do.
    #[test]
    fn work_that_comes_back_calls_its_loop_if_that_waits_for_it() {
        for (calls, looks) in [(false, false), (false, true), (true, false)] {
            let (inbox, desk, errand) = errand(calls);
            if looks {
                assert!(matches!(desk.look(), Found::Nothing));
            }
            errand.finish();
            let called = inbox.take().returned;
            assert_eq!(called.is_empty(), !calls && !looks);
            assert!(matches!(desk.look(), Found::Back(_)));
            assert!(matches!(desk.look(), Found::Nothing));
        }
    }

    #[test]
    fn work_that_is_dropped_is_lost_and_its_loop_called() {
        let (inbox, desk, mut errand) = errand(false);
        assert!(errand.take().is_some());
        drop(errand);
        assert_eq!(inbox.take().returned, [ConnectionId(7)]);
        assert!(matches!(desk.look(), Found::Lost));
    }
}
