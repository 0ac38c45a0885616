"""What those who write feel of a pin."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from . import machine
from .machine import MIB
from .reader import NAME, compare
from .result import Row, Table, Target
from .scene import Subject, run, say

PAGE = 8192
# Commits whose system calls, bytes and processor time are counted.
COUNTED = 500
MEMORY_CEILING_MIB = 1024


def pin_time(scene):
    """The time that all commits wait for a pin, measured by the program of scripts/bench-pin."""
    table = Table(
        "Time under the commit lock at a pin, four writers",
        columns=("database, pins held", "p99", "", "us (each run)", "target", ""),
    )
    is_quick = scene.scale.form == "quick"
    large = [(gib, held) for gib in (1, 4, 16) for held in (1, 4, 16)]
    pairs = scene.scale.pick(quick=[(0.25, 1), (0.25, 16)], full=[(1, 1), (1, 16), (4, 16)], large=large)
    for gib, held in pairs:
        words = ["--quick"] if is_quick else ["--gib", str(gib)]
        words += ["--pins", "50" if is_quick else "1000", "--held", str(held - 1), "--only-pins"]
        words += ["--json", "--dir", str(scene.scratch)]
        report = json.loads(run([scene.programs.pin, *words])[0])["pins"]
        lock = report["commit_lock"]
        name = f"{gib:g} GiB, {held} held, {lock['count']} pins"
        row = Row(name, "us", [lock["p99_us"]], [], [lock["p99_us"]])
        # Its p99 is of a thousand pins.
        row.target, row.is_exact = Target(100, at_most=True, unit="us"), not is_quick
        table.rows.append(row)
        quiet, during = report["commits_quiet"], report["commits_with_pins"]
        table.remarks.append(
            f"{name}: under the lock at most {lock['max_us']:.1f} us; the slowest commit took "
            f"{during['max_us'] / 1e3:.1f} ms beside pins and {quiet['max_us'] / 1e3:.1f} ms without"
        )
        say(f"  {name}: p99 {lock['p99_us']:.1f} us")
    return table


# ---- commit rates


class Copier:
    """Somebody who reads a file from begin to end as fast as it gets, again and again."""

    def __init__(self, file, is_mount=True):
        self.file = file
        self.is_mount = is_mount
        self.is_over = threading.Event()
        self.copied = 0
        self.thread = threading.Thread(target=self.work)

    def work(self):
        buffer = bytearray(MIB)
        while not self.is_over.is_set():
            with open(self.file, "rb", buffering=0) as file:
                if self.is_mount:
                    # What the kernel has of the mount would be no load for the daemon.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while not self.is_over.is_set():
                    count = file.readinto(buffer)
                    if not count:
                        break
                    self.copied += count

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


STATES = (
    ("idle", "with an idle pin", 0.98),
    ("copy", "while the mount is copied", 0.90),
    ("after", "after the copy, the pin held", 0.99),
)
# What a copy costs that needs no pin: as much is the least that one of a mount can cost.
CONTROLS = (
    ("raw", "without a pin, while the file itself is copied out of memory"),
    ("empty", "without a pin, while the mount of a server that reads nothing is copied"),
)


def in_each_state(scene, subject, at, work):
    """What `work` gives without a pin, with an idle one, during a copy and after it. The one without is the
    first in one round and the last in the next."""
    found = {}
    if at % 2 == 0:
        found["none"] = work()
    point = scene.mount(subject.directory, f"view-commit-{at}")
    found["idle"] = work()
    with Copier(point / NAME):
        found["copy"] = work()
    found["after"] = work()
    scene.unmount(point)
    if at % 2:
        found["none"] = work()
    return found


def commit_rate(scene):
    subject = Subject(scene, "commits", min(scene.scale.mib, MEMORY_CEILING_MIB))
    length = int(scene.scale.slice_seconds * 1000)

    def rate():
        # Each slice begins with an empty log, so that as many checkpoints are in all of them.
        subject.ask("checkpoint")
        done = subject.ask("commit-for", length, 1)
        return done["commits"] / done["seconds"]

    subject.ask("commit-for", length, 1)
    nothing = scene.empty_server("empty-commits", os.stat(subject.file).st_size) / NAME
    rates = {name: [] for name in ("none", "idle", "copy", "after", "raw", "empty")}
    for at in range(scene.scale.pairs):
        for name, value in in_each_state(scene, subject, at, rate).items():
            rates[name].append(value)
        for name, copier in (("raw", Copier(subject.file, is_mount=False)), ("empty", Copier(nothing))):
            with copier:
                rates[name].append(rate())
    table = Table(
        "Commits per second of one committer, each one durable",
        columns=("", "with the pin", "without", "ratio", "target", ""),
    )
    for name, words, wanted in STATES:
        row = compare(words, rates[name], rates["none"], Target(wanted), 1, "/s")
        row.with_interval = True
        table.rows.append(row)
    for name, words in CONTROLS:
        row = compare(words, rates[name], rates["none"], None, 1, "/s")
        row.with_interval = True
        table.rows.append(row)
    table.remarks.append(
        f"{scene.scale.pairs} pairs of {scene.scale.slice_seconds:g} s a side; the interval is a bootstrap of "
        "the median, and a target is reached if its upper end is."
    )
    table.remarks += exact_costs(scene, subject)
    subject.end()
    return table


def exact_costs(scene, subject):
    """System calls, bytes and processor time of a commit: counted, whatever else the machine does."""
    counts = in_each_state(scene, subject, scene.scale.pairs + 1, lambda: one_cost(scene, subject))
    remarks = []
    for name in ("none", *(state for state, _, _ in STATES)):
        cost = counts[name]
        words = {"none": "without a pin"} | {state: said for state, said, _ in STATES}
        calls = f"{cost['calls']:.2f} system calls ({cost['named']})" if cost["calls"] else "system calls not counted"
        remarks.append(
            f"A commit {words[name]}: {calls}, {cost['written']:,.0f} bytes given to the kernel, "
            f"{cost['stored']:,.0f} to the disk, {cost['cpu_us']:.1f} us of processor time of the engine."
        )
    return remarks


def one_cost(scene, subject):
    subject.ask("checkpoint")
    before = usage(subject.pid)
    subject.ask("commit", COUNTED, 1)
    after = usage(subject.pid)
    cost = {key: (after[key] - before[key]) / COUNTED for key in before}
    # strace makes a commit slow, so it has commits of its own.
    calls = system_calls(subject, lambda: subject.ask("commit", COUNTED, 1))
    cost["calls"] = sum(calls.values()) / COUNTED
    most = sorted(calls.items(), key=lambda item: -item[1])[:4]
    cost["named"] = ", ".join(f"{name} {count / COUNTED:.2f}" for name, count in most)
    return cost


def usage(pid):
    """What a process has used so far: processor time of its threads, bytes written."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            nanoseconds += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except OSError:
            # A thread that has just ended.
            continue
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    io = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return {"cpu_us": nanoseconds / 1e3, "written": io["wchar"], "stored": io["write_bytes"]}


def system_calls(subject, work):
    """How many of each kind the engine makes meanwhile; none where strace is missing."""
    if shutil.which("strace") is None:
        return {}
    command = ["strace", "-f", "-c", "-p", str(subject.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        until = time.monotonic() + 10
        while time.monotonic() < until and not is_traced(subject.pid):
            time.sleep(0.01)
        work()
        strace.send_signal(signal.SIGINT)
        said = strace.stderr.read()
    return parse_strace(said)


def is_traced(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text(encoding="utf-8") for task in tasks)


def parse_strace(said):
    """Calls by name, of the table that strace -c prints."""
    calls = {}
    for line in said.splitlines():
        words = line.split()
        # % time, seconds, usecs/call, calls, [errors], name.
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] not in ("total", "syscall"):
            calls[words[-1]] = int(words[3])
    return calls


# ---- checkpoints


def first_touch(scene):
    """Checkpoints that save every page that they write, beside the same without a pin."""
    mib = min(scene.scale.mib, MEMORY_CEILING_MIB)
    # The log is emptied by the one checkpoint that is timed, and by none before.
    subject = Subject(scene, "touched", mib, log_mib=64 * 1024)
    seed = 100
    found = {"warm": {"none": [], "pin": []}, "cold": {"none": [], "pin": []}}
    def rate(state):
        nonlocal seed
        seed += 1
        if state == "cold":
            machine.make_cold([subject.file, *subject.shadow_files()])
        else:
            machine.make_warm([subject.file])
        done = subject.ask("change", 10, seed)["checkpoint"]
        return done["pages_written"] * PAGE / done["seconds"]

    for at in range(scene.scale.rounds):
        for state in ("warm", "cold"):
            for side in ("none", "pin") if at % 2 else ("pin", "none"):
                point = scene.mount(subject.directory, f"view-touch-{at}-{state}") if side == "pin" else None
                found[state][side].append(rate(state))
                if point:
                    scene.unmount(point)
    table = Table(
        "Checkpoint of pages here and there, each one a first touch",
        columns=("", "with a pin", "without", "ratio (lowest to highest)", "target", ""),
    )
    for state, words, wanted in (("warm", "in memory", 0.85), ("cold", "from the disk", 0.60)):
        row = compare(words, found[state]["pin"], found[state]["none"], Target(wanted), 1e6, "MB/s")
        table.rows.append(row)
    table.remarks.append(
        "10 % of the pages of the database, drawn at random. \"From the disk\": out of memory before the "
        "transactions, which read the pages that they change; so the old pages are mostly back when they are saved."
    )
    subject.end()
    return table


# ---- the shadow


def shadow_bytes(scene):
    """What the shadow takes on the disk, beside the pages that pins need: found by comparing whole views."""
    mib = min(scene.scale.mib, scene.scale.pick(quick=128, full=512))
    table = Table(
        "Bytes of the shadow, 16 pins",
        columns=("", "shadow", "beside", "ratio", "target", ""),
    )
    found = {}
    for count in (1, 16):
        subject = Subject(scene, f"together-{count}", mib)
        for at in range(count):
            scene.mount(subject.directory, f"view-together-{count}-{at}")
        subject.ask("change", 10, 1)
        slots = allocated([subject.directory / "shadow" / "slots"])
        found[count] = (slots, allocated(subject.shadow_files()))
        unmount_all(scene, f"view-together-{count}-", count)
        subject.end()
    for at, name in enumerate(("old pages alone, taken together, beside one", "the same with the indexes of the pins")):
        sixteen, one = found[16][at], found[1][at]
        row = Row(name, "MB", [sixteen / 1e6], [one / 1e6], [sixteen / one], Target(1.1, at_most=True), is_exact=True)
        table.rows.append(row)

    subject = Subject(scene, "over-time", mib)
    points = []
    for at in range(16):
        points.append(scene.mount(subject.directory, f"view-time-{at}"))
        subject.ask("change", 1, at + 1)
    distinct = distinct_pre_images(subject.file, [point / NAME for point in points])
    taken = allocated([subject.directory / "shadow" / "slots"])
    row = Row("taken over time, slots beside all distinct old pages", "MB", [taken / 1e6], [distinct * PAGE / 1e6])
    row.compared, row.is_exact = [taken / (distinct * PAGE)], True
    row.target = Target(1.0, at_most=True)
    table.rows.append(row)
    table.remarks.append(f"{distinct} distinct old pages, of {mib} MiB; bytes as the file system has allocated them.")
    unmount_all(scene, "view-time-", 16)
    subject.end()
    return table


def unmount_all(scene, start, count):
    for at in range(count):
        scene.unmount(scene.scratch / f"{start}{at}")


def allocated(files):
    return sum(os.stat(one).st_blocks * 512 for one in files)


def distinct_pre_images(live, views):
    """How many different old pages the views have that the file has no more."""
    found = set()
    for view in views:
        with open(live, "rb", buffering=0) as current, open(view, "rb", buffering=0) as old:
            at = 0
            while block := old.read(MIB):
                beside = current.read(len(block))
                if block != beside:
                    for begin in range(0, len(block), PAGE):
                        page = block[begin : begin + PAGE]
                        if page != beside[begin : begin + PAGE]:
                            digest = hashlib.blake2b(page, digest_size=16).digest()
                            found.add((at + begin, digest))
                at += len(block)
    return len(found)
