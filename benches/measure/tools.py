"""The tools that people copy with: the same command on the mount and on the file itself."""

import os
import shutil
import subprocess
from functools import partial

from . import machine
from .reader import THROTTLED, compare_times, direct_view, skipped, throttled, views
from .result import Table, Target
from .scene import Failed, Missing, need, run, say, seconds_of, with_database

SMALL_FILES = 10_000
SMALL_BYTES = 4096
COLUMNS = ("", "mount", "file", "speed, file = 1 (lowest to highest)", "target", "")


def tar_away(folder, name="."):
    """tar looks whether its output is /dev/null and reads nothing then; cat is in between."""
    with subprocess.Popen(["tar", "-c", "-C", folder, name], stdout=subprocess.PIPE) as tar:
        subprocess.run(["cat"], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
    if tar.returncode not in (0, 1):
        raise Failed(f"exit code {tar.returncode} of tar")


class Tool:
    """One command, with what it needs before and what is left of it after."""

    reads_large_blocks = False

    def __init__(self, scene):
        self.scene = scene
        self.target = scene.memory_folder() / "copy"
        self.environment = os.environ | {
            "LC_ALL": "C",
            "RESTIC_PASSWORD": "x",
            "RESTIC_CACHE_DIR": str(scene.scratch / "restic-cache"),
            "BORG_BASE_DIR": str(scene.scratch / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def run(self, *command):
        run(command, env=self.environment, cwd=self.scene.scratch)

    def prepare(self):
        pass

    def copy(self, file):
        raise NotImplementedError

    def measure(self, file, make_ready, limit):
        self.prepare()
        try:
            make_ready(file)
            return throttled(self.scene, limit, lambda: seconds_of(lambda: self.copy(file)))
        finally:
            if self.target.is_dir():
                shutil.rmtree(self.target)
            else:
                self.target.unlink(missing_ok=True)


class Cp(Tool):
    name, tool, goal = "cp", "cp", 0.85
    reads_large_blocks = True

    def copy(self, file):
        self.run("cp", file, self.target)


class Tar(Tool):
    name, tool, goal = "tar", "tar", 0.65

    def copy(self, file):
        tar_away(file.parent, file.name)


class Rsync(Tool):
    name, tool, goal = "rsync -W --inplace", "rsync", 0.95

    def copy(self, file):
        self.run("rsync", "-W", "--inplace", file, self.target)


class Restic(Tool):
    name, tool, goal = "restic backup", "restic", 0.97
    reads_large_blocks = True

    def prepare(self):
        self.run("restic", "--repo", self.target, "init")

    def copy(self, file):
        self.run("restic", "--repo", self.target, "--no-cache", "backup", file)


class Borg(Tool):
    name, tool, goal = "borg create", "borg", 0.97
    reads_large_blocks = True

    def prepare(self):
        self.run("borg", "init", "--encryption", "none", self.target)

    def copy(self, file):
        self.run("borg", "create", f"{self.target}::one", file)


TOOLS = (Restic, Borg, Rsync, Cp, Tar)


def copy_tools(scene):
    place = views(scene)
    source = place.of_source()
    files = {"raw": place.raw, "mount": place.file(0)}
    table = Table("The same tool on the mount and on the file, copies in memory", columns=COLUMNS)

    def warm(file):
        machine.make_warm(source)
        if file != place.raw:
            machine.forget(file)

    def cold(file):
        machine.make_cold(source + ([file] if file != place.raw else []))

    for way, make_ready, limit in (("in memory", warm, 0), ("disk at 400 MB/s", cold, THROTTLED)):
        for kind in TOOLS:
            title = f"{kind.name}, {way}"
            try:
                need(kind.tool)
                if limit and scene.throttle.missing:
                    raise Missing(scene.throttle.missing)
                tool = kind(scene)
            except Missing as missing:
                table.rows.append(skipped(title, str(missing)))
                continue
            shown = dict(files)
            if kind.reads_large_blocks and not limit:
                shown["direct"] = direct_view(scene)
            variants = {name: partial(tool.measure, file, make_ready, limit) for name, file in shown.items()}
            results = scene.rounds(variants)
            row = compare_times(title, results["mount"], results["raw"], Target(kind.goal))
            table.rows.append(row)
            say(f"  {title}: {row.compared_text()}")
            if "direct" in shown:
                direct = f"{kind.name}, `-o direct_io`, {way}"
                table.rows.append(compare_times(direct, results["direct"], results["raw"]))
    return table


def small_files(scene):
    """A folder of many small files, in a hundred folders, and its mount."""
    folder = scene.folder("many")
    count = scene.scale.pick(quick=SMALL_FILES // 10, full=SMALL_FILES)
    for at in range(count):
        below = folder / f"{at % 100:02}"
        below.mkdir(exist_ok=True)
        (below / f"file-{at}").write_bytes(os.urandom(SMALL_BYTES))
    with_database(folder)
    os.sync()
    table = Table(f"{count} files of {SMALL_BYTES} bytes, tar", columns=("", "mount", "folder", *COLUMNS[3:]))
    reads = {"again": [], "first": [], "folder": []}
    # A mount that was read before has the files in its cache: each round has a mount of its own.
    for at in range(scene.scale.rounds):
        point = scene.mount(folder, f"view-many-{at}")
        works = [("folder", folder), ("first", point), ("again", point)]
        tar_away(folder)
        # The second reading has to come after the first; the folder before or after both of them.
        for name, place in works if at % 2 else works[1:] + works[:1]:
            reads[name].append(seconds_of(partial(tar_away, place)))
        scene.unmount(point)
    table.rows.append(compare_times("first read, in memory", reads["first"], reads["folder"], Target(0.70)))
    table.rows.append(compare_times("second read, in memory", reads["again"], reads["folder"]))
    shutil.rmtree(folder)
    return table
