use std::process::{Command, Output};

use super::*;

/// Runs a Redis tool against the server; `None`, with a note, where it is not installed.
fn tool(running: &Running, name: &str, arguments: &[&str]) -> Option<Output> {
    let port = running.address.port().to_string();
    let result = Command::new(name)
        .args(["-p", &port])
        .args(arguments)
        .output();
    match result {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {name}: {error}");
            None
        }
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_benchmark_runs_without_an_error() {
    let running = Running::new();
    let arguments = [
        "-t",
        "ping,set,get,incr,mset",
        "-n",
        "2000",
        "-P",
        "16",
        "-q",
    ];
    let Some(output) = tool(&running, "redis-benchmark", &arguments) else {
        return;
    };
    let shown = text(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(!shown.to_ascii_lowercase().contains("err"), "{shown}");
    assert!(!shown.contains("WARNING"), "{shown}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"] {
        assert!(shown.contains(test), "{test} in {shown}");
    }
    running
        .client()
        .ask("GET counter:__rand_int__", "$4\r\n2000\r\n");
}

#[test]
fn redis_cli_works_in_both_protocols() {
    let running = Running::new();
    let Some(output) = tool(&running, "redis-cli", &["SET", "greeting", "hello"]) else {
        return;
    };
    assert_eq!(text(&output), "OK\n");
    let run = |arguments: &[&str]| text(&tool(&running, "redis-cli", arguments).unwrap());
    assert_eq!(run(&["-3", "GET", "greeting"]), "hello\n");
    assert_eq!(run(&["-n", "3", "GET", "greeting"]), "\n");
    assert_eq!(run(&["--scan", "--pattern", "gr*"]), "greeting\n");
    assert!(run(&["--bigkeys"]).contains("Biggest string found"));
    assert!(run(&["INFO", "server"]).contains("redis_version"));
    assert!(run(&["-3", "CONFIG", "GET", "save"]).contains("save"));
    let refused = tool(&running, "redis-cli", &["-e", "SET", "k", "v", "EX", "5"]).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expiry is not supported"));
}
