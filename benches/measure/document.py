"""The tables in the document: each between two marks, and nothing else of it is touched."""

import re
from pathlib import Path


def begin_mark(name):
    return f"<!-- measured {name}: written by scripts/bench -->"


def end_mark(name):
    return f"<!-- end of {name} -->"


def marks(text):
    """The names of the marked places, in order."""
    return re.findall(r"^<!-- measured ([a-z0-9-]+): written by scripts/bench -->$", text, re.MULTILINE)


def with_block(text, name, block):
    """`text` with `block` between the marks of `name`.

    Fails where a mark is missing or there twice: writing elsewhere would destroy what a person wrote.
    """
    begin, end = begin_mark(name), end_mark(name)
    for mark in (begin, end):
        if text.count(mark) != 1:
            raise ValueError(f"the document has {text.count(mark)} times {mark!r}, not once")
    at, until = text.index(begin) + len(begin), text.index(end)
    if until < at:
        raise ValueError(f"the end of {name} is before its begin")
    return f"{text[:at]}\n{block.strip()}\n{text[until:]}"


def markdown(table, heading):
    """One measurement as Markdown."""
    parts = [f"**{table.title}.** {heading}"]
    lines = table.all_lines()
    if lines:
        rows = [table.columns, *lines]
        body = ["| " + " | ".join(str(cell) for cell in cells) + " |" for cells in rows]
        body.insert(1, "|---" * len(table.columns) + "|")
        parts.append("\n".join(body))
    parts += [f"![{table.title}]({name})" for name, _ in table.pictures]
    if table.remarks:
        parts.append("\n".join(f"* {remark}" for remark in table.remarks))
    return "\n\n".join(parts) + "\n"


def write(path, name, block):
    """Puts `block` into the file at once, so that an interruption leaves the old one."""
    path = Path(path)
    text = with_block(path.read_text(encoding="utf-8"), name, block)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_pictures(folder, table):
    for name, text in table.pictures:
        (Path(folder) / name).write_text(text, encoding="utf-8")
