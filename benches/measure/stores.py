"""The engine beside other engines, at the same work with as much memory: the program in benches/peers."""

from . import picture
from .reader import compare
from .result import Row, Table, Target, number
from .scene import Missing, Talker
from .statistic import Spread

NAMES = {"engine": "stillfs", "sqlite": "SQLite", "redb": "redb"}
PEERS = ("sqlite", "redb")


def peers(scene):
    """Commits by one and by eight, loading, reading here and there and in a row, size."""
    if not scene.programs.peers.exists():
        raise Missing(f"{scene.programs.peers} has not been built")
    entries = scene.scale.pick(quick=50_000, full=500_000)
    folder = scene.folder("peers")
    program = Talker(scene, folder, [scene.programs.peers, folder])
    loads = scene.rounds({name: lambda name=name: entries / load(program, name, entries) for name in NAMES})
    sizes = {name: allocated(folder / name) for name in NAMES}
    ms = int(scene.scale.seconds * 500)
    works = {
        (work, name): lambda work=work, name=name: rate(program, work, name, ms)
        for work in ("read", "scan")
        for name in NAMES
    }
    reads = scene.rounds(works)
    works = {
        (threads, name): lambda threads=threads, name=name: rate(program, "commit", name, ms, threads)
        for threads in (1, 8)
        for name in NAMES
    }
    commits = scene.rounds(works, scene.scale.pairs)
    program.end()

    table = Table(
        f"The same work by other engines, {entries:,} entries of 256 bytes",
        columns=("", "stillfs", "the better other one", "ratio", "target", ""),
    )
    for threads in (1, 8):
        found = {name: commits[threads, name] for name in NAMES}
        words = f"durable commits, {threads} committer{'s'[: threads > 1]}"
        row = beside_better(table, words, found, Target(1.0), 1, "/s")
        row.with_interval = True
    row = compare("8 committers of stillfs, beside 1", commits[8, "engine"], commits[1, "engine"], Target(3), 1, "/s")
    row.with_interval = True
    table.rows.append(row)
    beside_better(table, "loading in the order of the keys", loads, None, 1e3, "k/s")
    for work, words in (("read", "entries here and there"), ("scan", "entries in a row, 1,000 at a time")):
        beside_better(table, words, {name: reads[work, name] for name in NAMES}, Target(0.8), 1e3, "k/s")
    smaller = min(PEERS, key=lambda name: sizes[name])
    ratio = sizes["engine"] / sizes[smaller]
    row = Row(f"size on the disk after loading ({NAMES[smaller]})", "MB", [sizes["engine"] / 1e6])
    row.theirs, row.compared, row.is_exact = [sizes[smaller] / 1e6], [ratio], True
    table.rows.append(row)
    table.remarks += [
        "All keep 64 MiB of pages; a commit puts 2 entries at random places and is on the disk when it returns. "
        "SQLite has a log (`journal_mode=WAL`, `synchronous=FULL`), pages of 4 KiB and a table by INTEGER PRIMARY "
        "KEY; its committers take turns at one connection. redb is as it is by default, but for the memory.",
        f"Commits: {scene.scale.pairs} rounds of {ms / 1000:g} s each, the interval of the median by bootstrap.",
    ]
    entries = [
        (f"{NAMES[name]}, {threads} committer{'s'[: threads > 1]}", Spread.of(commits[threads, name]), None)
        for threads in (1, 8)
        for name in NAMES
    ]
    table.pictures.append(("performance-peers.svg", picture.bars("Durable commits per second", entries)))
    return table


def beside_better(table, words, found, target, scale, unit):
    """A row beside that of the others whose median is higher; the medians of both are in a remark."""
    better = max(PEERS, key=lambda name: Spread.of(found[name]).median)
    row = compare(f"{words} ({NAMES[better]})", found["engine"], found[better], target, scale, unit)
    table.rows.append(row)
    medians = (f"{NAMES[name]} {number(Spread.of(found[name]).median / scale)} {unit}" for name in NAMES)
    table.remarks.append(f"{words[0].upper()}{words[1:]}: {', '.join(medians)}.")
    return row


def load(program, name, entries):
    return program.ask("load", name, entries)["seconds"]


def rate(program, work, name, ms, *words):
    done = program.ask(work, name, ms, *words)
    return done["count"] / done["seconds"]


def allocated(folder):
    return sum(one.stat().st_blocks * 512 for one in folder.rglob("*") if one.is_file())
