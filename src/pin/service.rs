//! What the pin server needs of a database: it owns this contract, the database implements it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::messages::{
    EndReason, EngineStatus, PinFacts, PinRequest, PinStatus, RefusalKind, WelcomeFacts,
};
use super::wire::Sentence;
use crate::os::FileIdentity;
use crate::os::descriptor::{Access, FileKind, OnExec, describe};
use crate::os::unix_socket::PeerCredentials;

/// A database that can be pinned. Called from many threads at once.
pub trait PinService: Send + Sync {
    /// Whose engine this is. Must not block.
    fn welcome(&self) -> WelcomeFacts;

    /// Makes a pin; may take as long as a spill does.
    ///
    /// The index descriptor of what is returned carries a shared `flock`, which lives in the
    /// client's copy of the descriptor for as long as the client does.
    ///
    /// Errors: why not; the message is shown to the user.
    fn pin(&self, request: &PinRequest, peer: &PeerCredentials) -> Result<GrantedPin, PinRefusal>;

    /// Looks after the pins: called about once a second. Must not block.
    fn tend(&self);

    /// How engine and pins are.
    fn status(&self) -> StatusReport;
}

/// The engine's side of one granted pin. Dropping it ends the pin, unless it has ended before.
pub trait PinLease: Send {
    /// Ends the pin; nothing happens if it has ended. When this returns, every later read of the
    /// pin fails.
    fn release(self: Box<Self>);

    /// Lets go of the pin without ending it: an engine that starts later may adopt it. Only said
    /// while this engine stops, after which nothing writes its live file.
    fn leave(self: Box<Self>);

    /// Why the pin has ended, if it has: by its age, for want of room, by a failed sync.
    fn ended(&self) -> Option<EndReason>;
}

/// A pin that can be handed to a client.
pub struct GrantedPin {
    /// What was pinned.
    pub facts: PinFacts,
    /// What is read.
    pub files: PinFiles,
    /// What ends it.
    pub lease: Box<dyn PinLease>,
}

impl fmt::Debug for GrantedPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedPin")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Why a pin is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRefusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: Sentence,
}

impl PinRefusal {
    /// A refusal; of `message` is kept what a message can carry.
    #[must_use]
    pub fn new(kind: RefusalKind, message: &str) -> Self {
        Self {
            kind,
            message: Sentence::cut(message),
        }
    }
}

/// How an engine and its pins are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// The engine.
    pub engine: EngineStatus,
    /// Its pins.
    pub pins: Vec<PinStatus>,
}

/// The three files that a pin is read from, opened for reading only.
#[derive(Debug)]
pub struct PinFiles {
    /// The live file.
    pub live: OwnedFd,
    /// The shadow's slots.
    pub shadow: OwnedFd,
    /// The pin's index. Never to be opened anew: this descriptor carries the lock that keeps the
    /// pin alive.
    pub index: OwnedFd,
}

/// How many descriptors a pin has.
pub(crate) const PIN_FILE_COUNT: usize = 3;

/// Which of a pin's descriptors is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinFile {
    /// The live file.
    Live,
    /// The shadow's slots.
    Shadow,
    /// The pin's index.
    Index,
}

impl fmt::Display for PinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live file",
            Self::Shadow => "shadow",
            Self::Index => "pin index",
        })
    }
}

/// What is wrong with the descriptors of a pin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinFilesFault {
    /// There are not three.
    #[error("{found} descriptors instead of {PIN_FILE_COUNT}")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// The kernel would not tell about one.
    #[error("cannot look at the descriptor of the {file}: {source}")]
    Unknown {
        /// Which.
        file: PinFile,
        /// What it said.
        source: io::Error,
    },
    /// One is a directory, a pipe, a device.
    #[error("the {file} is not a regular file")]
    NotRegular {
        /// Which.
        file: PinFile,
    },
    /// One can be written, or cannot be read.
    #[error("the descriptor of the {file} is not for reading only")]
    NotReadOnly {
        /// Which.
        file: PinFile,
    },
    /// A child process would inherit one, and with it the pin.
    #[error("the descriptor of the {file} would outlive exec")]
    KeptOnExec {
        /// Which.
        file: PinFile,
    },
    /// The live file is another one than the facts say.
    #[error("the live file is {found:?}, but the pin is of {expected:?}")]
    OtherFile {
        /// What the facts say.
        expected: FileIdentity,
        /// What the descriptor says.
        found: FileIdentity,
    },
}

impl PinFacts {
    /// The live file that was pinned.
    #[must_use]
    pub fn live_file(&self) -> FileIdentity {
        FileIdentity {
            device: self.live_device,
            inode: self.live_inode,
        }
    }
}

impl PinFiles {
    /// Takes what came over the socket: live file, shadow, index.
    pub(crate) fn from_received(received: Vec<OwnedFd>) -> Result<Self, PinFilesFault> {
        let found = received.len();
        let [live, shadow, index] = <[OwnedFd; PIN_FILE_COUNT]>::try_from(received)
            .map_err(|_| PinFilesFault::Count { found })?;
        Ok(Self {
            live,
            shadow,
            index,
        })
    }

    /// In the order in which they are sent.
    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; PIN_FILE_COUNT] {
        [self.live.as_fd(), self.shadow.as_fd(), self.index.as_fd()]
    }

    /// Both sides check what they hand over and what they get (invariant P4).
    ///
    /// Errors: the first thing that is wrong.
    pub fn check(&self, expected: FileIdentity) -> Result<(), PinFilesFault> {
        let found = check_one(PinFile::Live, &self.live)?;
        check_one(PinFile::Shadow, &self.shadow)?;
        check_one(PinFile::Index, &self.index)?;
        if found == expected {
            Ok(())
        } else {
            Err(PinFilesFault::OtherFile { expected, found })
        }
    }
}

fn check_one(file: PinFile, fd: &OwnedFd) -> Result<FileIdentity, PinFilesFault> {
    let facts = describe(fd.as_fd()).map_err(|source| PinFilesFault::Unknown { file, source })?;
    if facts.kind != FileKind::Regular {
        return Err(PinFilesFault::NotRegular { file });
    }
    if facts.access != Access::ReadOnly {
        return Err(PinFilesFault::NotReadOnly { file });
    }
    if facts.on_exec != OnExec::Close {
        return Err(PinFilesFault::KeptOnExec { file });
    }
    Ok(facts.identity)
}
