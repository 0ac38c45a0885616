"""What a measurement says: rows with a target each, and whether it was reached."""

from dataclasses import dataclass, field

from .statistic import Spread, bootstrap_interval

# Of fewer a table says no verdict.
ROUNDS_MIN = 5
PAIRS_MIN = 15


@dataclass(frozen=True)
class Target:
    """What is to be reached. `at_most` for times and sizes."""

    value: float
    at_most: bool = False
    unit: str = ""

    def text(self):
        side = "at most " if self.at_most else ""
        return f"{side}{number(self.value)}{self.unit and ' ' + self.unit}"

    def is_reached(self, value):
        return value <= self.value if self.at_most else value >= self.value


@dataclass
class Row:
    """One line of a table. `compared` is what the target is about, one value a round: ratios, or amounts
    with the target's unit; `ours` and `theirs` are what it was made of, in `unit`. What was counted, or is the
    outcome of a thousand tries, `is_exact`: one value of it is enough for a verdict."""

    name: str
    unit: str = ""
    ours: list = field(default_factory=list)
    theirs: list = field(default_factory=list)
    compared: list = field(default_factory=list)
    target: Target | None = None
    with_interval: bool = False
    is_exact: bool = False
    note: str = ""
    skipped: str = ""

    def verdict(self):
        if self.skipped:
            return "SKIPPED"
        needed = 1 if self.is_exact else PAIRS_MIN if self.with_interval else ROUNDS_MIN
        if self.target is None or len(self.compared) < needed:
            return ""
        spread = Spread.of(self.compared)
        best = spread.median
        if self.with_interval:
            low, high = bootstrap_interval(self.compared)
            best = low if self.target.at_most else high
        return "reached" if self.target.is_reached(best) else "**not reached**"

    def cells(self):
        if self.skipped:
            return [self.name, "", "", "SKIPPED: " + self.skipped, self.goal(), ""]
        return [
            self.name + (f" ({self.note})" if self.note else ""),
            with_unit(self.ours, self.unit),
            with_unit(self.theirs, self.unit),
            self.compared_text(),
            self.goal(),
            self.verdict(),
        ]

    def goal(self):
        return self.target.text() if self.target else ""

    def compared_text(self):
        if not self.compared:
            return ""
        spread = Spread.of(self.compared)
        low, high, word = spread.low, spread.high, ""
        if self.with_interval:
            low, high = bootstrap_interval(self.compared)
            word = "95 %: "
        unit = f" {self.target.unit}" if self.target and self.target.unit else ""
        return f"{number(spread.median)}{unit} ({word}{number(low)} to {number(high)})"


def with_unit(values, unit):
    return f"{number(Spread.of(values).median)} {unit}".strip() if values else ""


def number(value):
    """Three digits, or all before the point."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1000:
        return f"{value:,.0f}"
    if magnitude >= 100:
        return f"{value:.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    if magnitude >= 0.01:
        return f"{value:.2f}"
    return f"{value:.2g}"


@dataclass
class Table:
    """What one measurement puts into the document: rows, or with other columns, lines of cells."""

    title: str
    rows: list = field(default_factory=list)
    columns: tuple = ("", "stillfs", "against", "ratio (lowest to highest)", "target", "")
    lines: list = field(default_factory=list)
    remarks: list = field(default_factory=list)
    # File name and text of pictures.
    pictures: list = field(default_factory=list)

    def all_lines(self):
        return [row.cells() for row in self.rows] + self.lines
