"""Reading a mount beside reading the file itself: in a row, again, here and there."""

import json
import os
from functools import partial

from . import machine, picture
from .machine import MIB
from .result import Row, Table, Target
from .scene import Missing, Subject, dd, need, run, say, with_database
from .statistic import Spread, paired_ratios

# Percent of the pages that the shadow has, and what changes before the next mount so that it comes to that.
SHADOWED = (50, 10, 1, 0)
THROTTLED = 400 * 1000 * 1000
# Where a round is short, so many for each that is asked for.
WARM_ROUNDS = 3
GB = 1e9
NAME = "data.pages"


class Views:
    """A database, and mounts of it of which 50, 10, 1 and 0 % of the pages have changed since."""

    def __init__(self, scene):
        self.scene = scene
        self.subject = Subject(scene, "database", scale_mib(scene))
        self.raw = self.subject.file
        self.points = {}
        kept = 1.0
        for at, percent in enumerate(SHADOWED):
            self.points[percent] = scene.mount(self.subject.directory, f"view-{percent}")
            if percent == 0:
                break
            # The later changes count for this mount too: those that are meant for it alone come first.
            following = SHADOWED[at + 1]
            kept = (1 - percent / 100) / (1 - following / 100)
            self.subject.ask("change", 100 * (1 - kept), at + 1)
        self.bytes = os.stat(self.raw).st_size
        say(f"  a database of {self.bytes // MIB} MiB, mounted {len(self.points)} times")

    def file(self, percent):
        return self.points[percent] / NAME

    def of_source(self):
        """All files that a reader can make the machine read."""
        return [self.raw] + self.subject.shadow_files()


def scale_mib(scene):
    return scene.scale.mib


def views(scene):
    return scene.once("views", lambda: Views(scene))


def empty(scene, *words):
    """The file of a server that reads nothing, of the size of the database."""
    bytes_ = views(scene).bytes
    name = "empty" + "".join("-" + word for word in words)
    return scene.once(name, lambda: scene.empty_server(name, bytes_, *words)) / NAME


def warm_first(source, file, read=dd):
    """The source is in memory, of the mount is not."""
    machine.make_warm(source)
    machine.forget(file)
    return read(file)


def cold(source, file, read=dd):
    machine.make_cold(source + [file] if file not in source else source)
    return read(file)


def direct_view(scene):
    """The file in a mount that keeps nothing of it in the page cache."""
    directory = views(scene).subject.directory
    return scene.once("direct", lambda: scene.mount(directory, "direct", "-o", "direct_io")) / NAME


# ---- in a row


def sequential_warm(scene):
    place = views(scene)
    source = place.of_source()
    nothing, direct_nothing = empty(scene), empty(scene, "direct")
    direct = direct_view(scene)
    variants = {
        "raw": lambda: (machine.make_warm(source), dd(place.raw))[1],
        "empty": lambda: (machine.forget(nothing), dd(nothing))[1],
        "empty, direct": lambda: dd(direct_nothing),
        "direct": partial(warm_first, source, direct),
    }
    for percent in sorted(SHADOWED):
        variants[percent] = partial(warm_first, source, place.file(percent))
    # A round takes a second or two, and memory is faster in some than in others.
    rounds = WARM_ROUNDS * scene.scale.rounds
    results = scene.rounds(variants, rounds)
    table = Table(f"In a row, in memory, first read, dd bs=1M, {rounds} rounds", columns=against("a server that reads nothing"))
    for percent, wanted in ((0, 0.95), (1, 0.95), (10, 0.90), (50, 0.75)):
        table.rows.append(
            compare(f"{percent} % shadowed", results[percent], results["empty"], Target(wanted))
        )
    table.rows.append(compare("0 %, `-o direct_io`", results["direct"], results["empty, direct"]))
    table.rows.append(compare("0 %, against the file itself", results[0], results["raw"]))
    table.rows.append(compare("a server that reads nothing, against the file", results["empty"], results["raw"]))
    bars = [("file", results["raw"]), ("reads nothing, direct_io", results["empty, direct"])]
    bars += [("0 % shadowed, direct_io", results["direct"]), ("reads nothing", results["empty"])]
    bars += [(f"{percent} % shadowed", results[percent]) for percent in sorted(SHADOWED)]
    entries = [(name, Spread.of(v / GB for v in values), None) for name, values in bars]
    table.pictures.append(
        ("performance-sequential-warm.svg", picture.bars("First read in a row, in memory, GB/s", entries))
    )
    return table


def second_read(scene):
    place = views(scene)

    def twice(file):
        machine.make_warm([place.raw])
        dd(file)
        return dd(file)

    variants = {"raw": lambda: twice(place.raw), "mount": lambda: twice(place.file(0))}
    rounds = WARM_ROUNDS * scene.scale.rounds
    results = scene.rounds(variants, rounds)
    table = Table(f"In a row, second read of a mount, dd bs=1M, {rounds} rounds", columns=against("the file"))
    table.rows.append(compare("second read", results["mount"], results["raw"], Target(0.95)))
    return table


def sequential_cold(scene):
    place = views(scene)
    source = place.of_source()
    table = Table("In a row, from the disk, dd bs=1M", columns=against("the file"))
    targets = {0: 0.95, 1: None, 10: 0.75, 50: 0.50}
    for limit in (THROTTLED, 0):
        if limit and scene.throttle.missing:
            table.rows += [skipped(f"{p} % shadowed, disk at 400 MB/s", scene.throttle.missing) for p in targets]
            continue
        variants = {"raw": partial(throttled, scene, limit, partial(cold, source, place.raw))}
        for percent in sorted(SHADOWED):
            work = partial(cold, source, place.file(percent))
            variants[percent] = partial(throttled, scene, limit, work)
        results = scene.rounds(variants)
        words = ", disk at 400 MB/s" if limit else ", disk as it is"
        for percent, wanted in targets.items():
            target = Target(wanted) if limit and wanted else None
            table.rows.append(
                compare(f"{percent} % shadowed{words}", results[percent], results["raw"], target)
            )
        if limit:
            rates = Spread.of(value / limit for value in results["raw"])
            table.remarks.append(
                f"At 400 MB/s the file itself was read at {rates.low:.3f} to {rates.high:.3f} of that; what a "
                "view has from the shadow is read beside the file, and counts."
            )
            entries = [("file", Spread.of(v / 1e6 for v in results["raw"]), None)]
            for percent, wanted in targets.items():
                spread = Spread.of(v / 1e6 for v in results[percent])
                goal = wanted and wanted * Spread.of(results["raw"]).median / 1e6
                entries.append((f"{percent} % shadowed", spread, goal))
            title = "In a row from a disk of 400 MB/s, MB/s; the mark is the target"
            table.pictures.append(("performance-sequential-cold.svg", picture.bars(title, entries)))
    return table


def throttled(scene, limit, work):
    """Caches are emptied at full speed: only reading is slowed down, by `work` and by the daemons."""
    if not limit:
        return work()
    scene.throttle.limit(limit)
    scene.throttle.spend()
    try:
        return work()
    finally:
        scene.throttle.limit(0)


# ---- here and there


def fio(path, readers, seconds, bytes_):
    """Reads per second of 8 KiB at random places, none of them twice."""
    part = bytes_ // readers // MIB * MIB
    command = ["fio", "--name=read", f"--filename={path}", "--rw=randread", "--bs=8k", "--ioengine=psync"]
    command += ["--direct=0", "--invalidate=0", "--readonly", "--output-format=json", "--thread"]
    command += [f"--numjobs={readers}", "--group_reporting", f"--runtime={seconds}", "--randseed=7"]
    command += [f"--size={part}", f"--offset_increment={part}"]
    said, _ = run(command, cwd="/")
    read = json.loads(said[said.index("{") :])["jobs"][0]["read"]
    return read["total_ios"] / (read["runtime"] / 1000)


def random_reads(scene):
    need("fio")
    place = views(scene)
    source = place.of_source()
    seconds = scene.scale.seconds
    nothing = empty(scene)
    table = Table("8 KiB at random places, fio, psync", columns=against("the file"))
    for readers, wanted in ((1, 80_000), (4, 150_000)):
        read = partial(fio, readers=readers, seconds=seconds, bytes_=place.bytes)
        variants = {
            "raw": lambda: (machine.make_warm(source), read(place.raw))[1],
            "empty": lambda: (machine.forget(nothing), read(nothing))[1],
            0: partial(warm_first, source, place.file(0), read),
            10: partial(warm_first, source, place.file(10), read),
        }
        results = scene.rounds(variants)
        words = f"{readers} reader{'s'[: readers > 1]}"
        row = compare(f"{words}, in memory", results[0], results["raw"], None, 1e3, "k/s")
        row.note = "the target is in reads per second"
        row.compared = [value / 1e3 for value in results[0]]
        row.target = Target(wanted / 1e3, unit="k/s")
        table.rows.append(row)
        table.rows.append(
            compare(f"{words}, in memory, against a server that reads nothing", results[0], results["empty"],
                    None, 1e3, "k/s")
        )
        table.rows.append(
            compare(f"{words}, in memory, 10 % shadowed, against 0 %", results[10], results[0], None, 1e3, "k/s")
        )
    for readers in (1, 4):
        read = partial(fio, readers=readers, seconds=seconds, bytes_=place.bytes)
        variants = {
            "raw": partial(cold, source, place.raw, read),
            0: partial(cold, source, place.file(0), read),
        }
        results = scene.rounds(variants)
        target = Target(0.80)
        words = f"{readers} reader{'s'[: readers > 1]}, from the disk"
        table.rows.append(compare(words, results[0], results["raw"], target, 1e3, "k/s"))
    return table


# ---- files that cannot change


def passthrough(scene):
    """A plain file in the view of a folder, which the kernel reads by itself."""
    folder = scene.folder("plain")
    file = folder / "archive.bin"
    with open(file, "wb") as out:
        for _ in range(scale_mib(scene)):
            out.write(os.urandom(MIB))
    with_database(folder)
    os.sync()
    point = scene.mount(folder, "view-plain")
    view = point / file.name
    table = Table("A file that is passed through, dd bs=1M", columns=against("the file"))
    variants = {
        "raw": lambda: (machine.make_warm([file]), dd(file))[1],
        "mount": lambda: (machine.make_warm([file]), dd(view))[1],
    }
    results = scene.rounds(variants)
    table.rows.append(compare("in memory", results["mount"], results["raw"], Target(0.97)))
    if scene.throttle.missing:
        table.rows.append(skipped("from the disk at 400 MB/s", scene.throttle.missing))
    else:
        variants = {
            "raw": partial(throttled, scene, THROTTLED, partial(cold, [file], file)),
            "mount": partial(throttled, scene, THROTTLED, partial(cold, [file], view)),
        }
        results = scene.rounds(variants)
        table.rows.append(
            compare("from the disk at 400 MB/s", results["mount"], results["raw"], Target(0.97))
        )
    scene.unmount(point)
    file.unlink()
    return table


def memory(scene):
    """The most memory that any daemon of this run has had, after what was read before."""
    views(scene)
    table = Table("Memory of a daemon", columns=("", "most so far", "", "MB", "target", ""))
    peaks = []
    for pid in scene.daemons:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                lines = [line for line in file if line.startswith("VmHWM:")]
        except OSError:
            # Its mount is gone.
            continue
        peaks += [int(line.split()[1]) * 1024 / 1e6 for line in lines]
    if not peaks:
        raise Missing("no daemon is there any more")
    row = Row("the largest daemon, mapped files included", "MB", [max(peaks)])
    row.target = Target(16, at_most=True, unit="MB")
    row.compared, row.is_exact = [max(peaks)], True
    table.rows.append(row)
    table.remarks.append(f"Of a database of {views(scene).bytes // MIB} MiB; {len(peaks)} daemons looked at.")
    return table


# ---- rows


def against(what):
    return ("", "stillfs", what, "ratio (lowest to highest)", "target", "")


def compare(name, ours, theirs, target=None, scale=GB, unit="GB/s"):
    """A row of rates: more is better."""
    row = Row(name, unit, [v / scale for v in ours], [v / scale for v in theirs])
    row.compared = paired_ratios(ours, theirs)
    row.target = target
    return row


def compare_times(name, ours, theirs, target=None):
    """A row of seconds: the ratio is of speeds."""
    row = Row(name, "s", list(ours), list(theirs), paired_ratios(theirs, ours), target)
    return row


def skipped(name, why):
    return Row(name, skipped=why)
