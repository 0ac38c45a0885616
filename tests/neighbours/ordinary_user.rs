//! All that a user without any right can do: serve, mount by fusermount3, copy, run, clean up.

use std::fs;
use std::process::Command;

use crate::namespace::LET_GO;
use crate::process::{end_of, has_tool};
use crate::rig::{Place, STRANGER, Served, as_stranger, can_mount, chmod};

/// In a mount namespace of its own, with a device that everybody may open; then as the user.
pub const NAMESPACE: &str = r#"
mount -t tmpfs -o mode=755 none "$1/dev" && mknod -m 666 "$1/dev/fuse" c 10 229 &&
    mount --bind "$1/dev/fuse" /dev/fuse || exit 99
# fusermount3 wants to know the user's name.
{ cat /etc/passwd; echo "stranger:x:$3:$3::/:/bin/sh"; } > "$1/dev/passwd" &&
    mount --bind "$1/dev/passwd" /etc/passwd || exit 99
exec setpriv --reuid "$3" --regid "$3" --clear-groups --inh-caps=-all sh -eu "$1/steps" "$1" "$2"
"#;

/// `$1` is the user's directory, `$2` the program.
const STEPS: &str = r#"
place=$1 stillfs=$2 point=$1/point daemon= engine=
trap 'kill -9 $engine $daemon 2>/dev/null || true' EXIT
step() { echo "step: $*"; }
# A failure that is negated does not end the shell.
never() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
mkdir "$point"
never grep -q '^CapEff:.*[1-9a-f]' /proc/self/status

step serve
mkfifo "$place/ready"
"$stillfs" serve "$place/db" --listen 127.0.0.1:0 > "$place/ready" 2> "$place/log" &
engine=$!
read -r line < "$place/ready"

step mount and copy
"$stillfs" mount "$place/db" "$point"
grep -q "$point fuse.stillfs ro,nosuid,nodev.*user_id=$(id -u)" /proc/mounts
cp -a "$point" "$place/copy"
"$stillfs" check "$place/copy"
"$stillfs" status --json | grep -q "$point"
never touch "$point/x" 2> /dev/null
"$stillfs" umount "$point"
never grep -q "$point" /proc/mounts

step run
"$stillfs" run "$place/db" -- cp -a '{}' "$place/copy2"
"$stillfs" check "$place/copy2"
never grep -q "^$place/db " /proc/mounts

step allow_other is not permitted
never "$stillfs" mount -o allow_other "$place/db" "$point" 2> "$place/refused"
grep -q user_allow_other "$place/refused"

step a mount whose daemon died
"$stillfs" mount "$place/db" "$point"
daemon=$("$stillfs" status --json | sed -n 's/.*"process_id": *\([0-9]*\).*/\1/p' | tail -n 1)
[ "$daemon" != "$engine" ]
kill -9 "$daemon"
while kill -0 "$daemon" 2> /dev/null; do sleep 0.05; done
never ls "$point" 2> /dev/null
never "$stillfs" mount "$place/db" "$point" 2> "$place/refused"
grep -q "stillfs umount $point" "$place/refused"
"$stillfs" umount "$point"
never grep -q "$point" /proc/mounts
"$stillfs" mount "$place/db" "$point"
cmp "$point/data.pages" "$point/data.pages"
"$stillfs" umount "$point"

step stop
kill -TERM "$engine"
wait "$engine"
engine= daemon=
echo all steps done
"#;

/// G25.
#[test]
fn an_ordinary_user_needs_no_right_but_fusermount3() {
    if !can_mount() || !has_tool("fusermount3") || !has_tool("setpriv") {
        return;
    }
    let place = Place::new();
    let Some(mut stillfs) = as_stranger("stillfs", &place) else {
        return;
    };
    let home = place.dir_of("home", STRANGER);
    let words = ["--listen", "127.0.0.1:0"];
    let served = Served::with(&place, &home.join("db"), &words, &mut stillfs);
    served.assert_serves();
    served.stop();
    place.dir("home/dev", 0o755);
    fs::write(home.join("steps"), STEPS).unwrap();
    chmod(&home.join("steps"), 0o644);
    let mut namespace = Command::new("unshare");
    namespace.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &format!("{LET_GO}\n{NAMESPACE}"),
        "sh",
    ]);
    namespace.arg(&home).arg(stillfs.get_program());
    namespace.arg(STRANGER.to_string());
    let ended = end_of(namespace.env("XDG_RUNTIME_DIR", place.path("runtime")));
    if ended.code() == 99 || ended.err.starts_with("unshare:") {
        println!("SKIPPED: no mount namespace: {}", ended.err.trim());
        return;
    }
    assert!(
        ended.out.ends_with("all steps done\n"),
        "{}\n{}",
        ended.out,
        ended.err
    );
}
