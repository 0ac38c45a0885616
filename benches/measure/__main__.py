"""The command: which measurements, how much of each, and where the tables go. `scripts/bench` says how."""

import argparse
import datetime
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from . import (
    clones, document, engine, growth, machine, peers, profile, reader, selftest, sqlite_source, stores, tools, writer
)
from .result import Row, Table
from .scene import Failed, Missing, Scene, say

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Measurement:
    """What makes its table, what it is about, and the seconds that it takes: quick, full, large."""

    work: object
    about: str
    seconds: tuple


# Every measurement by name, in the order of the document; the later ones may use what the earlier ones made.
# The first that reads a native view makes the views, for all that do.
MEASUREMENTS = {
    "sequential-warm": Measurement(
        reader.sequential_warm, "first read in a row, in memory, by how much is shadowed", (15, 40, 80)),
    "second-read": Measurement(reader.second_read, "what the kernel has of the mount already", (5, 8, 20)),
    "sequential-cold": Measurement(
        reader.sequential_cold, "in a row from the disk, at 400 MB/s and as it is", (30, 80, 250)),
    "random": Measurement(reader.random_reads, "8 KiB here and there, 1 and 4 readers", (50, 115, 200)),
    "tools": Measurement(tools.copy_tools, "restic, borg, rsync, cp, tar on mount and file", (80, 350, 900)),
    "small-files": Measurement(tools.small_files, "tar of 10,000 small files in the view of a folder", (5, 18, 18)),
    "passthrough": Measurement(reader.passthrough, "a plain file that the kernel reads by itself", (8, 25, 60)),
    "fleecing": Measurement(peers.fleecing, "qemu-storage-daemon's export of a still image", (10, 35, 80)),
    "memory": Measurement(reader.memory, "of the daemons, after all that", (1, 1, 1)),
    "growth": Measurement(growth.growth, "pin, mount, first read, scan, release by size and share", (30, 160, 1500)),
    "huge-file": Measurement(growth.huge_file, "index of a file of 1 TiB, nearly all holes", (8, 8, 8)),
    "pin-time": Measurement(writer.pin_time, "time under the commit lock at a pin", (10, 170, 1200)),
    "commit-rate": Measurement(writer.commit_rate, "with an idle pin, during a copy, after it", (28, 210, 300)),
    "first-touch": Measurement(writer.first_touch, "checkpoints when every page is saved for a pin", (10, 30, 40)),
    "shadow-bytes": Measurement(writer.shadow_bytes, "of 16 pins taken together and over time", (10, 25, 25)),
    "reflink": Measurement(clones.reflink, "clones of the live file at each pin instead of the shadow", (8, 60, 60)),
    "peers": Measurement(stores.peers, "the engine beside SQLite and redb", (20, 135, 200)),
    "redis": Measurement(engine.redis, "the server beside Redis, both durable", (8, 25, 25)),
    "recovery": Measurement(
        engine.recovery, "starts after a kill by length of log, and after a stop by size", (15, 80, 300)),
    "sqlite": Measurement(
        sqlite_source.sqlite, "a live SQLite database: pins, a long log, reads beside a native view", (20, 70, 150)),
}
FORMS = ("quick", "full", "large")


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    form: str
    mib: int
    rounds: int
    pairs: int
    # Of a random reader, and of one side of a pair of commit rates.
    seconds: float
    slice_seconds: float

    def pick(self, quick, full, large=None):
        """What belongs to the form; the large one takes the full one's where it has none of its own."""
        return {"quick": quick, "full": full, "large": full if large is None else large}[self.form]


@dataclass(frozen=True)
class Programs:
    stillfs: Path
    subject: Path
    pin: Path
    empty_server: Path
    peers: Path


def parse(words):
    parser = argparse.ArgumentParser(prog="scripts/bench")
    for form in FORMS:
        parser.add_argument(f"--{form}", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--minutes", type=float)
    for name in ("--mib", "--rounds", "--pairs"):
        parser.add_argument(name, type=int)
    parser.add_argument("--only-parse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    parser.add_argument("--built", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    asked.forms = [form for form in FORMS if getattr(asked, form)]
    if not (asked.list or asked.self_test) and len(asked.forms) != 1:
        parser.error("one of --quick, --full and --large")
    for name in asked.rows:
        if name not in MEASUREMENTS:
            parser.error(f"there is no {name}; there are: {' '.join(MEASUREMENTS)}")
    for name in ("mib", "rounds", "pairs"):
        given = getattr(asked, name)
        if given is not None and given < (64 if name == "mib" else 1):
            parser.error(f"--{name} {given} is too small")
    return asked


def scale_of(asked):
    form = asked.forms[0]
    mib, rounds, pairs, seconds, slice_seconds = {
        "quick": (256, 3, 5, 1.0, 0.5),
        "full": (768, 5, 15, 2.0, 2.0),
        "large": (2048, 5, 15, 3.0, 3.0),
    }[form]
    return Scale(form, asked.mib or mib, asked.rounds or rounds, asked.pairs or pairs, seconds, slice_seconds)


def list_all():
    for name, one in MEASUREMENTS.items():
        minutes = "".join(f"{seconds / 60:>6.1f}" for seconds in one.seconds)
        print(f"{name:<16}{minutes}  {one.about}")
    sums = "".join(f"{sum(one.seconds[at] for one in MEASUREMENTS.values()) / 60:>6.1f}" for at in range(len(FORMS)))
    print(f"{'minutes':<16}{sums}  expected with --{', --'.join(FORMS)}, on two processors")


def measured(scene, name, is_profiled):
    """The table of one measurement; a table that says so where something is missing."""
    one = MEASUREMENTS[name]
    expected = one.seconds[FORMS.index(scene.scale.form)]
    begun = time.monotonic()
    say(f"{name}: {one.about}; about {expected} s")
    try:
        with profile.recorded(scene, name) if is_profiled else nullcontext():
            table = one.work(scene)
    except Missing as missing:
        table = Table(one.about[0].upper() + one.about[1:], rows=[Row(name, skipped=str(missing))])
    say(f"{name}: {time.monotonic() - begun:.0f} s, {expected} expected")
    return table


def heading(scale, load_before):
    """What a reader of the table has to know of the run."""
    how = f"`scripts/bench --{scale.form}`" + (", for orientation only" if scale.form == "quick" else "")
    today = datetime.date.today().isoformat()
    load = f"load average {load_before:.1f} before, {machine.load_average():.1f} after"
    return f"{today}, {how}, {scale.mib} MiB where no size is named, {scale.rounds} rounds, {load}."


def measure_all(scene, asked):
    """All that is asked for; whether nothing failed. Each table is out before the next is measured."""
    names = sorted(asked.rows or MEASUREMENTS, key=list(MEASUREMENTS).index)
    # What was slowed down by perf is no figure.
    is_written = (not asked.quick or asked.write) and not asked.print and not asked.profile
    begun = time.monotonic()
    if is_written:
        document.write(DOCUMENT, "machine", f"Measured on {machine.facts(scene.scratch)}.")
    failed, left = [], []
    for name in names:
        expected = MEASUREMENTS[name].seconds[FORMS.index(scene.scale.form)]
        if asked.minutes and time.monotonic() - begun + expected > asked.minutes * 60:
            left.append(name)
            continue
        load_before = machine.load_average()
        try:
            table = measured(scene, name, asked.profile)
        except (Failed, OSError, RuntimeError, ValueError) as error:
            traceback.print_exc()
            failed.append(f"{name}: {error}")
            continue
        block = document.markdown(table, heading(scene.scale, load_before))
        print(block, flush=True)
        if is_written:
            document.write_pictures(DOCUMENT.parent, table)
            document.write(DOCUMENT, name, block)
    if left:
        say(f"no time was left for: scripts/bench --{scene.scale.form} --rows {' '.join(left)}")
    for one in failed:
        say(f"FAILED {one}")
    return not failed


def main():
    asked = parse(sys.argv[1:])
    if asked.only_parse:
        return 0
    if asked.list:
        list_all()
        return 0
    if asked.self_test:
        return selftest.run(DOCUMENT, list(MEASUREMENTS))
    # So that a signal ends in taking away what was made.
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    built = asked.built
    programs = Programs(
        built / "stillfs", built / "backup", built / "pin", built / "empty_server", built / "stillfs-peers"
    )
    scene = Scene(asked.scratch, scale_of(asked), programs)
    if absent := machine.absent_tools():
        say(f"bench: not installed: {' '.join(absent)}; what needs them is SKIPPED. Try: scripts/prepare --bench")
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
