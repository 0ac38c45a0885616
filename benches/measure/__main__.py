"""The command: which measurements, how much of each, and where the tables go. `scripts/bench` says how."""

import argparse
import datetime
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from . import document, engine, growth, machine, peers, reader, selftest, tools, writer
from .result import Row, Table
from .scene import Failed, Missing, Scene, say

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"

# Every measurement: its name, what makes its table, what it is about. In the order of the document; the
# later ones may use what the earlier ones made.
MEASUREMENTS = {
    "sequential-warm": (reader.sequential_warm, "first read in a row, in memory, by how much is shadowed"),
    "second-read": (reader.second_read, "what the kernel has of the mount already"),
    "sequential-cold": (reader.sequential_cold, "in a row from the disk, at 400 MB/s and as it is"),
    "random": (reader.random_reads, "8 KiB here and there, 1 and 4 readers"),
    "tools": (tools.copy_tools, "restic, borg, rsync, cp, tar on mount and file"),
    "small-files": (tools.small_files, "tar of 10,000 small files in the view of a folder"),
    "passthrough": (reader.passthrough, "a plain file that the kernel reads by itself"),
    "fleecing": (peers.fleecing, "qemu-storage-daemon's export of a still image"),
    "memory": (reader.memory, "of the daemons, after all that"),
    "growth": (growth.growth, "pin, mount, first read, scan, release by size and share"),
    "pin-time": (writer.pin_time, "time under the commit lock at a pin"),
    "commit-rate": (writer.commit_rate, "with an idle pin, during a copy, after it"),
    "first-touch": (writer.first_touch, "checkpoints when every page is saved for a pin"),
    "shadow-bytes": (writer.shadow_bytes, "of 16 pins taken together and over time"),
    "redis": (engine.redis, "the server beside Redis, both durable"),
    "recovery": (engine.recovery, "starts after a kill by length of log, and after a stop by size"),
}


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    is_quick: bool
    mib: int
    rounds: int
    pairs: int
    # Of a random reader, and of one side of a pair of commit rates.
    seconds: float
    slice_seconds: float


@dataclass(frozen=True)
class Programs:
    stillfs: Path
    subject: Path
    pin: Path
    empty_server: Path


def parse(words):
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--print", action="store_true")
    for name in ("--mib", "--rounds", "--pairs"):
        parser.add_argument(name, type=int)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    parser.add_argument("--built", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if not (asked.list or asked.self_test) and asked.quick == asked.full:
        parser.error("one of --quick and --full")
    for name in asked.rows:
        if name not in MEASUREMENTS:
            parser.error(f"there is no {name}; there are: {' '.join(MEASUREMENTS)}")
    for name in ("mib", "rounds", "pairs"):
        given = getattr(asked, name)
        if given is not None and given < (64 if name == "mib" else 1):
            parser.error(f"--{name} {given} is too small")
    return asked


def scale_of(asked):
    quick, full = (256, 3, 5, 1.0, 0.5), (2048, 5, 15, 3.0, 3.0)
    mib, rounds, pairs, seconds, slice_seconds = quick if asked.quick else full
    return Scale(
        asked.quick, asked.mib or mib, asked.rounds or rounds, asked.pairs or pairs, seconds, slice_seconds
    )


def measured(scene, name):
    """The table of one measurement; a table that says so where something is missing."""
    work, about = MEASUREMENTS[name]
    begun = time.monotonic()
    say(f"{name}: {about}")
    try:
        table = work(scene)
    except Missing as missing:
        table = Table(about[0].upper() + about[1:], rows=[Row(name, skipped=str(missing))])
    say(f"{name}: {time.monotonic() - begun:.0f} s")
    return table


def heading(scale, load_before):
    """What a reader of the table has to know of the run."""
    how = "`scripts/bench --quick`, for orientation only" if scale.is_quick else "`scripts/bench --full`"
    today = datetime.date.today().isoformat()
    load = f"load average {load_before:.1f} before, {machine.load_average():.1f} after"
    return f"{today}, {how}, {scale.mib} MiB, {scale.rounds} rounds, {load}."


def measure_all(scene, asked):
    """All that is asked for; whether nothing failed. Each table is out before the next is measured."""
    names = asked.rows or list(MEASUREMENTS)
    is_written = (asked.full or asked.write) and not asked.print
    if is_written:
        document.write(DOCUMENT, "machine", f"Measured on {machine.facts(scene.scratch)}.")
    failed = []
    for name in sorted(names, key=list(MEASUREMENTS).index):
        load_before = machine.load_average()
        try:
            table = measured(scene, name)
        except (Failed, OSError, RuntimeError, ValueError) as error:
            traceback.print_exc()
            failed.append(f"{name}: {error}")
            continue
        block = document.markdown(table, heading(scene.scale, load_before))
        print(block, flush=True)
        if is_written:
            document.write_pictures(DOCUMENT.parent, table)
            document.write(DOCUMENT, name, block)
    for one in failed:
        say(f"FAILED {one}")
    return not failed


def main():
    asked = parse(sys.argv[1:])
    if asked.list:
        for name, (_, about) in MEASUREMENTS.items():
            print(f"{name:<18}{about}")
        return 0
    if asked.self_test:
        return selftest.run(DOCUMENT, list(MEASUREMENTS))
    # So that a signal ends in taking away what was made.
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    built = asked.built
    programs = Programs(built / "stillfs", built / "backup", built / "pin", built / "empty_server")
    scene = Scene(asked.scratch, scale_of(asked), programs)
    if scene.throttle.missing:
        say(f"bench: the disk is not slowed down: {scene.throttle.missing}")
    is_well = False
    try:
        is_well = measure_all(scene, asked)
    finally:
        for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        is_well = scene.clean_up() and is_well
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
