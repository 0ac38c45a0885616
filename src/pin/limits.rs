//! What bounds a pin server, and how it stops.

use std::time::Duration;

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinServerLimits {
    /// Pins at once.
    pub pins: usize,
    /// Connections at once; each has a thread.
    pub connections: usize,
    /// How long a client may take from connecting to the end of its greeting.
    pub handshake: Duration,
    /// How long a client may take to send a message that it began, or to read one of the server's.
    pub message: Duration,
    /// How often a connection with pins looks whether the engine ended one.
    pub end_check: Duration,
    /// How often the service is asked to look after the pins.
    pub tending: Duration,
}

impl Default for PinServerLimits {
    fn default() -> Self {
        Self {
            pins: 64,
            connections: 256,
            handshake: Duration::from_secs(5),
            message: Duration::from_secs(5),
            end_check: Duration::from_millis(500),
            tending: Duration::from_secs(1),
        }
    }
}

/// What a stop does to the pins that clients hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndPins {
    /// They end, and their clients are told.
    Yes,
    /// They are left to the engine that starts next.
    No,
}
