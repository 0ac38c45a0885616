//! The proxy and the server do what the other tests rely on.

use std::fs;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::client::{ask, ask_with};
use crate::http::Answer;
use crate::proxy::{Act, Pace};

fn text() -> Vec<u8> {
    let lines = (0..20_000).map(|at| format!("{at:09}\n"));
    lines.collect::<String>().into_bytes()
}

#[test]
fn cut_connections_leave_whole_objects_or_none() {
    let Some(bucket) = Bucket::new() else { return };
    let (text, address) = (text(), bucket.proxy.address);
    let there = |key: &str| fs::read(bucket.scene.at(&format!("server/bucket/{key}")));
    let slow_down = Answer::error("503 Slow Down", "SlowDown");
    for act in [Act::Refuse, Act::CutBody(150_000), Act::Answer(slow_down)] {
        let cut = act.clone();
        bucket.proxy.plan(move |_| cut.clone());
        let said = ask(address, "PUT", "/bucket/object", "", &text);
        match act {
            Act::Answer(_) => assert_eq!(said.unwrap().status(), 503),
            _ => drop(said.unwrap_err()),
        }
        there("object").unwrap_err();
    }
    bucket.proxy.plan(|_| Act::Swallow);
    ask(address, "PUT", "/bucket/object", "", &text).unwrap_err();
    assert_eq!(there("object").unwrap(), text);
    assert_eq!(bucket.proxy.seen()[0].name(), "1: PUT /bucket/object");

    bucket.proxy.plan(|request| match request.number {
        1 => Act::CutAnswer(150_000),
        2 => Act::Alter(|answer| answer.with_field("content-length", "300000")),
        _ => Act::Pass,
    });
    let get = || ask(address, "GET", "/bucket/object", "", b"");
    get().unwrap_err();
    get().unwrap_err();
    assert_eq!(get().unwrap().body, text);
    let other = ask_with("other key", address, "GET", "/bucket/object", "", b"");
    assert_eq!(other.unwrap().status(), 403);
    assert_eq!(bucket.proxy.seen().len(), 4);
}

#[test]
fn of_writers_with_the_same_condition_one_succeeds() {
    let Some(bucket) = Bucket::new() else { return };
    let (text, address) = (text(), bucket.proxy.address);
    bucket.proxy.slow_down(Pace {
        delay: Duration::from_millis(50),
        bytes_per_second: Some(2_000_000),
    });
    let begun = Instant::now();
    for round in 0..2 {
        let key = format!("/bucket/object{round}");
        let put = || ask(address, "PUT", &key, "If-None-Match: *\r\n", &text);
        let mut said = std::thread::scope(|scope| {
            let writers = [(); 4].map(|()| scope.spawn(put));
            writers.map(|writer| writer.join().unwrap().unwrap().status())
        });
        said.sort_unstable();
        assert_eq!(said, [200, 412, 412, 412]);
    }
    assert!(begun.elapsed() > Duration::from_millis(2 * (50 + 90)));
}
