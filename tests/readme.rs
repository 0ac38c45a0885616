//! What README.md, docs/backup.md and docs/watching.md tell people to type works: every block after `<!-- run -->` is run as it
//! stands. What writes docs/performance.md checks itself.

#![allow(clippy::disallowed_methods)]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The shell blocks of `text` that are marked to be run, without their fences.
fn blocks_to_run(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while lines.any(|line| line == "<!-- run -->") {
        let fence = lines.by_ref().find(|line| !line.is_empty());
        assert_eq!(fence, Some("```sh"), "a shell block follows the mark");
        let block = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(block.map(|line| format!("{line}\n")).collect());
    }
    blocks
}

/// What the blocks need and is not here, said as a skip.
fn is_missing(tools: &[&str]) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &&str| env::split_paths(&folders).any(|dir| dir.join(tool).exists());
    let missing = tools.iter().find(|tool| !is_there(tool));
    if let Some(tool) = missing {
        println!("SKIPPED: {tool} is missing, so README.md cannot be tried");
    }
    let fuse = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if fuse.is_err() {
        println!("SKIPPED: /dev/fuse cannot be opened, so README.md cannot be tried");
    }
    missing.is_some() || fuse.is_err()
}

/// Nothing may stay mounted or running, also where a block failed in its middle.
const CLEAN_UP: &str = r#"
clean_up() {
    status=$?
    trap - EXIT
    awk -v dir="$DEMO/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo |
        while read -r mount; do stillfs umount --lazy "$mount" || umount -l "$mount" || true; done
    jobs -p | xargs -r kill 2>/dev/null || true
    wait
    exit "$status"
}
trap clean_up EXIT
"#;

#[test]
fn commands_of_the_readme_work_as_they_stand() {
    if is_missing(&["bash", "awk", "redis-cli", "rsync", "tar", "cmp", "sqlite3"]) {
        return;
    }
    run_blocks_of("README.md");
}

/// The recovery from a clean machine among them.
#[test]
fn commands_of_the_page_about_backups_work_as_they_stand() {
    if is_missing(&["bash", "awk", "redis-cli", "sqlite3"]) {
        return;
    }
    run_blocks_of("docs/backup.md");
}

#[test]
fn commands_of_the_page_about_watching_work_as_they_stand() {
    if is_missing(&["bash", "curl", "sqlite3"]) {
        return;
    }
    run_blocks_of("docs/watching.md");
}

/// Every figure of docs/performance.md goes through these statistics and this writer of tables.
#[test]
fn the_instrument_of_the_page_about_speed_passes_its_checks() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench");
    let output = match Command::new("python3").arg("--version").output() {
        Ok(_) => Command::new(script).arg("--self-test").output(),
        Err(error) => return println!("SKIPPED: python3 cannot be run: {error}"),
    };
    let output = output.expect("scripts/bench can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
}

fn run_blocks_of(document: &str) {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let blocks = blocks_to_run(&fs::read_to_string(text).expect(document));
    assert!(!blocks.is_empty(), "{document} has something to run");
    let binary = Path::new(env!("CARGO_BIN_EXE_stillfs"));
    let folder = binary.parent().expect("a file is in a folder");
    let mut path = vec![folder.to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(path).expect("no colon in a build folder");
    for block in blocks {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Longer than any step takes; a block that hangs is a failure and no hung run.
        let output = Command::new("timeout")
            .args([
                "--kill-after=10",
                "120",
                "bash",
                "-eu",
                "-o",
                "pipefail",
                "-c",
            ])
            .arg(format!("{CLEAN_UP}{block}"))
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("DEMO", dir.path())
            .env("XDG_RUNTIME_DIR", dir.path())
            .output()
            .expect("bash can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}\n{block}\n--- stdout\n{}\n--- stderr\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}

#[test]
fn marked_blocks_are_found_and_others_are_not() {
    let text = "a\n```sh\nno\n```\n<!-- run -->\n\n```sh\none\ntwo\n```\nb\n<!-- run -->\n```sh\nthree\n```\n";
    assert_eq!(blocks_to_run(text), ["one\ntwo\n", "three\n"]);
}
