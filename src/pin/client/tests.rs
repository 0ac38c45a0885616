#![allow(clippy::disallowed_methods)]

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::os::descriptor::{OnExec, describe};
use crate::pin::fake_service::{FakeService, nth_pin, patience, request};
use crate::pin::service::{PinFile, PinFilesFault, PinService};
use crate::pin::wire::MessageFault;

const IMPATIENT: PinClientTimeouts = PinClientTimeouts {
    answer: Duration::from_millis(20),
    grant: Duration::from_millis(20),
};

/// What a server says to each message in turn: a payload and descriptors.
type Script = Vec<(Vec<u8>, Vec<OwnedFd>)>;

fn said(message: &ServerMessage) -> (Vec<u8>, Vec<OwnedFd>) {
    (wire::encode(message), Vec::new())
}

fn welcome(service: &FakeService, protocol_version: u32) -> (Vec<u8>, Vec<OwnedFd>) {
    said(&ServerMessage::Welcome {
        protocol_version,
        facts: service.welcome(),
    })
}

fn granted(service: &FakeService, fds: Vec<OwnedFd>) -> Script {
    let facts = Box::new(service.facts(nth_pin(1)));
    let grant = wire::encode(&ServerMessage::Granted { facts });
    vec![welcome(service, PROTOCOL_VERSION), (grant, fds)]
}

/// Runs `test` against a server that keeps to `script`, then listens until the client goes.
fn against<T>(service: &FakeService, script: Script, test: impl FnOnce(&Path) -> T) -> T {
    let path = service.socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut socket = FrameSocket::new(stream, IncomingDescriptors::Discard).unwrap();
            for (payload, fds) in script {
                socket.receive(patience()).unwrap();
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                socket.send(&payload, &fds, patience()).unwrap();
            }
            while socket.receive(patience()).is_ok() {}
        });
        test(&path)
    })
}

/// What a client that pins makes of `script`.
fn pin_error(service: &FakeService, script: Script) -> PinError {
    against(service, script, |path| {
        PinClient::connect(path, "a test")
            .and_then(|client| client.pin(&request()))
            .expect_err("no script is a good one")
    })
}

fn files_fault(service: &FakeService, fds: Vec<OwnedFd>) -> PinFilesFault {
    match pin_error(service, granted(service, fds)) {
        PinError::Protocol {
            fault: ProtocolFault::Files(fault),
            ..
        } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn engine_that_does_not_run_is_told_from_other_errors() {
    let service = FakeService::new();
    let path = service.socket_path();
    let connect = || PinClient::connect(&path, "a test").unwrap_err();
    assert!(matches!(connect(), PinError::NotRunning { .. }));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(connect(), PinError::NotRunning { .. }));
    let below_a_file = service.path("live").join("control.sock");
    let error = PinClient::connect(&below_a_file, "a test").unwrap_err();
    assert!(matches!(error, PinError::Io { .. }), "{error}");
}

/// P4, P5: fewer or more than three descriptors are no pin.
#[test]
fn wrong_number_of_descriptors_is_refused() {
    let service = FakeService::new();
    let two = vec![service.open("live"), service.open("shadow")];
    let fault = files_fault(&service, two);
    assert!(
        matches!(fault, PinFilesFault::Count { found: 2 }),
        "{fault}"
    );
    let service = FakeService::new();
    let four = (0..4).map(|_| service.open("live")).collect();
    let error = pin_error(&service, granted(&service, four));
    assert!(matches!(error, PinError::Protocol { .. }), "{error}");
}

/// P4.
#[test]
fn descriptor_of_another_live_file_is_refused() {
    let service = FakeService::new();
    let fds = ["shadow", "shadow", "index"].map(|name| service.open(name));
    let fault = files_fault(&service, fds.into());
    assert!(matches!(fault, PinFilesFault::OtherFile { .. }), "{fault}");
}

/// P4.
#[test]
fn writable_descriptor_is_refused() {
    let service = FakeService::new();
    let path = service.path("index");
    let index = File::options().read(true).write(true).open(path).unwrap();
    let fds = vec![service.open("live"), service.open("shadow"), index.into()];
    let fault = files_fault(&service, fds);
    assert!(
        matches!(
            fault,
            PinFilesFault::NotReadOnly {
                file: PinFile::Index
            }
        ),
        "{fault}"
    );
}

/// P4: a read of a pipe could wait for ever.
#[test]
fn descriptor_of_no_regular_file_is_refused() {
    let service = FakeService::new();
    let (reader, _writer) = io::pipe().unwrap();
    let fds = vec![service.open("live"), reader.into(), service.open("index")];
    let fault = files_fault(&service, fds);
    assert!(
        matches!(
            fault,
            PinFilesFault::NotRegular {
                file: PinFile::Shadow
            }
        ),
        "{fault}"
    );
}

/// P4: the kernel is asked to set the flag while it installs the descriptors.
#[test]
fn received_descriptors_close_on_exec() {
    let service = FakeService::new();
    let fds = ["live", "shadow", "index"].map(|name| service.open(name));
    let facts = service.facts(nth_pin(1));
    against(&service, granted(&service, fds.into()), |path| {
        let pin = PinClient::connect(path, "a test")
            .unwrap()
            .pin(&request())
            .unwrap();
        for fd in pin.files.as_fds() {
            assert_eq!(describe(fd).unwrap().on_exec, OnExec::Close);
        }
        assert_eq!(pin.facts, facts);
    });
}

#[test]
fn descriptors_with_a_message_that_has_none_are_refused() {
    let service = FakeService::new();
    let mut script = vec![welcome(&service, PROTOCOL_VERSION)];
    script.push((
        wire::encode(&ServerMessage::Pong),
        vec![service.open("live")],
    ));
    let error = pin_error(&service, script);
    let PinError::Protocol { fault, .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(fault, ProtocolFault::Descriptors), "{fault}");
}

#[test]
fn server_of_another_version_is_named() {
    let service = FakeService::new();
    let error = pin_error(&service, vec![welcome(&service, 9)]);
    assert!(
        matches!(error, PinError::Version { theirs: 9, .. }),
        "{error}"
    );
    fs::remove_file(service.socket_path()).unwrap();
    let kind = RefusalKind::Version { server: 8 };
    let message = wire::Sentence::cut("another version");
    let error = pin_error(
        &service,
        vec![said(&ServerMessage::Refused { kind, message })],
    );
    assert!(
        matches!(error, PinError::Version { theirs: 8, .. }),
        "{error}"
    );
}

#[test]
fn answer_that_is_no_message_or_the_wrong_one_is_a_protocol_error() {
    let service = FakeService::new();
    let error = pin_error(&service, vec![(vec![99], Vec::new())]);
    let PinError::Protocol { fault, .. } = error else {
        panic!("{error}")
    };
    let undecodable = |fault| matches!(fault, ProtocolFault::Message(MessageFault::Undecodable(_)));
    assert!(undecodable(fault));
    fs::remove_file(service.socket_path()).unwrap();
    let script = vec![
        welcome(&service, PROTOCOL_VERSION),
        said(&ServerMessage::Pong),
    ];
    let error = pin_error(&service, script);
    let PinError::Protocol { fault, .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(fault, ProtocolFault::OutOfTurn), "{fault}");
}

#[test]
fn server_that_does_not_answer_times_out() {
    let service = FakeService::new();
    let error = against(&service, Vec::new(), |path| {
        PinClient::connect_within(path, "a test", IMPATIENT).unwrap_err()
    });
    assert!(matches!(error, PinError::Timeout { .. }), "{error}");
    fs::remove_file(service.socket_path()).unwrap();
    let script = vec![welcome(&service, PROTOCOL_VERSION)];
    let timeouts = PinClientTimeouts {
        answer: Duration::from_secs(60),
        ..IMPATIENT
    };
    let error = against(&service, script, |path| {
        let client = PinClient::connect_within(path, "a test", timeouts).unwrap();
        client.pin(&request()).unwrap_err()
    });
    assert!(matches!(error, PinError::Timeout { .. }), "{error}");
}

/// An answer that came too late must not be taken for the answer to the next question.
#[test]
fn connection_is_of_no_use_after_a_timeout() {
    let service = FakeService::new();
    let script = vec![welcome(&service, PROTOCOL_VERSION)];
    against(&service, script, |path| {
        let timeouts = PinClientTimeouts {
            answer: Duration::from_millis(200),
            ..IMPATIENT
        };
        let mut client = PinClient::connect_within(path, "a test", timeouts).unwrap();
        assert!(matches!(client.status(), Err(PinError::Timeout { .. })));
        assert!(matches!(client.ping(), Err(PinError::Closed { .. })));
    });
}
