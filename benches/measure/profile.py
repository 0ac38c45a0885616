"""Where the time of a measurement goes: what perf sees on all processors meanwhile."""

import shutil
import signal
import subprocess
from contextlib import contextmanager

from .scene import run, say

# As often a second.
FREQUENCY = 499


@contextmanager
def recorded(scene, name):
    """Records what runs inside; prints the table at the end. Says so where that cannot be done."""
    if shutil.which("perf") is None:
        say("profile SKIPPED: perf is not installed (Debian: linux-perf, Ubuntu: linux-tools-generic)")
        yield
        return
    file = scene.scratch / f"profile-{name}"
    command = ["perf", "record", "--all-cpus", "-F", FREQUENCY, "-g", "-o", file]
    with subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as perf:
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)
            said = perf.communicate()[1]
    if not file.exists():
        say(f"profile SKIPPED: perf said {said.strip()}")
        return
    print(table(file), flush=True)
    file.unlink()


def table(file):
    """Of all processors: programs and where in them, then functions. Idle time is left out."""
    parts = ["share of all processors, program, where", *lines(file, "comm,dso", 10)]
    return "\n".join([*parts, "share of all processors, program, where, function", *lines(file, "comm,dso,symbol", 30)])


def lines(file, order, most):
    command = ["perf", "report", "-i", file, "--stdio", "--no-children", "--no-inline", "-g", "none"]
    said, _ = run([*command, "--sort", order, "--percent-limit", "0.3"])
    shown = [line.rstrip() for line in said.splitlines() if line.strip() and not line.startswith("#")]
    return [line for line in shown if "swapper" not in line][:most]
