//! The pin client: the daemon's, or a command's, side of the conversation.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::error::{PinError, ProtocolFault};
use super::frame::{Frame, FrameFault, FrameSocket, IncomingDescriptors, Patience};
use super::messages::{
    ClientMessage, EndReason, PROTOCOL_VERSION, PinFacts, PinRequest, ReclaimRequest,
    ReclaimedFacts, RefusalKind, RestOfPins, ServerMessage, WelcomeFacts,
};
use super::service::{PinFiles, StatusReport};
use super::wire::{self, Name};
use crate::id::PinId;
use crate::os::readiness::{Deadline, StopSignal};
use crate::os::unix_socket::connect_within;

/// The most pins that a status report is believed to have.
const REPORTED_PINS_MAX: usize = 65_536;

/// How long a client waits for the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinClientTimeouts {
    /// For every answer but a pin.
    pub answer: Duration,
    /// For a pin, which may have to write much first.
    pub grant: Duration,
}

impl Default for PinClientTimeouts {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            grant: Duration::from_secs(600),
        }
    }
}

/// A connection to an engine, without a pin.
#[derive(Debug)]
pub struct PinClient {
    line: Line,
    welcome: WelcomeFacts,
}

/// A pin, as its holder has it.
#[derive(Debug)]
pub struct ClientPin {
    /// What was pinned.
    pub facts: PinFacts,
    /// What is read; checked to be what the facts say.
    pub files: PinFiles,
    /// What keeps it: dropping this ends the pin.
    pub lease: ClientLease,
}

/// The connection over which a pin was granted: the pin lives at most as long.
#[derive(Debug)]
pub struct ClientLease {
    line: Line,
    pin_id: PinId,
    state: LeaseState,
}

/// What a lease knows of its pin. It is for people: whether a read is right is told by the pin's
/// index and the live header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The engine is there and has said nothing.
    Held,
    /// The engine ended the pin.
    Ended(EndReason),
    /// The engine is gone. The pin is not over by that: nobody writes the live file, and the
    /// engine that starts next may adopt it.
    EngineGone,
}

impl PinClient {
    /// Connects and greets, with the default timeouts. `client_name` is shown to people.
    ///
    /// Errors: `NotRunning` without a socket or with nobody behind it; `Version`; `Refused`;
    /// `Timeout`; `Closed`; `Protocol`; `Io`.
    pub fn connect(socket_path: &Path, client_name: &str) -> Result<Self, PinError> {
        Self::connect_within(socket_path, client_name, PinClientTimeouts::default())
    }

    /// As [`Self::connect`], with timeouts of the caller's.
    pub fn connect_within(
        socket_path: &Path,
        client_name: &str,
        timeouts: PinClientTimeouts,
    ) -> Result<Self, PinError> {
        let stream = connect_within(socket_path, timeouts.answer)
            .map_err(|source| connect_error(socket_path, source))?;
        let socket =
            FrameSocket::new(stream, IncomingDescriptors::Take).map_err(|source| PinError::Io {
                op: "prepare",
                path: socket_path.to_owned(),
                source,
            })?;
        let mut line = Line {
            socket,
            timeouts,
            use_left: UseLeft::More,
        };
        let hello = ClientMessage::Hello {
            protocol_version: PROTOCOL_VERSION,
            client: Name::cut(client_name),
        };
        let doing = "greeting";
        match line.ask(&hello, timeouts.answer, doing)?.0 {
            ServerMessage::Welcome {
                protocol_version: PROTOCOL_VERSION,
                facts,
            } => Ok(Self {
                line,
                welcome: facts,
            }),
            ServerMessage::Welcome {
                protocol_version, ..
            } => Err(PinError::Version {
                ours: PROTOCOL_VERSION,
                theirs: protocol_version,
            }),
            _ => Err(out_of_turn(doing)),
        }
    }

    /// Whose engine answered.
    #[must_use]
    pub fn welcome(&self) -> &WelcomeFacts {
        &self.welcome
    }

    /// Asks for a pin. The connection becomes its lease.
    ///
    /// Errors: `Refused`; `Timeout`; `Closed`; `Protocol`, also for descriptors that are not what
    /// they must be. After each of them there is no pin.
    pub fn pin(mut self, request: &PinRequest) -> Result<ClientPin, PinError> {
        let doing = "pinning";
        let ask = ClientMessage::Pin {
            request: request.clone(),
        };
        let (message, received) = self.line.ask(&ask, self.line.timeouts.grant, doing)?;
        let ServerMessage::Granted { facts } = message else {
            return Err(out_of_turn(doing));
        };
        let files = PinFiles::from_received(received)
            .and_then(|files| files.check(facts.live_file()).map(|()| files))
            .map_err(|fault| protocol(doing, ProtocolFault::Files(fault)))?;
        let lease = ClientLease {
            line: self.line,
            pin_id: facts.pin_id,
            state: LeaseState::Held,
        };
        Ok(ClientPin {
            facts: *facts,
            files,
            lease,
        })
    }

    /// Asks for a pin back that an earlier engine granted, and whose files the caller still holds. The
    /// connection becomes its lease.
    ///
    /// Errors: `Refused`, of kind `UnknownPin` if this engine did not take it over; `Timeout`; `Closed`;
    /// `Protocol`.
    pub fn reclaim(
        mut self,
        request: &ReclaimRequest,
    ) -> Result<(ReclaimedFacts, ClientLease), PinError> {
        let doing = "reclaiming the pin";
        let ask = ClientMessage::Reclaim {
            request: request.clone(),
        };
        let timeout = self.line.timeouts.answer;
        match self.line.ask(&ask, timeout, doing)?.0 {
            ServerMessage::Reclaimed { facts } if facts.pin_id == request.pin_id => {
                let lease = ClientLease {
                    line: self.line,
                    pin_id: facts.pin_id,
                    state: LeaseState::Held,
                };
                Ok((facts, lease))
            }
            _ => Err(out_of_turn(doing)),
        }
    }

    /// How engine and pins are.
    ///
    /// Errors: as for a pin. After any but `Refused` the connection is of no more use, and every
    /// later call answers `Closed`: a late answer is never taken for that to another question.
    pub fn status(&mut self) -> Result<StatusReport, PinError> {
        let doing = "asking for the status";
        let timeout = self.line.timeouts.answer;
        let mut answer = self.line.ask(&ClientMessage::Status, timeout, doing)?.0;
        let mut all_pins = Vec::new();
        loop {
            let ServerMessage::StatusReport { engine, pins, rest } = answer else {
                return Err(self.line.out_of_turn(doing));
            };
            all_pins.extend(pins);
            if rest == RestOfPins::Complete {
                return Ok(StatusReport {
                    engine: *engine,
                    pins: all_pins,
                });
            }
            if all_pins.len() > REPORTED_PINS_MAX {
                self.line.use_left = UseLeft::Nothing;
                let fault = ProtocolFault::Endless {
                    pins_max: REPORTED_PINS_MAX,
                };
                return Err(protocol(doing, fault));
            }
            answer = self.line.hear(timeout, doing)?.0;
        }
    }

    /// Asks whether the engine answers. Errors: as for the status.
    pub fn ping(&mut self) -> Result<(), PinError> {
        let doing = "asking whether the engine is there";
        match self
            .line
            .ask(&ClientMessage::Ping, self.line.timeouts.answer, doing)?
            .0
        {
            ServerMessage::Pong => Ok(()),
            _ => Err(self.line.out_of_turn(doing)),
        }
    }
}

impl ClientPin {
    /// Closes the files and gives the pin back. Errors: those of [`ClientLease::release`].
    pub fn release(self) -> Result<(), PinError> {
        drop(self.files);
        self.lease.release()
    }
}

impl AsFd for ClientLease {
    /// Readable when [`ClientLease::wait_end`] has something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.socket.as_fd()
    }
}

impl ClientLease {
    /// Gives the pin back and waits until it has ended; no error if the engine ended it before.
    ///
    /// Errors: `Closed` if the engine is gone, `Timeout`, `Refused`, `Protocol`. The connection is
    /// closed in any case, which ends the pin as well.
    pub fn release(mut self) -> Result<(), PinError> {
        let doing = "releasing the pin";
        let timeout = self.line.timeouts.answer;
        let ask = ClientMessage::Release {
            pin_id: self.pin_id,
        };
        let (mut message, _) = self.line.ask(&ask, timeout, doing)?;
        // The engine may have ended the pin, and said so, before it heard the request.
        while let ServerMessage::Ended { .. } = message {
            (message, _) = self.line.hear(timeout, doing)?;
        }
        match message {
            ServerMessage::Released { pin_id } if pin_id == self.pin_id => Ok(()),
            _ => Err(out_of_turn(doing)),
        }
    }

    /// Waits until the engine says that the pin ended or is gone, or `timeout` is over.
    ///
    /// Returns `Held` after the timeout. What was once heard is answered at once from then on.
    ///
    /// Errors: `Protocol`, `Io`.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<LeaseState, PinError> {
        self.wait_end_or(timeout, None)
    }

    /// As [`Self::wait_end`]; whoever raises `stop` ends the wait as the timeout does.
    ///
    /// Errors: `Protocol`, `Io`.
    pub fn wait_end_or(
        &mut self,
        timeout: Duration,
        stop: Option<&StopSignal>,
    ) -> Result<LeaseState, PinError> {
        let doing = "watching the pin";
        let patience = Patience {
            deadline: Deadline::after(timeout),
            stop,
        };
        while self.state == LeaseState::Held {
            self.state = match self.line.socket.receive(patience) {
                Ok(frame) => self.state_after(frame, doing)?,
                Err(FrameFault::TimedOut | FrameFault::Stopped) => break,
                Err(FrameFault::Closed | FrameFault::Truncated) => LeaseState::EngineGone,
                Err(fault) => return Err(frame_error(doing, fault)),
            };
        }
        Ok(self.state)
    }

    fn state_after(&self, frame: Frame, doing: &'static str) -> Result<LeaseState, PinError> {
        match understand(frame, doing)?.0 {
            ServerMessage::Ended { pin_id, reason } if pin_id == self.pin_id => {
                Ok(LeaseState::Ended(reason))
            }
            _ => Err(out_of_turn(doing)),
        }
    }
}

/// An answer, and the descriptors that came with it.
type Heard = (ServerMessage, Vec<OwnedFd>);

/// A connection on which one question is open at a time.
#[derive(Debug)]
struct Line {
    socket: FrameSocket,
    timeouts: PinClientTimeouts,
    use_left: UseLeft,
}

/// Whether the next answer on a line is sure to belong to the next question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UseLeft {
    /// It is.
    More,
    /// A question went unanswered, or was answered wrongly.
    Nothing,
}

impl Line {
    /// Sends a question and waits for the next message, a refusal being an error.
    fn ask(
        &mut self,
        message: &ClientMessage,
        timeout: Duration,
        doing: &'static str,
    ) -> Result<Heard, PinError> {
        if self.use_left == UseLeft::Nothing {
            return Err(PinError::Closed { doing });
        }
        let patience = Patience {
            deadline: Deadline::after(self.timeouts.answer),
            stop: None,
        };
        match self.socket.send(&wire::encode(message), &[], patience) {
            // A server that turns us away closes at once, but its reason can still be read.
            Ok(()) | Err(FrameFault::Closed) => self.hear(timeout, doing),
            Err(fault) => {
                self.use_left = UseLeft::Nothing;
                Err(frame_error(doing, fault))
            }
        }
    }

    fn hear(&mut self, timeout: Duration, doing: &'static str) -> Result<Heard, PinError> {
        let patience = Patience {
            deadline: Deadline::after(timeout),
            stop: None,
        };
        let heard = self
            .socket
            .receive(patience)
            .map_err(|fault| frame_error(doing, fault))
            .and_then(|frame| understand(frame, doing));
        match heard {
            Ok((
                ServerMessage::Refused {
                    kind: RefusalKind::Version { server },
                    ..
                },
                _,
            )) => Err(PinError::Version {
                ours: PROTOCOL_VERSION,
                theirs: server,
            }),
            Ok((ServerMessage::Refused { kind, message }, _)) => {
                Err(PinError::Refused { kind, message })
            }
            Ok(heard) => Ok(heard),
            Err(error) => {
                self.use_left = UseLeft::Nothing;
                Err(error)
            }
        }
    }

    /// The answer was of another kind than the question.
    fn out_of_turn(&mut self, doing: &'static str) -> PinError {
        self.use_left = UseLeft::Nothing;
        out_of_turn(doing)
    }
}

fn understand(frame: Frame, doing: &'static str) -> Result<Heard, PinError> {
    let message: ServerMessage = wire::decode(&frame.payload)
        .map_err(|fault| protocol(doing, ProtocolFault::Message(fault)))?;
    if !frame.descriptors.is_empty() && !matches!(message, ServerMessage::Granted { .. }) {
        return Err(protocol(doing, ProtocolFault::Descriptors));
    }
    Ok((message, frame.descriptors))
}

fn connect_error(path: &Path, source: io::Error) -> PinError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            PinError::NotRunning { path, source }
        }
        _ => PinError::Io {
            op: "connect to",
            path,
            source,
        },
    }
}

fn frame_error(doing: &'static str, fault: FrameFault) -> PinError {
    match fault {
        FrameFault::TimedOut => PinError::Timeout { doing },
        FrameFault::Closed => PinError::Closed { doing },
        other => protocol(doing, ProtocolFault::Frame(other)),
    }
}

fn protocol(doing: &'static str, fault: ProtocolFault) -> PinError {
    PinError::Protocol { doing, fault }
}

fn out_of_turn(doing: &'static str) -> PinError {
    protocol(doing, ProtocolFault::OutOfTurn)
}

#[cfg(test)]
mod tests;
