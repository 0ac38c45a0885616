"""What is measured on: the programs, a database with its mounts, and that all of it goes away again."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from . import machine
from .machine import MIB

# How long something that was started may take until it answers.
PATIENCE = 60
# As `stillfs mount` sets it.
READ_AHEAD_KIB = 1024


class Missing(Exception):
    """Something that a measurement needs is not there; it is skipped."""


class Failed(Exception):
    """Something did not work that has to."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is not installed")


def run(command, ok=(0,), **options):
    """Runs a command to its end; its standard output and standard error as text."""
    command = [str(word) for word in command]
    options.setdefault("env", os.environ | {"LC_ALL": "C"})
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode not in ok:
        raise Failed(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def seconds_of(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


class Scene:
    """Everything that measurements share."""

    def __init__(self, scratch, scale, programs):
        self.scratch = Path(scratch)
        self.scale = scale
        self.programs = programs
        self.ends = []
        self.daemons = []
        self.throttle = machine.Throttle(self.scratch)
        self.kept = {}

    def folder(self, name):
        path = self.scratch / name
        path.mkdir()
        return path

    def once(self, name, make):
        """What several measurements share is made by the first of them."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def rounds(self, variants, count=None):
        """Each variant once in every round, in an order of its own; the results by name, in order."""
        results = {name: [] for name in variants}
        for at in range(count or self.scale.rounds):
            order = list(variants)
            random.Random(at).shuffle(order)
            for name in order:
                results[name].append(variants[name]())
        return results

    def start(self, command, **options):
        """A process that ends with the scene."""
        process = subprocess.Popen([str(word) for word in command], **options)
        self.ends.append(lambda: end_process(process))
        return process

    def mount(self, source, name, *options):
        """Mounts a view; the mount point and the daemon's process."""
        point = self.folder(name)
        run([self.programs.stillfs, "mount", source, point, *options], ok=(0, 3))
        self.ends.append(lambda: self.unmount(point))
        daemon = daemon_of(point)
        self.daemons.append(daemon)
        return point

    def unmount(self, point):
        if point.exists() and os.path.ismount(point):
            run([self.programs.stillfs, "umount", point], ok=(0, 3))
        if point.exists():
            point.rmdir()

    def empty_server(self, name, bytes_, *words):
        """The mount of a server that reads nothing; None where it cannot be had."""
        point = self.folder(name)
        self.start([self.programs.empty_server, point, bytes_, *words])
        self.ends.append(lambda: run(["umount", point]))
        wait_for(lambda: os.path.ismount(point), f"the mount of {name}")
        device = os.stat(point).st_dev
        place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        if os.access(place, os.W_OK):
            place.write_text(str(READ_AHEAD_KIB), encoding="ascii")
        return point

    def memory_folder(self):
        """A folder in memory to copy to, so that no disk is measured that is not meant."""

        def make():
            if os.geteuid() != 0:
                raise Missing("only root may mount a tmpfs to copy to")
            point = self.folder("memory")
            run(["mount", "-t", "tmpfs", "stillfs-bench", point])
            self.ends.append(lambda: run(["umount", point]))
            return point

        return self.once("memory", make)

    def clean_up(self):
        """Ends everything, the newest first; says what failed and goes on."""
        failed = []
        while self.ends:
            end = self.ends.pop()
            try:
                end()
            except (OSError, Failed, subprocess.SubprocessError) as error:
                failed.append(str(error))
        try:
            self.throttle.limit(0) if self.throttle.folder else None
            self.throttle.leave()
        except (OSError, RuntimeError) as error:
            failed.append(str(error))
        for one in failed:
            say(f"bench: cleaning up: {one}")
        return not failed


def end_process(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(is_there, what):
    until = time.monotonic() + PATIENCE
    while not is_there():
        if time.monotonic() > until:
            raise Failed(f"{what} does not come")
        time.sleep(0.01)


def daemon_of(point):
    """The process that serves the mount at `point`: the one that has it in its command line, or says so."""
    wanted = os.fsencode(str(point))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted in words and b"stillfs" in words.split(b"\0")[0]:
            return int(entry.name)
    return None


class Talker:
    """A process that does what it is told by lines, and answers each with one of JSON. What it works in goes
    with it."""

    def __init__(self, scene, directory, command):
        self.directory = directory
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        scene.ends.append(self.end)

    @property
    def pid(self):
        return self.process.pid

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.process.args[0]} has failed")
        return json.loads(line)

    def tell(self, *words):
        print(*words, file=self.process.stdin, flush=True)

    def ask(self, *words):
        self.tell(*words)
        return self.answer()

    def finish(self):
        """Ends the process as its end of input does, and leaves its files."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def end(self):
        self.finish()
        shutil.rmtree(self.directory, ignore_errors=True)


class Subject(Talker):
    """A native database in a process of its own."""

    def __init__(self, scene, name, mib, log_mib=None):
        directory = scene.scratch / name
        words = [scene.programs.subject, directory, int(mib)] + ([int(log_mib)] if log_mib else [])
        super().__init__(scene, directory, words)
        self.facts = self.answer()

    @property
    def file(self):
        return self.directory / "data.pages"

    def shadow_files(self):
        """The files beside the database that hold old pages."""
        return [one for one in self.directory.rglob("*") if one.is_file() and "shadow" in str(one)]


def with_database(folder):
    """A small SQLite database in a folder of plain files: without one, nothing of it would be still."""
    connection = sqlite3.connect(folder / "small.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY)")
    connection.close()


def dd(path, block=MIB):
    """Bytes per second of reading a file once in big blocks, as dd says it, without its start."""
    _, said = run(["dd", f"if={path}", "of=/dev/null", f"bs={block}"])
    line = said.strip().splitlines()[-1]
    bytes_, seconds = int(line.split()[0]), float(line.split(",")[-2].split()[0])
    return bytes_ / seconds
