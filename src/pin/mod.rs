//! The conversation between a running engine and whoever wants a pin, over `DIR/control.sock`.
//!
//! The server half ([`PinServer`]) runs in the engine's process, the client half ([`PinClient`]) in
//! the mount daemon and in the commands that ask an engine something. Neither knows engine, shadow
//! or mount: what the server needs of a database is [`PinService`], which the database implements.
//!
//! ```text
//! client                                        server
//! connect ------------------------------------> same user or root? seat free? else Refused, close
//! Hello --------------------------------------> within the handshake deadline
//!        <------------------------------------- Welcome | Refused (and close)
//! Pin ----------------------------------------> PinService::pin, seconds perhaps
//!        <------------------------------------- Granted + 3 descriptors | Refused
//!        <------------------------------------- Ended, if the engine ends it
//! Reclaim ------------------------------------> PinService::reclaim: a pin of an earlier engine
//!        <------------------------------------- Reclaimed | Refused
//! Release ------------------------------------> PinLease::release
//!        <------------------------------------- Released
//! end of the connection, however it comes about: every pin of it is released
//! ```
//!
//! # Bytes
//!
//! Each direction is a row of frames; there is nothing between them:
//!
//! ```text
//! offset size
//!      0    4  n: bytes of the payload, u32 little-endian, 1 ..= 65536
//!      4    n  one message: bincode 2.0.1, little-endian, variable-length integers
//! ```
//!
//! | notation | bytes |
//! |---|---|
//! | v | unsigned integer: below 251 one byte; else 251 + u16, 252 + u32 or 253 + u64, the shortest that fits when written, little-endian |
//! | z | signed integer, zigzag (2x, or -2x - 1 below 0), then as v |
//! | id | 16 bytes |
//! | text(k) | v: length, at most k; so many bytes of UTF-8 |
//! | path | v: length, at most 4095; so many bytes |
//! | x? | byte 0: absent; byte 1: x follows |
//!
//! A message is its number (v), then its fields in order, without padding or bytes behind. Version 4:
//!
//! | client | number | fields |
//! |---|---|---|
//! | Hello | 0 | v protocol version, text(255) client |
//! | Pin | 1 | request: v? max age ms, v on full (0 break, 1 hold), v? shadow limit bytes, text(255) holder, path mount point |
//! | Reclaim | 2 | id database, id pin, 32 bytes token, text(255) holder, path mount point |
//! | Release | 3 | id pin |
//! | Status | 4 | |
//! | Ping | 5 | |
//!
//! | server | number | fields |
//! |---|---|---|
//! | Welcome | 0 | v protocol version, id database, id history, text(255) version of the build |
//! | Refused | 1 | v kind, text(1023) message |
//! | Granted | 2 | facts: id database, id history, id pin, 32 bytes token, v timestamp S, v LSN L, v page size, v page count, v wall clock ns, v epoch, v epoch, v device, v inode of the live file, path source directory, v max age ms |
//! | Released | 3 | id pin |
//! | StatusReport | 4 | engine, v count of pins (at most 8), pins, v rest (0 complete, 1 another frame follows) |
//! | Ended | 5 | id pin, v reason |
//! | Pong | 6 | |
//! | Reclaimed | 7 | id pin, v age ms, v max age ms |
//!
//! * engine: id database, id history, v epoch, text(255) version, z process id, path source directory,
//!   v uptime ms, v state (0 running, 1 poisoned), v page size, v page count, v timestamp, v LSN,
//!   v WAL bytes, v shadow bytes, v WAL limit in bytes, v? free bytes, v free bytes that pins leave for
//!   commits, v LSN up to which the log is synced, v bytes of log kept for an archive.
//! * pin: id pin, text(255) holder, path mount point, v timestamp, v LSN, v age ms, v max age ms,
//!   v captured pages, v spilled pages, v shared slots, v shadow bytes, v state (0 spilling, 1 granted,
//!   2 holding, 3 adopted, 4 ended + v reason), z process id of the holder, v on full, v shadow limit in
//!   bytes (0 none), v growth of the shadow in bytes per second, forecast?, v? ms for which a checkpoint
//!   has waited for it.
//! * forecast, when it can keep no more: v what is full first (0 shadow, 1 disk, 2 log), v ms until then.
//! * kind: 0 version (+ v the server's version), 1 forbidden, 2 too many connections, 3 too many pins,
//!   4 unsupported, 5 unknown pin, 6 stopping, 7 no space, 8 poisoned, 9 invalid, 10 internal.
//! * reason: 0 released, 1 expired, 2 shadow full, 3 disk full, 4 capture failed, 5 poisoned,
//!   6 stopped, 7 unclaimed, 8 log full.
//!
//! `Granted` carries three descriptors (`SCM_RIGHTS`) with the first byte of its frame: live file,
//! shadow slots, pin index. A `Hello` of another version may have bytes behind, and is answered by
//! `Refused` of kind 0; these two never change.
//!
//! # Invariants
//!
//! * P1 A pin lives at most as long as the connection over which it was granted, unless the engine
//!   stops and leaves its pins to the next one.
//! * P2 The server waits for a client only on that client's own thread, never with a lock held, and
//!   never longer than a deadline to finish a frame; a client that does not read is dropped.
//! * P3 A frame longer than the bound, one that is no message, and a message out of turn end the
//!   connection. Nothing is allocated for a length before it is checked.
//! * P4 Descriptors are close-on-exec on both sides, of regular files, and for reading only; the live
//!   file is the one that the facts name. Both sides check. Descriptors sent to the server are closed.
//! * P5 Facts and descriptors arrive together or not at all: a grant that could not be sent whole is
//!   released.
//! * P6 Only root and the user of the engine's process are served, and never more than the bounded
//!   number of connections and pins.
//! * P7 What is said about the end of a pin is for people. Whether a read is right is told by the
//!   index and the live header; an engine that goes away does not end the pin.
//! * P8 No process id decides anything.
//! * P9 A pin that an engine adopted is given back to one client, who knows its token, and to nobody else;
//!   it ends if none comes in time, or as soon as nobody holds its index.
//!
//! # Locking and blocking
//!
//! The server has a thread that accepts and one per connection; each waits by `poll` with the stop
//! signal, so that a stop wakes all of them at once. A stop waits only for calls of [`PinService`]
//! that are under way. A client's calls block up to their timeouts; a client is used by one thread.
//!
//! The engine takes a shared `flock` on the index before it hands it over; the lock goes with the
//! descriptor. Nobody here opens the index anew, and nobody may: the lock would not come along.
//!
//! Not here: making and ending pins, the maximum age, adoption itself, and the decision
//! whether an engine runs at all (the lock on its directory).

mod client;
mod connection;
mod error;
#[cfg(test)]
mod fake_service;
mod frame;
mod limits;
mod messages;
mod seats;
mod server;
mod service;
mod wire;

pub use client::{ClientLease, ClientPin, LeaseState, PinClient, PinClientTimeouts};
pub use error::{PinError, ProtocolFault};
pub use frame::FrameFault;
pub use limits::{EndPins, PinServerLimits};
pub use messages::{
    Bound, ClientMessage, EndReason, EngineState, EngineStatus, Forecast, OnShadowFull,
    PINS_PER_REPORT_MAX, PROTOCOL_VERSION, PinFacts, PinRequest, PinState, PinStatus, PinToken,
    ReclaimRequest, ReclaimedFacts, RefusalKind, RestOfPins, ServerMessage, WelcomeFacts,
};
pub use server::PinServer;
pub use service::{
    GrantedPin, PinFile, PinFiles, PinFilesFault, PinLease, PinRefusal, PinService, ReclaimedPin,
    StatusReport,
};
pub use wire::{MessageFault, Name, PATH_BYTES_MAX, PAYLOAD_BYTES_MAX, Sentence, Text, WirePath};
