#![allow(clippy::disallowed_methods)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::*;
use crate::os::readiness::StopSignal;
use crate::pin::fake_service::{FakeService, Fate, HANG, PinMood, RawClient, nth_pin, request};
use crate::pin::messages::{ClientMessage, EndReason, ServerMessage};
use crate::pin::{ClientPin, LeaseState, PinClient};

const SOCKET_VARIABLE: &str = "STILLFS_TEST_PIN_SOCKET";

fn start_with(service: &Arc<FakeService>, limits: PinServerLimits) -> PinServer {
    let shared: Arc<dyn PinService> = Arc::<FakeService>::clone(service);
    PinServer::start(&service.socket_path(), shared, limits).unwrap()
}

fn start(service: &Arc<FakeService>) -> PinServer {
    start_with(service, PinServerLimits::default())
}

fn connected(service: &FakeService) -> PinClient {
    PinClient::connect(&service.socket_path(), "a test").unwrap()
}

fn pinned(service: &FakeService) -> ClientPin {
    connected(service).pin(&request()).unwrap()
}

fn text_of(file: std::os::fd::OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

/// Pins that end by the passing of time are noticed also while nobody connects.
#[test]
fn service_is_asked_to_look_after_the_pins() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        tending: Duration::from_millis(1),
        ..PinServerLimits::default()
    };
    let socket = service.socket_path();
    let server = PinServer::start(&socket, service.clone(), limits).unwrap();
    service.await_tendings(3);
    server.stop(EndPins::Yes);
}

#[test]
fn pin_comes_with_its_facts_and_its_three_files() {
    let service = FakeService::new();
    let _server = start(&service);
    let client = connected(&service);
    assert_eq!(client.welcome(), &service.welcome());
    let pin = client.pin(&request()).unwrap();
    assert_eq!(pin.facts, service.facts(nth_pin(1)));
    let ClientPin { files, lease, .. } = pin;
    assert_eq!(text_of(files.live), "live");
    assert_eq!(text_of(files.shadow), "shadow");
    assert_eq!(text_of(files.index), "index");
    assert_eq!(service.fate(nth_pin(1)), Fate::Alive);
    drop(lease);
}

#[test]
fn release_returns_after_the_pin_has_ended() {
    let service = FakeService::new();
    let _server = start(&service);
    pinned(&service).release().unwrap();
    assert_eq!(service.fate(nth_pin(1)), Fate::Released);
}

/// P1, P8: of two pins of one process only the one ends whose connection does.
#[test]
fn end_of_the_connection_releases_the_pin() {
    let service = FakeService::new();
    let _server = start(&service);
    let (first, second) = (pinned(&service), pinned(&service));
    drop(first.lease);
    service.await_fate(nth_pin(1), Fate::Released);
    assert_eq!(service.fate(second.facts.pin_id), Fate::Alive);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// P1: no destructor runs in a process that is killed.
#[test]
fn killed_client_loses_its_pin() {
    let service = FakeService::new();
    let _server = start(&service);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("pin::server::tests::child_that_pins_and_waits")
        .env(SOCKET_VARIABLE, service.socket_path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let is_pinned = output
        .lines()
        .any(|line| line.unwrap().contains("the child has a pin"));
    assert!(is_pinned);
    assert_eq!(service.fate(nth_pin(1)), Fate::Alive);
    drop(child);
    service.await_fate(nth_pin(1), Fate::Released);
}

/// Not a test: what `killed_client_loses_its_pin` runs and kills.
#[test]
#[ignore = "run by killed_client_loses_its_pin in a process of its own"]
fn child_that_pins_and_waits() {
    let Some(socket) = std::env::var_os(SOCKET_VARIABLE) else {
        return;
    };
    let client = PinClient::connect(Path::new(&socket), "a child").unwrap();
    let mut pin = client.pin(&request()).unwrap();
    println!("the child has a pin");
    pin.lease.wait_end(HANG).unwrap();
}

/// P7: the client is told why, and may then give back what is no longer there.
#[test]
fn client_is_told_when_the_engine_ends_its_pin() {
    let service = FakeService::new();
    let end_check = Duration::from_millis(2);
    let limits = PinServerLimits {
        pins: 1,
        end_check,
        ..PinServerLimits::default()
    };
    let _server = start_with(&service, limits);
    let mut pin = pinned(&service);
    assert_eq!(
        pin.lease.wait_end(Duration::ZERO).unwrap(),
        LeaseState::Held
    );
    // A wait that is called off says what was known before it.
    let stop = StopSignal::new().unwrap();
    stop.raise();
    let called_off = pin
        .lease
        .wait_end_or(Duration::from_secs(3600), Some(&stop));
    assert_eq!(called_off.unwrap(), LeaseState::Held);
    service.end(nth_pin(1), EndReason::Expired);
    let ended = LeaseState::Ended(EndReason::Expired);
    assert_eq!(pin.lease.wait_end(HANG).unwrap(), ended);
    assert_eq!(pin.lease.wait_end(HANG).unwrap(), ended);
    // Its seat is free although its holder is still there.
    pinned(&service).release().unwrap();
    pin.release().unwrap();
    assert_eq!(
        service.fate(nth_pin(1)),
        Fate::EndedByEngine(EndReason::Expired)
    );
}

/// The notice of the end and the request to release may cross.
#[test]
fn release_of_a_pin_that_the_engine_ended_is_no_error() {
    let service = FakeService::new();
    let end_check = Duration::from_millis(2);
    let limits = PinServerLimits {
        end_check,
        ..PinServerLimits::default()
    };
    let _server = start_with(&service, limits);
    let mut raw = RawClient::greet(&service.socket_path());
    let pin_id = raw.pin();
    service.end(pin_id, EndReason::DiskFull);
    let told = ServerMessage::Ended {
        pin_id,
        reason: EndReason::DiskFull,
    };
    assert_eq!(raw.hear().unwrap(), told);
    raw.say(&ClientMessage::Release { pin_id });
    assert_eq!(raw.hear().unwrap(), ServerMessage::Released { pin_id });
    let pin = pinned(&service);
    service.end(pin.facts.pin_id, EndReason::DiskFull);
    pin.release().unwrap();
}

#[test]
fn pins_are_bounded_and_a_released_one_makes_room() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        pins: 2,
        ..PinServerLimits::default()
    };
    let _server = start_with(&service, limits);
    let (first, _second) = (pinned(&service), pinned(&service));
    let refused = connected(&service).pin(&request()).unwrap_err();
    let kind = RefusalKind::TooManyPins;
    assert!(
        matches!(refused, PinError::Refused { kind: k, .. } if k == kind),
        "{refused}"
    );
    first.release().unwrap();
    pinned(&service).release().unwrap();
}

#[test]
fn connections_are_bounded_and_the_one_too_many_hears_why() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        connections: 2,
        ..PinServerLimits::default()
    };
    let _server = start_with(&service, limits);
    let _two = (connected(&service), connected(&service));
    let refused = PinClient::connect(&service.socket_path(), "third").unwrap_err();
    let kind = RefusalKind::TooManyConnections;
    assert!(
        matches!(refused, PinError::Refused { kind: k, .. } if k == kind),
        "{refused}"
    );
}

/// P6.
#[test]
fn only_root_and_the_own_user_may_connect() {
    assert!(may_connect(1000, 1000) && may_connect(0, 1000) && may_connect(0, 0));
    assert!(!may_connect(1001, 1000) && !may_connect(1000, 0));
    let service = FakeService::new();
    let _server = start(&service);
    let mode = fs::metadata(service.socket_path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn status_shows_as_many_pins_as_there_are() {
    let service = FakeService::new();
    let _server = start(&service);
    let pins: Vec<ClientPin> = (0..64).map(|_| pinned(&service)).collect();
    let report = connected(&service).status().unwrap();
    assert_eq!(report, service.status());
    assert_eq!(report.pins.len(), pins.len());
}

/// The address of a Unix socket holds 107 bytes, a path 4095.
#[test]
fn socket_works_below_a_path_longer_than_an_address() {
    let service = FakeService::new();
    let dir = service.path(&"d".repeat(200));
    fs::create_dir(&dir).unwrap();
    let path = dir.join("control.sock");
    let shared: Arc<dyn PinService> = Arc::<FakeService>::clone(&service);
    let server = PinServer::start(&path, shared, PinServerLimits::default()).unwrap();
    let pin = PinClient::connect(&path, "far")
        .unwrap()
        .pin(&request())
        .unwrap();
    pin.release().unwrap();
    server.stop(EndPins::Yes);
    assert!(!path.exists());
}

#[test]
fn dead_socket_is_replaced_and_a_file_in_its_place_is_kept() {
    let service = FakeService::new();
    let path = service.socket_path();
    drop(UnixListener::bind(&path).unwrap());
    start(&service).stop(EndPins::Yes);
    fs::write(&path, b"somebody's").unwrap();
    let shared: Arc<dyn PinService> = Arc::<FakeService>::clone(&service);
    let refused = PinServer::start(&path, shared, PinServerLimits::default()).unwrap_err();
    assert!(matches!(refused, PinError::Io { .. }), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"somebody's");
}

/// A directory moved away and one put in its place: that one's socket is not ours to remove.
#[test]
fn stop_leaves_the_socket_of_another_server_alone() {
    let service = FakeService::new();
    let server = start(&service);
    fs::rename(service.socket_path(), service.path("moved")).unwrap();
    let _other = UnixListener::bind(service.socket_path()).unwrap();
    server.stop(EndPins::Yes);
    assert!(service.socket_path().exists());
}

#[test]
fn stop_that_ends_pins_tells_the_clients_and_removes_the_socket() {
    let service = FakeService::new();
    let server = start(&service);
    let mut pin = pinned(&service);
    server.stop(EndPins::Yes);
    assert_eq!(service.fate(nth_pin(1)), Fate::Released);
    let told = pin.lease.wait_end(HANG).unwrap();
    assert_eq!(told, LeaseState::Ended(EndReason::Stopped));
    assert!(!service.socket_path().exists());
    let error = PinClient::connect(&service.socket_path(), "late").unwrap_err();
    assert!(matches!(error, PinError::NotRunning { .. }), "{error}");
}

/// P7: the engine goes, the pin stays, and what it holds can still be read.
#[test]
fn stop_that_leaves_pins_only_closes_the_connections() {
    let service = FakeService::new();
    let server = start(&service);
    let mut pin = pinned(&service);
    server.stop(EndPins::No);
    assert_eq!(service.fate(nth_pin(1)), Fate::Left);
    assert_eq!(pin.lease.wait_end(HANG).unwrap(), LeaseState::EngineGone);
    assert_eq!(text_of(pin.files.live), "live");
}

#[test]
fn dropped_server_ends_its_pins() {
    let service = FakeService::new();
    let server = start(&service);
    let _pin = pinned(&service);
    drop(server);
    assert_eq!(service.fate(nth_pin(1)), Fate::Released);
}

/// P2: a spill takes as long as it takes, and is nobody else's business.
#[test]
fn others_are_served_while_a_pin_is_made() {
    let service = FakeService::new();
    let _server = start(&service);
    let mut other = connected(&service);
    service.set_mood(PinMood::Dawdle);
    thread::scope(|scope| {
        let slow = scope.spawn(|| pinned(&service).release());
        service.await_calls(1);
        other.status().unwrap();
        connected(&service).ping().unwrap();
        service.set_mood(PinMood::Grant);
        slow.join().unwrap().unwrap();
    });
}

/// P5.
#[test]
fn pin_that_nobody_waits_for_any_more_is_released() {
    let service = FakeService::new();
    let _server = start(&service);
    service.set_mood(PinMood::Dawdle);
    let mut raw = RawClient::greet(&service.socket_path());
    raw.say(&ClientMessage::Pin { request: request() });
    service.await_calls(1);
    drop(raw);
    service.set_mood(PinMood::Grant);
    service.await_fate(nth_pin(1), Fate::Released);
}

/// What is made during the stop was never granted: it ends even where pins are left.
#[test]
fn stop_waits_for_a_pin_under_way_and_ends_it() {
    for end_pins in [EndPins::Yes, EndPins::No] {
        let service = FakeService::new();
        let server = start(&service);
        service.set_mood(PinMood::Dawdle);
        let mut raw = RawClient::greet(&service.socket_path());
        raw.say(&ClientMessage::Pin { request: request() });
        service.await_calls(1);
        let shared = Arc::clone(&server.shared);
        thread::scope(|scope| {
            let stopping = scope.spawn(move || server.stop(end_pins));
            let signal = shared.stop.watched().as_fd();
            wait(signal, Interest::Read, None, Deadline::NEVER).unwrap();
            assert!(!stopping.is_finished());
            service.set_mood(PinMood::Grant);
            stopping.join().unwrap();
        });
        assert_eq!(service.fate(nth_pin(1)), Fate::Released);
        let kind = RefusalKind::Stopping;
        assert!(matches!(raw.hear(), Ok(ServerMessage::Refused { kind: k, .. }) if k == kind));
        raw.await_end();
    }
}

/// A stop must not wait for those who never say anything.
#[test]
fn stop_wakes_idle_connections_and_those_that_have_not_greeted() {
    let service = FakeService::new();
    let limits = PinServerLimits {
        handshake: HANG * 60,
        ..PinServerLimits::default()
    };
    let server = start_with(&service, limits);
    let _idle = connected(&service);
    let mut silent = RawClient::connect(&service.socket_path());
    server.stop(EndPins::Yes);
    silent.await_end();
}
