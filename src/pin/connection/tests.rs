#![allow(clippy::disallowed_methods)]

use std::io::{Read, Write, pipe};
use std::net::Shutdown;

use proptest::prelude::*;

use super::*;
use crate::id::DatabaseId;
use crate::os::unix_socket::{connect, send_with_fds};
use crate::pin::fake_service::{
    FakeService, Fate, HANG, PinMood, RawClient, nth_pin, patience, request,
};
use crate::pin::server::PinServer;
use crate::pin::wire::{Name, PAYLOAD_BYTES_MAX};
use crate::pin::{PinClient, PinToken};

/// Short where a test waits for the server to lose patience.
const IMPATIENT: Duration = Duration::from_millis(20);

fn start(service: &Arc<FakeService>, limits: PinServerLimits) -> PinServer {
    let shared: Arc<dyn PinService> = Arc::<FakeService>::clone(service);
    PinServer::start(&service.socket_path(), shared, limits).unwrap()
}

fn assert_served(service: &FakeService) {
    let mut client = PinClient::connect(&service.socket_path(), "after the fact").unwrap();
    client.ping().unwrap();
}

/// P2: the server waits for a greeting, but not for ever, nor for one that comes in drops.
#[test]
fn client_that_does_not_greet_is_dropped() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        handshake: IMPATIENT,
        ..PinServerLimits::default()
    };
    let _server = start(&service, limits);
    RawClient::connect(&service.socket_path()).await_end();
    let mut drops = connect(&service.socket_path()).unwrap();
    // Under load the server may have lost patience before this.
    let _ = drops.write_all(&[40, 0, 0, 0, 0]);
    assert_eq!(drops.read(&mut [0]).unwrap_or(0), 0);
}

/// P3.
#[test]
fn frame_that_is_no_message_ends_the_connection_and_its_pin() {
    let too_long = u32::try_from(PAYLOAD_BYTES_MAX + 1)
        .unwrap()
        .to_le_bytes()
        .to_vec();
    let unknown_number = vec![1, 0, 0, 0, 200];
    let empty = vec![0, 0, 0, 0];
    let bytes_behind = vec![2, 0, 0, 0, 5, 5];
    let second_hello = vec![3, 0, 0, 0, 0, 1, 0];
    let torn = vec![9, 0, 0, 0, 3];
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    for bytes in [
        too_long,
        unknown_number,
        empty,
        bytes_behind,
        second_hello,
        torn.clone(),
    ] {
        let mut raw = RawClient::greet(&service.socket_path());
        let pin_id = raw.pin();
        raw.0.stream().write_all(&bytes).unwrap();
        if bytes == torn {
            raw.0.stream().shutdown(Shutdown::Write).unwrap();
        }
        raw.await_end();
        service.await_fate(pin_id, Fate::Released);
    }
    assert_served(&service);
}

/// P3.
#[test]
fn message_before_the_greeting_ends_the_connection() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    let mut raw = RawClient::connect(&service.socket_path());
    raw.say(&ClientMessage::Pin { request: request() });
    assert!(matches!(raw.hear(), Err(FrameFault::Closed)));
}

/// A build of another age must be told so, even where its greeting has become longer.
#[test]
fn other_version_is_refused_with_the_one_that_is_spoken() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    for behind in [&[][..], &[1, 2, 3][..]] {
        let mut raw = RawClient::connect(&service.socket_path());
        let hello = ClientMessage::Hello {
            protocol_version: PROTOCOL_VERSION + 1,
            client: Name::cut("newer"),
        };
        let payload = [&wire::encode(&hello)[..], behind].concat();
        raw.0.send(&payload, &[], patience()).unwrap();
        let heard = raw.hear().unwrap();
        let kind = RefusalKind::Version {
            server: PROTOCOL_VERSION,
        };
        assert!(matches!(heard, ServerMessage::Refused { kind: k, .. } if k == kind));
        raw.await_end();
    }
}

/// P2: whoever asks and asks and does not read the answers loses pin and connection, and
/// nobody else notices.
#[test]
fn client_that_does_not_read_is_dropped() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        message: IMPATIENT,
        ..PinServerLimits::default()
    };
    let _server = start(&service, limits);
    let mut raw = RawClient::greet(&service.socket_path());
    let pin_id = raw.pin();
    let status = wire::encode(&ClientMessage::Status);
    while raw.0.send(&status, &[], patience()).is_ok() {}
    service.await_fate(pin_id, Fate::Released);
    assert_served(&service);
}

/// P1: a pin is of its connection; others can neither release nor, so far, reclaim it.
#[test]
fn pin_of_another_connection_cannot_be_released() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    let pin_id = RawClient::greet(&service.socket_path()).pin();
    service.await_fate(pin_id, Fate::Released);
    let mut holder = RawClient::greet(&service.socket_path());
    let pin_id = holder.pin();
    let mut other = RawClient::greet(&service.socket_path());
    other.say(&ClientMessage::Release { pin_id });
    let unknown = RefusalKind::UnknownPin;
    assert!(matches!(other.hear(), Ok(ServerMessage::Refused { kind, .. }) if kind == unknown));
    other.say(&reclaim(pin_id, [3; 32]));
    assert!(matches!(other.hear(), Ok(ServerMessage::Refused { kind, .. }) if kind == unknown));
    assert_eq!(service.fate(pin_id), Fate::Alive);
}

fn reclaim(pin_id: PinId, token: [u8; 32]) -> ClientMessage {
    let request = ReclaimRequest {
        database_id: DatabaseId([1; 16]),
        pin_id,
        token: PinToken(token),
        holder: Name::cut("a test"),
        mount_point: crate::pin::WirePath::default(),
    };
    ClientMessage::Reclaim { request }
}

/// P1, P9: a pin that was reclaimed hangs on the connection as if it had been granted there.
#[test]
fn reclaimed_pin_lives_as_long_as_its_connection() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    let pin_id = PinId([8; 16]);
    let mut holder = RawClient::greet(&service.socket_path());
    holder.say(&reclaim(pin_id, [8; 32]));
    let heard = holder.hear().unwrap();
    let ServerMessage::Reclaimed { facts } = heard else {
        panic!("{heard:?}");
    };
    assert_eq!(
        (facts.pin_id, facts.age_ms, facts.max_age_ms),
        (pin_id, 7, 70)
    );
    assert_eq!(service.fate(pin_id), Fate::Alive);
    drop(holder);
    service.await_fate(pin_id, Fate::Released);
}

#[test]
fn connection_goes_on_after_a_refused_pin() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    let mut raw = RawClient::greet(&service.socket_path());
    service.set_mood(PinMood::Refuse);
    raw.say(&ClientMessage::Pin { request: request() });
    let kind = RefusalKind::NoSpace;
    assert!(matches!(raw.hear(), Ok(ServerMessage::Refused { kind: k, .. }) if k == kind));
    service.set_mood(PinMood::Grant);
    assert_eq!(raw.pin(), nth_pin(2));
}

/// P4: a descriptor that could be written never leaves the engine's process.
#[test]
fn pin_with_a_writable_descriptor_is_not_handed_over() {
    let service = FakeService::new();
    let _server = start(&service, PinServerLimits::default());
    service.set_mood(PinMood::GrantWritable);
    let mut raw = RawClient::greet(&service.socket_path());
    raw.say(&ClientMessage::Pin { request: request() });
    let kind = RefusalKind::Internal;
    assert!(matches!(raw.hear(), Ok(ServerMessage::Refused { kind: k, .. }) if k == kind));
    assert_eq!(service.fate(nth_pin(1)), Fate::Released);
}

/// P4: a pipe whose other end the server kept would not come to its end before the frame does.
#[test]
fn descriptors_sent_to_the_server_are_closed() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        message: HANG,
        ..PinServerLimits::default()
    };
    let _server = start(&service, limits);
    let mut raw = RawClient::greet(&service.socket_path());
    let (mut reader, writer) = pipe().unwrap();
    send_with_fds(raw.0.stream(), &[1, 0, 0, 0], &[writer.as_fd()]).unwrap();
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    // The frame was open all the while; its payload makes it a ping.
    raw.0
        .stream()
        .write_all(&wire::encode(&ClientMessage::Ping))
        .unwrap();
    assert_eq!(raw.hear().unwrap(), ServerMessage::Pong);
}

#[test]
fn panic_of_the_service_ends_only_its_connection() {
    let service = FakeService::new();
    let server = start(&service, PinServerLimits::default());
    let mut raw = RawClient::greet(&service.socket_path());
    let pin_id = raw.pin();
    service.set_mood(PinMood::Panic);
    raw.say(&ClientMessage::Pin { request: request() });
    raw.await_end();
    service.await_fate(pin_id, Fate::Released);
    assert_served(&service);
    server.stop(EndPins::Yes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a client sends, the connection ends, its pin is released, others are served.
    #[test]
    fn any_bytes_leave_the_server_serving(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        frame_it in any::<bool>(),
    ) {
        let service = FakeService::new();
        let _server = start(&service, PinServerLimits::default());
        let mut raw = RawClient::greet(&service.socket_path());
        let pin_id = raw.pin();
        if frame_it {
            raw.0.send(&bytes, &[], patience()).unwrap();
        } else {
            // The server may have closed the connection over the first of them.
            let _ = raw.0.stream().write_all(&bytes);
        }
        let _ = raw.0.stream().shutdown(Shutdown::Write);
        raw.await_end();
        service.await_fate(pin_id, Fate::Released);
        assert_served(&service);
    }
}
