//! What is said over the control socket. The byte table is in the header of `pin`.
//!
//! The order of variants and fields is the format: whatever changes it raises
//! [`PROTOCOL_VERSION`]. The start of `Hello` and the whole of `Refused { Version }` never change,
//! so that two builds of any age can tell each other why they cannot talk.

use std::fmt;

use bincode::{Decode, Encode};

use super::wire::{Name, Sentence, WirePath};
use crate::id::{DatabaseId, Epoch, HistoryId, PinId};
use crate::lsn::{Lsn, Timestamp};
use crate::page::PageSize;

/// The version of the protocol: 2 since pins can be reclaimed, 3 since a status says what is full first, 4
/// since it says how far the log is durable.
pub const PROTOCOL_VERSION: u32 = 4;

/// The most pins that one [`ServerMessage::StatusReport`] frame carries: with the longest texts
/// that they may have, these still fit a frame.
pub const PINS_PER_REPORT_MAX: usize = 8;

/// What a client says. It waits for the answer before it says the next thing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClientMessage {
    /// The first message of a connection; answered by `Welcome` or `Refused`.
    Hello {
        /// The version that the client speaks.
        protocol_version: u32,
        /// Who it is, for people.
        client: Name,
    },
    /// Asks for a pin; answered by `Granted` or `Refused`, after seconds perhaps.
    Pin {
        /// What pin.
        request: PinRequest,
    },
    /// Asks for a pin that an earlier engine granted; answered by `Reclaimed` or `Refused`.
    Reclaim {
        /// What pin.
        request: ReclaimRequest,
    },
    /// Gives a pin of this connection back; answered by `Released` or `Refused { UnknownPin }`.
    Release {
        /// The pin.
        pin_id: PinId,
    },
    /// Asks how engine and pins are; answered by one or more `StatusReport`.
    Status,
    /// Asks whether anybody is there; answered by `Pong`.
    Ping,
}

/// What the server says. All but `Ended` answers a client's message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ServerMessage {
    /// Answers `Hello`.
    Welcome {
        /// The version that both speak.
        protocol_version: u32,
        /// Whose engine this is.
        facts: WelcomeFacts,
    },
    /// Answers whatever will not be done; the connection goes on unless it was the handshake.
    Refused {
        /// What kind of reason, for programs.
        kind: RefusalKind,
        /// The reason, for people.
        message: Sentence,
    },
    /// Answers `Pin`; exactly three descriptors come with its first byte.
    Granted {
        /// What was pinned.
        facts: Box<PinFacts>,
    },
    /// Answers `Release`: the pin has ended.
    Released {
        /// The pin.
        pin_id: PinId,
    },
    /// Answers `Status`, in as many frames as the pins need.
    StatusReport {
        /// The engine; the same in every frame of an answer.
        engine: Box<EngineStatus>,
        /// Some of its pins, [`PINS_PER_REPORT_MAX`] at most.
        pins: Vec<PinStatus>,
        /// Whether another frame of this answer follows.
        rest: RestOfPins,
    },
    /// Answers nothing: the engine ended a pin. For people; the truth is the pin's index.
    Ended {
        /// The pin.
        pin_id: PinId,
        /// Why.
        reason: EndReason,
    },
    /// Answers `Ping`.
    Pong,
    /// Answers `Reclaim`: the pin hangs on this connection from here on.
    Reclaimed {
        /// What there is to know of it.
        facts: ReclaimedFacts,
    },
}

/// The secret by which a pin is reclaimed after the engine's restart; never shown.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PinToken(pub [u8; 32]);

impl fmt::Debug for PinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinToken(..)")
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinRequest {
    /// After how long the pin ends by itself; the engine's default if `None`.
    pub max_age_ms: Option<u64>,
    /// What happens when the shadow is full.
    pub on_full: OnShadowFull,
    /// How much the pin may make the shadow grow; the engine's default if `None`.
    pub shadow_limit_bytes: Option<u64>,
    /// Who holds it, as `status` shows it.
    pub holder: Name,
    /// Where it will be mounted; empty if nowhere.
    pub mount_point: WirePath,
}

/// Which pin a client wants back after the engine's restart.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReclaimRequest {
    /// The database that it is of.
    pub database_id: DatabaseId,
    /// The pin.
    pub pin_id: PinId,
    /// The secret that came with it.
    pub token: PinToken,
    /// Who holds it, as `status` shows it.
    pub holder: Name,
    /// Where it is mounted; empty if nowhere.
    pub mount_point: WirePath,
}

/// What the holder of a reclaimed pin does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReclaimedFacts {
    /// The pin.
    pub pin_id: PinId,
    /// How old it is.
    pub age_ms: u64,
    /// How old it may become.
    pub max_age_ms: u64,
}

/// What happens when a pin's shadow is at its limit, or the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum OnShadowFull {
    /// The pin ends, and writers go on.
    #[default]
    Break,
    /// Checkpoints wait, as long as the log may grow.
    Hold,
}

/// Whose engine answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WelcomeFacts {
    /// The database.
    pub database_id: DatabaseId,
    /// Its history.
    pub history_id: HistoryId,
    /// The build of the engine.
    pub version: Name,
}

/// What was pinned, and by what its holder knows the files again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinFacts {
    /// The database.
    pub database_id: DatabaseId,
    /// The history that it was in.
    pub history_id: HistoryId,
    /// The pin.
    pub pin_id: PinId,
    /// The secret by which it is reclaimed.
    pub token: PinToken,
    /// S: the last commit that is seen.
    pub timestamp: Timestamp,
    /// L: the end of that commit in the log.
    pub lsn: Lsn,
    /// Size of a page.
    pub page_size: PageSize,
    /// How many pages the view has.
    pub page_count: u64,
    /// Wall clock of that commit, in nanoseconds since 1970.
    pub wall_ns: u64,
    /// The epochs under which the pin holds; twice the same unless it was adopted.
    pub epochs: [Epoch; 2],
    /// Device of the live file.
    pub live_device: u64,
    /// Inode of the live file.
    pub live_inode: u64,
    /// The engine's directory.
    pub source_directory: WirePath,
    /// After how long the pin ends by itself.
    pub max_age_ms: u64,
}

/// How an engine is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EngineStatus {
    /// The database.
    pub database_id: DatabaseId,
    /// Its history.
    pub history_id: HistoryId,
    /// The incarnation of the engine.
    pub epoch: Epoch,
    /// Its build.
    pub version: Name,
    /// Its process id, for display only.
    pub process_id: i32,
    /// Its directory.
    pub source_directory: WirePath,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Whether it still takes writes.
    pub state: EngineState,
    /// Size of a page.
    pub page_size: PageSize,
    /// How many pages the database has.
    pub page_count: u64,
    /// The newest commit.
    pub timestamp: Timestamp,
    /// Its end in the log.
    pub lsn: Lsn,
    /// Bytes of the log.
    pub wal_bytes: u64,
    /// Bytes of the shadow, of all pins together.
    pub shadow_bytes: u64,
    /// The log's limit.
    pub wal_bytes_max: u64,
    /// Free bytes of the shadow's file system, where it tells them.
    pub free_bytes: Option<u64>,
    /// Free bytes that pins leave for commits.
    pub free_floor_bytes: u64,
    /// How far the log is known to be synced: no crash takes back what lies before.
    pub log_durable: Lsn,
    /// Bytes of the log that are kept for an archive alone.
    pub log_kept_bytes: u64,
}

/// Whether an engine still takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EngineState {
    /// It does.
    Running,
    /// A sync failed: nothing is written until it is reopened.
    Poisoned,
}

/// How a pin is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinStatus {
    /// The pin.
    pub pin_id: PinId,
    /// Who holds it.
    pub holder: Name,
    /// Where it is mounted; empty if nowhere.
    pub mount_point: WirePath,
    /// The last commit that it sees.
    pub timestamp: Timestamp,
    /// The end of that commit in the log.
    pub lsn: Lsn,
    /// How old it is.
    pub age_ms: u64,
    /// How old it may become.
    pub max_age_ms: u64,
    /// Pages published for it before they were overwritten.
    pub captured_pages: u64,
    /// Pages published for it when it was made.
    pub spilled_pages: u64,
    /// How many of its slots other pins use too.
    pub shared_slots: u64,
    /// Bytes of the slots that it uses.
    pub shadow_bytes: u64,
    /// Where it is in its life.
    pub state: PinState,
    /// Process id of the holder, for display only.
    pub peer_process_id: i32,
    /// What happens when it may keep no more.
    pub on_full: OnShadowFull,
    /// How much it may keep; 0 for no limit.
    pub shadow_limit_bytes: u64,
    /// By how much its shadow grew per second, over the last minutes.
    pub growth_bytes_per_second: u64,
    /// When it can keep no more, at the rates of the last minutes; `None` if never.
    pub forecast: Option<Forecast>,
    /// For how long a checkpoint has waited for it.
    pub holding_ms: Option<u64>,
}

/// When a pin can keep no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Forecast {
    /// What is full first.
    pub bound: Bound,
    /// In what time.
    pub in_ms: u64,
}

/// What bounds the life of a pin besides its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Bound {
    /// The limit of its shadow.
    Shadow,
    /// The disk, to what pins leave free.
    Disk,
    /// The limit of the log, while a checkpoint waits for it.
    Log,
}

/// Where a pin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PinState {
    /// It is being made.
    Spilling,
    /// Its holder may read.
    Granted,
    /// The shadow is full, and checkpoints wait for this pin (`OnShadowFull::Hold`).
    Holding,
    /// It was taken over from an earlier engine, and nobody has reclaimed it yet.
    Adopted,
    /// It has ended.
    Ended {
        /// Why.
        reason: EndReason,
    },
}

/// Why a pin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum EndReason {
    /// Its holder gave it back, or is gone.
    Released,
    /// It reached its maximum age.
    Expired,
    /// The shadow reached its limit.
    ShadowFull,
    /// The disk is nearly full, and commits come first.
    DiskFull,
    /// A page could not be saved before it was overwritten.
    CaptureFailed,
    /// A sync failed, and the engine takes no more writes.
    Poisoned,
    /// The engine was stopped.
    Stopped,
    /// An engine restarted, and nobody reclaimed the pin in time.
    Unclaimed,
    /// Checkpoints waited for the pin until the log was at its limit.
    LogFull,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Released => "it was released",
            Self::Expired => "it reached its maximum age",
            Self::ShadowFull => "its shadow reached the limit",
            Self::DiskFull => "the disk is nearly full",
            Self::CaptureFailed => "a page could not be saved before it was overwritten",
            Self::Poisoned => "a sync failed and the engine takes no more writes",
            Self::Stopped => "the engine was stopped",
            Self::Unclaimed => "nobody reclaimed it after the engine's restart",
            Self::LogFull => "checkpoints waited for it until the log was at its limit",
        })
    }
}

/// Why something was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum RefusalKind {
    /// The two sides do not speak the same protocol.
    Version {
        /// The version that the server speaks.
        server: u32,
    },
    /// The client is of another user.
    Forbidden,
    /// There are as many connections as there may be.
    TooManyConnections,
    /// There are as many pins as there may be.
    TooManyPins,
    /// This build cannot do it.
    Unsupported,
    /// This connection holds no such pin.
    UnknownPin,
    /// The engine is stopping.
    Stopping,
    /// There is no room for what must be saved.
    NoSpace,
    /// The log could not be made durable; the engine takes no more writes.
    Poisoned,
    /// The request asks for something that cannot be.
    Invalid,
    /// Something failed that should not; the engine's log says more.
    Internal,
}

/// Whether more frames of a status report follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RestOfPins {
    /// This is the last.
    Complete,
    /// Another one follows.
    Follows,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake_service::{longest_engine_status, longest_pin_status, request};
    use super::super::wire::{PAYLOAD_BYTES_MAX, decode, encode};
    use super::*;

    /// The byte table of the module's header, held fast: other builds rely on it.
    #[test]
    fn messages_have_the_documented_bytes() {
        let hello = ClientMessage::Hello {
            protocol_version: 1,
            client: Name::cut("ab"),
        };
        assert_eq!(encode(&hello), [0, 1, 2, b'a', b'b']);
        let mut pin = vec![1, 0, 0, 1, 252, 0, 0, 0, 64, 6];
        pin.extend_from_slice(b"a test\0");
        assert_eq!(encode(&ClientMessage::Pin { request: request() }), pin);
        let pin_id = PinId([7; 16]);
        assert_eq!(
            encode(&ClientMessage::Release { pin_id }),
            [&[3][..], &[7; 16]].concat()
        );
        assert_eq!(encode(&ClientMessage::Status), [4]);
        assert_eq!(encode(&ClientMessage::Ping), [5]);
        let refused = ServerMessage::Refused {
            kind: RefusalKind::Version { server: 300 },
            message: Sentence::cut("no"),
        };
        assert_eq!(encode(&refused), [1, 0, 251, 44, 1, 2, b'n', b'o']);
        let ended = ServerMessage::Ended {
            pin_id,
            reason: EndReason::Unclaimed,
        };
        assert_eq!(encode(&ended), [&[5][..], &[7; 16], &[7]].concat());
        assert_eq!(encode(&RefusalKind::Internal), [10]);
        let forecast = Some(Forecast {
            bound: Bound::Log,
            in_ms: 7,
        });
        assert_eq!(encode(&forecast), [1, 2, 7]);
        assert_eq!(encode(&ServerMessage::Pong), [6]);
    }

    #[test]
    fn longest_status_report_fits_a_frame() {
        let report = ServerMessage::StatusReport {
            engine: Box::new(longest_engine_status()),
            pins: vec![longest_pin_status(PinId([255; 16])); PINS_PER_REPORT_MAX],
            rest: RestOfPins::Complete,
        };
        let payload = encode(&report);
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "{}", payload.len());
        assert_eq!(decode::<ServerMessage>(&payload).unwrap(), report);
    }

    /// A torn message is never taken for a shorter one.
    #[test]
    fn every_truncation_of_a_message_is_refused() {
        let report = ServerMessage::StatusReport {
            engine: Box::new(EngineStatus {
                source_directory: WirePath::default(),
                ..longest_engine_status()
            }),
            pins: Vec::new(),
            rest: RestOfPins::Complete,
        };
        let payload = encode(&report);
        for end in 0..payload.len() {
            assert!(decode::<ServerMessage>(&payload[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        /// What decodes at all is within its bounds, and is written and read back as the same.
        #[test]
        fn any_bytes_decode_to_an_error_or_to_a_message_that_survives(
            number in 0_u8..8,
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let payload = [&[number][..], &rest].concat();
            if let Ok(message) = decode::<ClientMessage>(&payload) {
                prop_assert_eq!(decode::<ClientMessage>(&encode(&message)).unwrap(), message);
            }
            if let Ok(message) = decode::<ServerMessage>(&payload) {
                prop_assert_eq!(decode::<ServerMessage>(&encode(&message)).unwrap(), message);
            }
        }
    }
}
