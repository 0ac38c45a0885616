"""How cost grows with the size of the database, and with how much of it has changed since the pin."""

import os
import struct
import zlib

from . import machine, picture
from .reader import NAME
from .result import ROUNDS_MIN, Row, Table, Target, number
from .scene import READ_AHEAD_KIB, Missing, Subject, dd, say, seconds_of
from .statistic import Spread, slope

SHARES = (0, 1, 10, 50)
STEPS = ("mount", "first read", "scan", "release")
# Of which the time may not depend on the size of the database; the others may grow as it does.
CONSTANT = ("mount", "first read", "release")
EXPONENT_MAX = {True: 0.3, False: 1.15}


def growth(scene):
    sizes = scene.scale.pick(quick=(64, 128, 256), full=(256, 1024, 2048), large=(1024, 4096, 16384))
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
        # Both are read by the scan; of what memory has no room for, the disk is a part of what is measured.
        machine.make_warm([subject.file, *subject.shadow_files()])

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
            said = f"{step}, {share} % changed: time grows with size to the power {exponent:.2f}; to be {kind}"
            if min(len(steps[step]) for steps in found.values()) >= ROUNDS_MIN:
                word = "reached" if exponent <= most else "**not reached**"
                said += f" (at most {most}): {word}"
            table.remarks.append(said)


# ---- a file of a tebibyte

HUGE_GIB = (1, 32, 1024)
HUGE_STEPS = ("pin and mount", "first 8 KiB", "8 KiB at the end", "release")
# The kind of a free page that never held anything.
FREE_PAGE = 5
# A factor of 1024 in size may be one of 2 in time.
HUGE_EXPONENT_MAX = 0.1


def huge_file(scene):
    """Pin, mount, first read and release of files that are nearly all holes: what their indexes cost."""
    found = {(gib, step): [] for gib in HUGE_GIB for step in HUGE_STEPS}
    index_bytes = {}
    subjects = {}
    try:
        for gib in HUGE_GIB:
            subjects[gib] = huge_subject(scene, gib)
    except OSError as error:
        raise Missing(f"a file of {gib} GiB cannot be made here: {error}") from error
    for at in range(scene.scale.rounds):
        for gib, subject in subjects.items():
            index_bytes[gib] = one_huge(scene, subject, gib, at, found)
    least, most = HUGE_GIB[0], HUGE_GIB[-1]
    table = Table(
        "Index of a file of 1 TiB, nearly all holes",
        columns=("", "1 TiB", "1 GiB", "time grows with size to the power (lowest to highest)", "target", ""),
    )
    for step in HUGE_STEPS:
        row = Row(step, "ms", found[most, step], found[least, step])
        rounds = zip(*(found[gib, step] for gib in HUGE_GIB))
        row.compared = [slope(list(zip(HUGE_GIB, times))) for times in rounds]
        row.target = Target(HUGE_EXPONENT_MAX, at_most=True)
        table.rows.append(row)
    sizes = (f"{gib} GiB: {index_bytes[gib][0] / 1e6:,.1f} MB with holes, {index_bytes[gib][1]:,} bytes on the disk"
             for gib in HUGE_GIB)
    table.remarks.append(f"Index of a pin after these reads, of {'; '.join(sizes)}.")
    for subject in subjects.values():
        subject.end()
    return table


def huge_subject(scene, gib):
    """A small database whose header and file say that it is a large one; what is added is never looked at by
    the engine."""
    name = f"huge-{gib}"
    made = Subject(scene, name, 16)
    page_bytes = made.facts["page_size"]
    made.finish()
    pages = (gib << 30) // page_bytes
    with open(made.file, "r+b") as file:
        for number_of_page in (0, 1):
            file.seek(number_of_page * page_bytes)
            page = bytearray(file.read(page_bytes))
            # docs/formats.md: page count, checksum of the header, checksum of the page.
            struct.pack_into("<Q", page, 136, pages)
            struct.pack_into("<I", page, 508, zlib.crc32(page[32:508]))
            struct.pack_into("<I", page, 0, zlib.crc32(page[4:]))
            file.seek(number_of_page * page_bytes)
            file.write(page)
        # What is read at the end has to be pages, and so has what the kernel reads ahead.
        first = pages - READ_AHEAD_KIB * 1024 // page_bytes
        file.seek(first * page_bytes)
        for at in range(first, pages):
            free = bytearray(page_bytes)
            struct.pack_into("<IBBHQ", free, 0, 0, FREE_PAGE, 1, 0, at)
            free[16:24] = page[16:24]
            struct.pack_into("<I", free, 0, zlib.crc32(free[4:]))
            file.write(free)
    subject = Subject(scene, name, 16)
    if subject.facts["page_count"] != pages:
        raise RuntimeError(f"the engine sees {subject.facts['page_count']} pages and not {pages}")
    return subject


def one_huge(scene, subject, gib, at, found):
    """One round; bytes of the pin's index, as long as it is and as it has on the disk."""
    subject.ask("commit", 20, 1)
    subject.ask("checkpoint")
    points = []
    name = f"view-huge-{gib}-{at}"
    took = {"pin and mount": seconds_of(lambda: points.append(scene.mount(subject.directory, name)))}
    # Some pages are in the shadow.
    subject.ask("commit", 20, 1)
    subject.ask("checkpoint")
    file = points[0] / NAME
    size = file.stat().st_size

    def read_at(offset):
        with open(file, "rb", buffering=0) as opened:
            os.pread(opened.fileno(), 8192, offset)

    took["first 8 KiB"] = seconds_of(lambda: read_at(0))
    took["8 KiB at the end"] = seconds_of(lambda: read_at(size - 8192))
    indexes = [one.stat() for one in subject.shadow_files() if one.suffix == ".pin"]
    took["release"] = seconds_of(lambda: scene.unmount(points[0]))
    for step, seconds in took.items():
        found[gib, step].append(seconds * 1000)
    return max((one.st_size, one.st_blocks * 512) for one in indexes)
