"""A live SQLite database as the source: pins of it, and reading what is partly in its log."""

import json
import sys
from functools import partial

from .reader import NAME as NATIVE_NAME
from .reader import THROTTLED, cold, compare, fio, skipped, throttled, views, warm_first
from .result import Row, Table, Target
from .scene import Missing, Talker, dd, need, run, say
from .wal_writer import NAME

PAGE_BYTES = 8192
LOGGED_PERCENT = 10


def sqlite(scene):
    """Pins beside a writer and with a long log; reads of file and log beside those of a native view."""
    mib = scene.scale.mib
    command = [sys.executable, "-m", "measure.wal_writer", scene.scratch / "sqlite", mib, PAGE_BYTES]
    writer = Talker(scene, scene.scratch / "sqlite", command)
    writer.answer()
    file = writer.directory / NAME
    table = Table(
        f"A live SQLite database of {mib} MiB",
        columns=("", "stillfs", "beside", "ratio, or amount", "target", ""),
    )
    pin_rows(scene, table, writer, file)
    read_rows(scene, table, writer, file)
    index_row(scene, table, writer, file)
    writer.end()
    return table


def pins(scene, file, count):
    """Milliseconds: p50, p99 and the longest of so many pins, one after the other."""
    said, _ = run([scene.programs.pin, "--source", file, "--pins", count])
    found = json.loads(said)["pinned"]
    return {name: found[f"{name}_us"] / 1000 for name in ("p50", "p99", "max")}


def pin_rows(scene, table, writer, file):
    count = scene.scale.pick(quick=100, full=1000)
    idle = pins(scene, file, count)
    writer.ask("traffic", "on")
    busy = pins(scene, file, count)
    writer.ask("traffic", "off")
    row = Row(f"p99 of {count} pins beside 200 commits/s, and of an idle database", "ms")
    row.ours, row.theirs, row.compared = [busy["p99"]], [idle["p99"]], [busy["p99"]]
    row.target, row.is_exact = Target(1, at_most=True, unit="ms"), count >= 1000
    table.rows.append(row)
    table.remarks.append(
        f"A pin: from the call until the view can be read, what is in the log found. Medians: {busy['p50']:.2f} ms "
        f"beside the writer, {idle['p50']:.2f} ms idle; the longest {busy['max']:.2f} and {idle['max']:.2f} ms."
    )


def read_rows(scene, table, writer, file):
    """Reads of a view of which a tenth is in the log, beside a native one of which a tenth is in the shadow."""
    writer.ask("empty")
    writer.ask("change", LOGGED_PERCENT, 1)
    place = views(scene)
    point = scene.mount(file, "view-sqlite")
    sources = {"ours": [file, file.with_name(NAME + "-wal")], "native": place.of_source()}
    files = {"ours": point / NAME, "native": place.file(LOGGED_PERCENT)}

    def both(words, work, target, scale=1e9, unit="GB/s"):
        results = scene.rounds({name: partial(work, sources[name], files[name]) for name in files})
        table.rows.append(compare(words, results["ours"], results["native"], target, scale, unit))

    part = f"{LOGGED_PERCENT} % in the log, beside {LOGGED_PERCENT} % in the shadow of {NATIVE_NAME}"
    both(f"in a row, in memory, {part}", warm_first, Target(1.0))
    try:
        need("fio")
        bytes_ = min(one.stat().st_size for one in files.values())
        read = partial(fio, readers=1, seconds=scene.scale.seconds, bytes_=bytes_)
        words = "8 KiB here and there, in memory"
        both(words, lambda source, one: warm_first(source, one, read), Target(1.0), 1e3, "k/s")
    except Missing as missing:
        table.rows.append(skipped("8 KiB here and there, in memory", str(missing)))
    if scene.throttle.missing:
        table.rows.append(skipped("in a row, disk at 400 MB/s", scene.throttle.missing))
    else:
        both(
            "in a row, disk at 400 MB/s",
            lambda source, one: throttled(scene, THROTTLED, partial(cold, source, one)),
            Target(1.0),
        )
    scene.unmount(point)


def index_row(scene, table, writer, file):
    """What a long log adds to a pin: the index of the pages that are in it."""
    writer.ask("empty")
    writer.ask("change", 0.1, 2)
    small = [pins(scene, file, 5)["p50"] for _ in range(scene.scale.rounds)]
    mib = scene.scale.pick(quick=64, full=1024)
    log_bytes = writer.ask("log", mib)["log_bytes"]
    large = [pins(scene, file, 5)["p50"] for _ in range(scene.scale.rounds)]
    say(f"  a log of {log_bytes >> 20} MiB")
    row = Row(f"index of a log of {log_bytes >> 20} MiB: a pin, and one with a short log", "ms", large, small)
    row.compared = [one - other for one, other in zip(large, small)]
    # What a shorter one takes says nothing of it.
    row.target = Target(1, at_most=True, unit="ms") if mib >= 1024 else None
    table.rows.append(row)
    table.remarks.append(f"A log of {log_bytes >> 20} MiB has {log_bytes // (PAGE_BYTES + 24):,} frames.")
