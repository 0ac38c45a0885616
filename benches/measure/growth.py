"""How cost grows with the size of the database, and with how much of it has changed since the pin."""

from . import machine, picture
from .reader import NAME
from .result import Table, number
from .scene import Subject, dd, say, seconds_of
from .statistic import Spread, slope

SHARES = (0, 1, 10, 50)
STEPS = ("mount", "first read", "scan", "release")
# Of which the time may not depend on the size of the database; the others may grow as it does.
CONSTANT = ("mount", "first read", "release")
EXPONENT_MAX = {True: 0.3, False: 1.15}


def growth(scene):
    sizes = (64, 128, 256) if scene.scale.is_quick else (1024, 4096, 16384)
    table = Table(
        "How cost grows",
        columns=("database", "changed", "pin and mount, ms", "first 8 KiB, ms", "whole scan, ms", "release, ms"),
    )
    found = {}
    for mib in sizes:
        if machine.room(scene.scratch) < 3 * mib * machine.MIB + (4 << 30):
            table.remarks.append(f"{mib} MiB SKIPPED: no room on the disk.")
            continue
        subject = Subject(scene, f"growth-{mib}", mib)
        for share in SHARES:
            found[mib, share] = one(scene, subject, mib, share)
            cells = [number(Spread.of(found[mib, share][step]).median) for step in STEPS]
            table.lines.append([f"{mib} MiB", f"{share} %", *cells])
            say(f"  {mib} MiB, {share} %: {' '.join(cells)} ms")
        subject.end()
    verdicts(table, found)
    shown = [(step, 0) for step in STEPS] + [("scan", 50)]
    series = [(f"{step}, {share} %", by_size(found, step, share)) for step, share in shown]
    table.pictures.append(
        ("performance-growth.svg", picture.growth("How cost grows", "MiB", "ms", series))
    )
    return table


def one(scene, subject, mib, share):
    """Milliseconds of each step, one value a round. The log is empty before each pin."""
    found = {step: [] for step in STEPS}
    for at in range(scene.scale.rounds):
        subject.ask("checkpoint")
        points = []
        name = f"view-{mib}-{share}-{at}"
        took = {"mount": seconds_of(lambda: points.append(scene.mount(subject.directory, name)))}
        file = points[0] / NAME
        if share:
            subject.ask("change", share, at + 1)
        machine.make_warm([subject.file])

        def first():
            with open(file, "rb", buffering=0) as opened:
                opened.read(8192)

        took["first read"] = seconds_of(first)
        machine.forget(file)
        took["scan"] = file.stat().st_size / dd(file)
        took["release"] = seconds_of(lambda: scene.unmount(points[0]))
        for step, seconds in took.items():
            found[step].append(seconds * 1000)
    return found


def by_size(found, step, share):
    """(MiB, milliseconds) of one step, where so much had changed."""
    return [(mib, Spread.of(steps[step]).median) for (mib, of), steps in found.items() if of == share]


def verdicts(table, found):
    """Whether what should be constant is, and what should be linear grows no faster."""
    for step in STEPS:
        for share in SHARES:
            points = by_size(found, step, share)
            if len(points) < 2:
                continue
            is_constant = step in CONSTANT and not (step == "release" and share)
            exponent, most = slope(points), EXPONENT_MAX[is_constant]
            kind = "constant" if is_constant else "linear"
            said = "reached" if exponent <= most else "**not reached**"
            table.remarks.append(
                f"{step}, {share} % changed: time grows with size to the power {exponent:.2f}; to be {kind} "
                f"(at most {most}): {said}"
            )
