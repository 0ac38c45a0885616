"""The server beside Redis, the engine beside other engines, and recovery."""

import csv
import io
import os
import shutil
import socket
import subprocess
import time

from .reader import compare
from .result import ROUNDS_MIN, Row, Table, Target
from .scene import Failed, Subject, need, run, say, wait_for
from .statistic import Spread, slope

CLIENTS = 50
PIPELINES = (1, 16)
VALUE_BYTES = 100
# What redis-benchmark puts in place of __rand_int__.
RANDOM_DIGITS = 12
KEYS = 100_000
DURABLE_COLUMNS = ("", "stillfs", "Redis", "ratio (lowest to highest)", "target", "")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def is_listening(port):
    with socket.socket() as one:
        one.settimeout(0.2)
        return one.connect_ex(("127.0.0.1", port)) == 0


def redis(scene):
    """`stillfs serve` and Redis that syncs at every write, both durable, the same client on both."""
    need("redis-server", "redis-benchmark")
    ports = {"ours": free_port(), "theirs": free_port()}
    folder = scene.folder("redis")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    servers = [
        scene.start(
            [scene.programs.stillfs, "serve", scene.scratch / "served", "--listen", f"127.0.0.1:{ports['ours']}"],
            **quiet,
        ),
        scene.start(
            ["redis-server", "--port", str(ports["theirs"]), "--bind", "127.0.0.1", "--dir", folder]
            + ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"],
            **quiet,
        ),
    ]
    for name, port in ports.items():
        wait_for(lambda port=port: is_listening(port), f"the server on port {port} ({name})")
    title = f"Server, redis-benchmark, {CLIENTS} clients, values of {VALUE_BYTES} bytes"
    table = Table(title, columns=DURABLE_COLUMNS)
    for pipeline in PIPELINES:
        requests = scene.scale.pick(quick=4_000, full=40_000) * (1 if pipeline == 1 else 4)
        results = scene.rounds(
            {name: lambda port=port: redis_rates(port, pipeline, requests) for name, port in ports.items()}
        )
        for word, wanted in (("set", 1.0), ("get", 0.5)):
            ours, theirs = ([one[word] for one in results[name]] for name in ("ours", "theirs"))
            table.rows.append(
                compare(f"{word}, -P {pipeline}", ours, theirs, Target(wanted), 1e3, "k/s")
            )
    table.remarks.append(
        "Redis with `appendfsync always`: on both sides an answered SET is on the disk. Each value is another one."
    )
    for server in servers:
        server.terminate()
        server.wait()
    return table


def redis_rates(port, pipeline, requests):
    """Requests per second. Each value is another one: one that is there already would change nothing, and what changes
    nothing need not be synced."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-c", CLIENTS, "-n", requests, "-P", pipeline]
    command += ["-d", VALUE_BYTES, "-r", KEYS, "--csv"]
    value = "x" * (VALUE_BYTES - RANDOM_DIGITS) + "__rand_int__"
    asked = {"set": ["set", "key:__rand_int__", value], "get": ["-t", "get"]}
    rates = {}
    for word, arguments in asked.items():
        said, _ = run(command + arguments)
        for row in csv.reader(io.StringIO(said)):
            if len(row) > 1 and row[0].lower().startswith(word):
                rates[word] = float(row[1])
    if set(rates) != set(asked):
        raise Failed(f"redis-benchmark printed {said!r}")
    return rates


# ---- recovery


def recovery(scene):
    """Starts after a kill, by how much log there is to read; and the start of a stopped database by its size."""
    logs = scene.scale.pick(quick=(16, 32, 64), full=(64, 128, 256), large=(128, 256, 512))
    sizes = scene.scale.pick(quick=(64, 256), full=(1024, 4096), large=(1024, 4096, 16384))
    columns = ("", "seconds", "", "s per GB of log, or s", "target", "")
    table = Table("Recovery, and opening what was stopped", columns=columns)
    points = []
    for mib in logs:
        directory = scene.scratch / f"recovery-{mib}"
        # A database that fits the engine's cache: else changed pages would make it empty the log.
        subject = Subject(scene, directory.name, 16, log_mib=64 * 1024)
        before = 0
        while (now := log_bytes(directory)) < mib << 20:
            if now < before:
                raise Failed(f"the log was emptied at {before >> 20} MiB, before it had {mib} MiB")
            before = now
            subject.ask("commit", 1000, 8)
        subject.process.kill()
        subject.process.wait()
        bytes_ = log_bytes(directory)
        # Each start would shorten the log of the next: every round has a copy.
        took = []
        for _ in range(scene.scale.rounds):
            copy = scene.scratch / "recovery-copy"
            shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.sock", "pin.socket"), copy_function=plain)
            # What a killed engine had committed is on the disk, and so must the copy be.
            os.sync()
            took.append(start_seconds(scene, copy))
            shutil.rmtree(copy)
        say(f"  log of {bytes_ >> 20} MiB: {Spread.of(took).median:.2f} s")
        points.append((bytes_ / 1e9, Spread.of(took).median))
        row = Row(f"log of {bytes_ >> 20} MiB after a kill", "s", took, [], [one / (bytes_ / 1e9) for one in took])
        table.rows.append(row)
        shutil.rmtree(directory)
    exponent = slope(points)
    row = Row("growth with the log (exponent)", compared=[exponent], target=Target(1.15, at_most=True))
    # Of medians.
    row.is_exact = scene.scale.rounds >= ROUNDS_MIN
    table.rows.append(row)
    for mib in sizes:
        subject = Subject(scene, f"stopped-{mib}", mib)
        subject.process.stdin.close()
        subject.process.wait()
        directory = subject.directory
        took = [start_seconds(scene, directory) for _ in range(scene.scale.rounds)]
        row = Row(f"open of {mib} MiB, stopped cleanly", "s", took, [], took, Target(0.1, at_most=True, unit="s"))
        table.rows.append(row)
        shutil.rmtree(directory)
    table.remarks.append("From the start of `stillfs serve` to its first word, the start of the program included.")
    return table


def plain(source, target):
    """Sockets cannot be copied, and the next engine makes its own."""
    if os.path.isfile(source):
        shutil.copy2(source, target)


def log_bytes(directory):
    return sum(one.stat().st_blocks * 512 for one in (directory / "wal").iterdir())


def start_seconds(scene, directory):
    """From the start of the server until it says that it is ready."""
    begun = time.perf_counter()
    command = [scene.programs.stillfs, "serve", directory, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        line = server.stdout.readline()
        took = time.perf_counter() - begun
        server.terminate()
        server.wait()
    if not line.startswith("ready "):
        raise Failed(f"stillfs serve {directory} did not start")
    return took
