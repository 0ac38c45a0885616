//! What can go wrong between an engine and whoever wants a pin, as facts.

use std::io;
use std::path::PathBuf;

use super::frame::FrameFault;
use super::messages::RefusalKind;
use super::service::PinFilesFault;
use super::wire::{MessageFault, Sentence};

/// Any failure of pin client or pin server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No engine answers there: no socket, or nobody behind it. Whether an engine really runs is
    /// told by the directory's lock alone.
    #[error("no engine answers at {}: {source}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The engine said no.
    #[error("the engine refuses: {message}")]
    Refused {
        /// Why, for programs.
        kind: RefusalKind,
        /// Why, for people.
        message: Sentence,
    },
    /// Client and engine are of builds that cannot talk to each other.
    #[error(
        "the engine speaks version {theirs} of the pin protocol, this build speaks {ours}; \
         use the same build of stillfs for both"
    )]
    Version {
        /// The version of this build.
        ours: u32,
        /// The version of the engine.
        theirs: u32,
    },
    /// The other side did not answer in time.
    #[error("the engine did not answer in time: {doing}")]
    Timeout {
        /// What was waited for.
        doing: &'static str,
    },
    /// The engine went away in the middle of a conversation.
    #[error("the engine closed the connection: {doing}")]
    Closed {
        /// What was waited for.
        doing: &'static str,
    },
    /// The other side does not keep to the protocol.
    #[error("the engine does not keep to the pin protocol: {doing}: {fault}")]
    Protocol {
        /// What was waited for.
        doing: &'static str,
        /// What it did.
        fault: ProtocolFault,
    },
    /// The system refused something.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// How the other side broke the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolFault {
    /// A frame that cannot be one.
    #[error(transparent)]
    Frame(FrameFault),
    /// A frame whose payload is no message.
    #[error(transparent)]
    Message(MessageFault),
    /// A message that does not belong here.
    #[error("a message out of turn")]
    OutOfTurn,
    /// Descriptors with a message that has none.
    #[error("descriptors with a message that has none")]
    Descriptors,
    /// A granted pin whose descriptors are not what they must be.
    #[error(transparent)]
    Files(PinFilesFault),
    /// A status report without end.
    #[error("a status report of more than {pins_max} pins")]
    Endless {
        /// The most that is taken.
        pins_max: usize,
    },
}
