"""Whether a clone of the live file at each pin, on a file system that can, would be better than the shadow."""

import fcntl
import os
import re
import time
import shutil

from . import machine
from .machine import MIB
from .result import Row, Table, Target
from .reader import compare
from .scene import Missing, Subject, dd, need, run, say
from .statistic import Spread, paired_ratios, percentile

PAGE = 8192
# From linux/fs.h: _IOW(0x94, 9, int).
FICLONE = 0x40049409
# Pins held at the same time, as somebody keeps the last few of a day.
HELD = 5
# What changes between two pins, of the pages; and how long somebody commits.
CHANGED_PERCENT = 1
COMMIT_MS = 100


def reflink(scene):
    """A day of pins in short: writes between them, by clones and by the shadow, in turn on one file system."""
    need("mkfs.xfs", "filefrag", "losetup")
    mib = scene.scale.pick(quick=64, full=512)
    count = scene.scale.pick(quick=6, full=50)
    place = file_system(scene, 6 * mib)
    ways = {"shadow": Way(scene, f"{place.name}/shadow", mib), "clone": Clones(scene, f"{place.name}/clone", mib)}
    elsewhere = Way(scene, "extents", mib)
    for way in (*ways.values(), elsewhere):
        way.begin()
    for at in range(count):
        order = list(ways) if at % 2 else list(reversed(ways))
        for name in order:
            ways[name].step(at)
        # The same pins where the file system has no clones: only the extents count.
        elsewhere.step(at, commits=False)
    say(f"  {count} pins")
    reads = scene.rounds({name: way.read_cold for name, way in ways.items()}, max(scene.scale.rounds, 5))
    table = Table(
        f"Clones of the live file at each pin (XFS), {count} pins of {mib} MiB, {HELD} held",
        columns=("", "shadow", "clone", "speed, clone = 1 (lowest to highest)", "target", ""),
    )
    ours, theirs = ways["shadow"], ways["clone"]
    rows = {
        "a pin": Row("until a pin stands", "ms", ours.pins, theirs.pins, paired_ratios(theirs.pins, ours.pins)),
        "writers": compare("pages of a checkpoint", ours.pages, theirs.pages, None, 1e6, "MB/s"),
        "commits": compare("commits of one committer", ours.commits, theirs.commits, None, 1, "/s"),
        "reads": compare("live file after all, in a row from the disk", reads["shadow"], reads["clone"]),
    }
    table.rows += rows.values()
    for words, way in (("XFS", ours), (kind_of(scene), elsewhere)):
        table.rows.append(extents_row(f"extents of the live file by the shadow, after and before, {words}", way))
    table.rows.append(extents_row("extents of the live file by clones, after and before, XFS", theirs, None))
    better = [name for name, row in rows.items() if Spread.of(row.compared).median < 1]
    table.remarks += [
        f"The slowest pin took {max(ours.pins):.1f} ms by the shadow and {max(theirs.pins):.1f} ms by a clone, the last "
        f"{HELD} in the middle {percentile(ours.pins[-HELD:], 50):.1f} and {percentile(theirs.pins[-HELD:], 50):.1f} ms.",
        f"Between two pins {CHANGED_PERCENT} % of the pages change, and somebody commits for {COMMIT_MS} ms. A clone is "
        "made of a file that a checkpoint has just completed; that checkpoint is not in its time.",
        f"A clone is better in {len(better)} of {len(rows)}{': ' + ', '.join(better) if better else ''}. It would be "
        "built if it were in all.",
    ]
    for way in (*ways.values(), elsewhere):
        way.subject.end()
    return table


def file_system(scene, mib):
    """An XFS of its own in a file. Past the page cache of what is below: a cold file has to be cold."""
    if os.geteuid() != 0:
        raise Missing("only root may mount an XFS")
    image, point = scene.scratch / "xfs.image", scene.folder("xfs")
    with open(image, "wb") as file:
        # Old pages leave 2 GiB free, so that commits find space.
        file.truncate((mib + 4096) * MIB)
    run(["mkfs.xfs", "-q", "-m", "reflink=1", image])
    device = run(["losetup", "--find", "--show", "--direct-io=on", image])[0].strip()
    scene.ends.append(lambda: run(["losetup", "--detach", device]))
    run(["mount", device, point])
    scene.ends.append(lambda: run(["umount", point]))
    return point


def kind_of(scene):
    return run(["stat", "-f", "-c", "%T", scene.scratch])[0].strip().replace("ext2/ext3", "ext4")


def extents(file):
    os.sync()
    return int(re.search(r": (\d+) extents? found", run(["filefrag", file])[0]).group(1))


def extents_row(words, way, target=Target(1.0, at_most=True)):
    row = Row(words, "extents", [way.after()], [way.before], [way.after() / way.before], target)
    row.is_exact = True
    return row


class Way:
    """A database of which pins are taken and held; here by our shadow."""

    def __init__(self, scene, name, mib):
        self.scene = scene
        self.subject = Subject(scene, name, mib)
        self.pins, self.pages, self.commits = [], [], []
        self.before = 0
        self.seed = 0

    def begin(self):
        """Extents before the first pin, when changes have been written in place for the first time."""
        self.subject.ask("change", CHANGED_PERCENT, 1000)
        self.before = extents(self.subject.file)

    def after(self):
        return extents(self.subject.file)

    def pin(self, at):
        return self.subject.ask("pin")["seconds"]

    def release(self, at):
        self.subject.ask("release")

    def step(self, at, commits=True):
        self.subject.ask("checkpoint")
        self.pins.append(self.pin(at) * 1000)
        if at >= HELD:
            self.release(at - HELD)
        if commits:
            done = self.subject.ask("commit-for", COMMIT_MS, 1)
            self.commits.append(done["commits"] / done["seconds"])
            self.subject.ask("checkpoint")
        done = self.subject.ask("change", CHANGED_PERCENT, at)["checkpoint"]
        self.pages.append(done["pages_written"] * PAGE / done["seconds"])

    def read_cold(self):
        machine.make_cold([self.subject.file])
        return dd(self.subject.file)


class Clones(Way):
    """The same by a clone of the file at each pin, which nothing has to be saved for."""

    def pin(self, at):
        target = self.subject.directory.with_name(f"clone-{at}")
        with open(self.subject.file, "rb") as live, open(target, "wb") as clone:
            begun = time.perf_counter()
            fcntl.ioctl(clone.fileno(), FICLONE, live.fileno())
            return time.perf_counter() - begun

    def release(self, at):
        self.subject.directory.with_name(f"clone-{at}").unlink()
