//! The server's side of one conversation, on a thread of its own.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::frame::{FrameFault, FrameSocket, IncomingDescriptors, Patience};
use super::limits::{EndPins, PinServerLimits};
use super::messages::{
    ClientMessage, EndReason, PINS_PER_REPORT_MAX, PROTOCOL_VERSION, PinRequest, ReclaimRequest,
    RefusalKind, RestOfPins, ServerMessage,
};
use super::seats::{Seat, Seats};
use super::service::{GrantedPin, PinLease, PinRefusal, PinService, ReclaimedPin};
use super::wire::{self, MessageFault, Sentence};
use crate::id::PinId;
use crate::os::readiness::{Deadline, Interest, StopSignal, Wake, wait};
use crate::os::unix_socket::PeerCredentials;

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) service: Arc<dyn PinService>,
    pub(crate) limits: PinServerLimits,
    pub(crate) stop: StopSignal,
    /// What happens to pins at the stop; set before it is signalled.
    pub(crate) at_stop: Mutex<EndPins>,
    pub(crate) connections: Arc<Seats>,
    pub(crate) pins: Arc<Seats>,
    /// The user that the server runs as.
    pub(crate) own_uid: u32,
}

impl Shared {
    fn patience(&self, duration: Duration) -> Patience<'_> {
        Patience {
            deadline: Deadline::after(duration),
            stop: Some(&self.stop),
        }
    }
}

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
enum Parting {
    #[error(transparent)]
    Frame(#[from] FrameFault),
    #[error(transparent)]
    Message(#[from] MessageFault),
    #[error("a message out of turn")]
    OutOfTurn,
    #[error("refused at the handshake")]
    Refused,
}

/// A pin that was granted over this connection.
struct HeldPin {
    pin_id: PinId,
    /// `None` after the engine ended it and the client was told.
    live: Option<(Box<dyn PinLease>, Seat)>,
}

struct Conversation<'a> {
    shared: &'a Shared,
    socket: FrameSocket,
    peer: PeerCredentials,
    pins: Vec<HeldPin>,
}

/// Talks to one client until it, or the server, has enough; then its pins end (invariant P1).
pub(crate) fn converse(shared: &Shared, stream: UnixStream, peer: PeerCredentials) {
    let socket = match FrameSocket::new(stream, IncomingDescriptors::Discard) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "cannot serve a connection to the control socket");
            return;
        }
    };
    let mut conversation = Conversation {
        shared,
        socket,
        peer,
        pins: Vec::new(),
    };
    let parting = conversation.run();
    conversation.part(&parting);
}

/// Tells a client that it will not be served, if it can be told at once.
pub(crate) fn turn_away(stream: UnixStream, kind: RefusalKind, message: &str) {
    let Ok(mut socket) = FrameSocket::new(stream, IncomingDescriptors::Discard) else {
        return;
    };
    let refusal = ServerMessage::Refused {
        kind,
        message: Sentence::cut(message),
    };
    let at_once = Patience {
        deadline: Deadline::after(Duration::ZERO),
        stop: None,
    };
    // Whoever does not hear it sees the end of the connection.
    let _ = socket.send(&wire::encode(&refusal), &[], at_once);
}

impl Conversation<'_> {
    fn run(&mut self) -> Parting {
        let mut outcome = self.greet();
        while outcome.is_ok() {
            outcome = self.attend();
        }
        outcome.err().unwrap_or(Parting::Refused)
    }

    /// The handshake, all of it within one deadline.
    fn greet(&mut self) -> Result<(), Parting> {
        let patience = self.shared.patience(self.shared.limits.handshake);
        let frame = self.socket.receive(patience)?;
        // A later version may say more in its greeting than this one knows.
        let (message, trailing) = wire::decode_start(&frame.payload)?;
        let ClientMessage::Hello {
            protocol_version,
            client,
        } = message
        else {
            return Err(Parting::OutOfTurn);
        };
        if protocol_version != PROTOCOL_VERSION {
            let kind = RefusalKind::Version {
                server: PROTOCOL_VERSION,
            };
            self.refuse(
                kind,
                "the engine speaks another version of the pin protocol",
            )?;
            return Err(Parting::Refused);
        }
        if trailing > 0 {
            return Err(MessageFault::Trailing(trailing).into());
        }
        tracing::debug!(%client, pid = self.peer.pid, "connected to the control socket");
        let facts = self.shared.service.welcome();
        self.send(&ServerMessage::Welcome {
            protocol_version: PROTOCOL_VERSION,
            facts,
        })
    }

    /// Waits for the next message, or for the moment to look after the pins.
    fn attend(&mut self) -> Result<(), Parting> {
        let has_pins = self.pins.iter().any(|pin| pin.live.is_some());
        let deadline = Deadline::after(match has_pins {
            true => self.shared.limits.end_check,
            false => self.shared.limits.idle,
        });
        let woken = wait(
            self.socket.as_fd(),
            Interest::Read,
            Some(&self.shared.stop),
            deadline,
        )
        .map_err(|source| FrameFault::Io { op: "wait", source })?;
        match woken {
            Wake::Stopped => return Err(FrameFault::Stopped.into()),
            Wake::TimedOut if has_pins => {}
            // Its place may be needed by somebody who wants a pin.
            Wake::TimedOut => return Err(FrameFault::TimedOut.into()),
            Wake::Ready => {
                let patience = self.shared.patience(self.shared.limits.message);
                let frame = self.socket.receive(patience)?;
                self.answer(wire::decode(&frame.payload)?)?;
            }
        }
        self.tell_ended()
    }

    fn answer(&mut self, message: ClientMessage) -> Result<(), Parting> {
        match message {
            ClientMessage::Hello { .. } => Err(Parting::OutOfTurn),
            ClientMessage::Pin { request } => self.pin(&request),
            ClientMessage::Reclaim { request } => self.reclaim(&request),
            ClientMessage::Release { pin_id } => self.release(pin_id),
            ClientMessage::Status => self.report(),
            ClientMessage::Ping => self.send(&ServerMessage::Pong),
        }
    }

    fn pin(&mut self, request: &PinRequest) -> Result<(), Parting> {
        // Pins that ended stay listed until the client gives them back: bound these as well.
        let is_crowded = self.pins.len() >= self.shared.pins.limit();
        let Some(seat) = self.shared.pins.take().filter(|_| !is_crowded) else {
            let limit = self.shared.pins.limit();
            let message = format!("no more pins than {limit} may be held, and so many are");
            return self.refuse(RefusalKind::TooManyPins, &message);
        };
        let granted = match self.shared.service.pin(request, &self.peer) {
            Ok(granted) => granted,
            Err(PinRefusal { kind, message }) => {
                return self.send(&ServerMessage::Refused { kind, message });
            }
        };
        // Nobody has heard of this pin, so there is nothing to leave to the next engine.
        if self.shared.stop.is_raised().unwrap_or(true) {
            granted.lease.release();
            return self.refuse(RefusalKind::Stopping, "the engine is stopping");
        }
        if let Err(fault) = granted.files.check(granted.facts.live_file()) {
            granted.lease.release();
            tracing::error!(%fault, "a pin was made with wrong descriptors");
            return self.refuse(RefusalKind::Internal, "the engine opened the wrong files");
        }
        self.hand_over(granted, seat)
    }

    /// Sends facts and descriptors; a grant that does not get through whole ends (invariant P5).
    fn hand_over(&mut self, granted: GrantedPin, seat: Seat) -> Result<(), Parting> {
        let GrantedPin {
            facts,
            files,
            lease,
        } = granted;
        let pin_id = facts.pin_id;
        let payload = wire::encode(&ServerMessage::Granted {
            facts: Box::new(facts),
        });
        let patience = self.shared.patience(self.shared.limits.message);
        if let Err(fault) = self.socket.send(&payload, &files.as_fds(), patience) {
            lease.release();
            return Err(fault.into());
        }
        self.pins.push(HeldPin {
            pin_id,
            live: Some((lease, seat)),
        });
        Ok(())
    }

    /// Gives a pin of an earlier engine back. It was granted its seat there, and what an engine adopts is
    /// bounded by what its predecessors granted.
    fn reclaim(&mut self, request: &ReclaimRequest) -> Result<(), Parting> {
        let reclaimed = match self.shared.service.reclaim(request, &self.peer) {
            Ok(reclaimed) => reclaimed,
            Err(PinRefusal { kind, message }) => {
                tracing::warn!(pid = self.peer.pid, pin = %request.pin_id, reason = %message, "refused a pin");
                return self.send(&ServerMessage::Refused { kind, message });
            }
        };
        let ReclaimedPin { facts, lease } = reclaimed;
        // From here on the end of the connection ends the pin, also if the answer does not get through.
        self.pins.push(HeldPin {
            pin_id: facts.pin_id,
            live: Some((lease, self.shared.pins.take_anyway())),
        });
        self.send(&ServerMessage::Reclaimed { facts })
    }

    fn release(&mut self, pin_id: PinId) -> Result<(), Parting> {
        let Some(position) = self.pins.iter().position(|pin| pin.pin_id == pin_id) else {
            let message = "this connection holds no such pin";
            return self.refuse(RefusalKind::UnknownPin, message);
        };
        if let Some((lease, seat)) = self.pins.swap_remove(position).live {
            lease.release();
            drop(seat);
        }
        self.send(&ServerMessage::Released { pin_id })
    }

    fn report(&mut self) -> Result<(), Parting> {
        let report = self.shared.service.status();
        let mut pins = report.pins;
        loop {
            let later = pins.split_off(pins.len().min(PINS_PER_REPORT_MAX));
            let rest = if later.is_empty() {
                RestOfPins::Complete
            } else {
                RestOfPins::Follows
            };
            let engine = Box::new(report.engine.clone());
            self.send(&ServerMessage::StatusReport { engine, pins, rest })?;
            if rest == RestOfPins::Complete {
                return Ok(());
            }
            pins = later;
        }
    }

    /// Tells the client of its pins that the engine has ended.
    fn tell_ended(&mut self) -> Result<(), Parting> {
        let mut ended = Vec::new();
        for pin in &mut self.pins {
            let reason = pin.live.as_ref().and_then(|(lease, _)| lease.ended());
            if let Some(reason) = reason {
                pin.live = None;
                ended.push((pin.pin_id, reason));
            }
        }
        ended
            .into_iter()
            .try_for_each(|(pin_id, reason)| self.send(&ServerMessage::Ended { pin_id, reason }))
    }

    fn refuse(&mut self, kind: RefusalKind, message: &str) -> Result<(), Parting> {
        self.send(&ServerMessage::Refused {
            kind,
            message: Sentence::cut(message),
        })
    }

    fn send(&mut self, message: &ServerMessage) -> Result<(), Parting> {
        let patience = self.shared.patience(self.shared.limits.message);
        Ok(self.socket.send(&wire::encode(message), &[], patience)?)
    }

    /// Ends what the client held, or leaves it to the next engine.
    fn part(mut self, parting: &Parting) {
        let is_stop = matches!(parting, Parting::Frame(FrameFault::Stopped));
        if !is_stop
            && !matches!(
                parting,
                Parting::Frame(FrameFault::Closed) | Parting::Refused
            )
        {
            let pid = self.peer.pid;
            tracing::warn!(pid, cause = %parting, "dropped a client of the control socket");
        }
        let at_stop = *self.shared.at_stop.lock();
        for pin in std::mem::take(&mut self.pins) {
            let Some((lease, _seat)) = pin.live else {
                continue;
            };
            if is_stop && at_stop == EndPins::No {
                lease.leave();
                continue;
            }
            lease.release();
            if is_stop {
                self.tell_stopped(pin.pin_id);
            }
        }
    }

    fn tell_stopped(&mut self, pin_id: PinId) {
        let message = ServerMessage::Ended {
            pin_id,
            reason: EndReason::Stopped,
        };
        let at_once = Patience {
            deadline: Deadline::after(Duration::ZERO),
            stop: None,
        };
        // Nothing depends on it: the index says the same, and the end of the connection follows.
        let _ = self.socket.send(&wire::encode(&message), &[], at_once);
    }
}

#[cfg(test)]
mod tests;
