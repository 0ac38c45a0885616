"""Checks the instrument itself: what a wrong median would say of everything else. Mounts and measures nothing."""

import sys
import tempfile
import traceback
import xml.etree.ElementTree
from pathlib import Path

from . import document, picture
from .result import Row, Table, Target, number
from .statistic import Spread, bootstrap_interval, paired_ratios, percentile, slope


def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"found {found!r}, not {wanted!r}")


def expect_failure(work):
    try:
        work()
    except ValueError:
        return
    raise AssertionError("that had to fail")


def medians_have_their_lowest_and_highest():
    expect(Spread.of([3, 1, 2]), Spread(2, 1, 3, 3))
    expect(Spread.of([4, 1, 2, 3]).median, 2.5)
    expect_failure(lambda: Spread.of([]))


def ratios_are_of_the_same_round():
    # The second round was ten times slower for both: no ratio shows it.
    expect(paired_ratios([2, 20], [4, 40]), [0.5, 0.5])
    expect_failure(lambda: paired_ratios([1, 2], [1]))


def the_interval_holds_what_the_values_agree_on():
    expect(bootstrap_interval([0.9] * 15), (0.9, 0.9))
    values = [0.90 + at / 100 for at in range(15)]
    low, high = bootstrap_interval(values)
    if not (0.90 <= low < Spread.of(values).median < high <= 1.04):
        raise AssertionError(f"{low} to {high}")
    expect(bootstrap_interval(values), (low, high))
    # Ten times as many of the same leave less doubt.
    narrow = bootstrap_interval(values * 10)
    if narrow[1] - narrow[0] >= high - low:
        raise AssertionError(f"{narrow} is no narrower than {(low, high)}")
    expect_failure(lambda: bootstrap_interval([]))


def percentiles_are_values_that_were_there():
    values = list(range(1, 101))
    expect([percentile(values, at) for at in (1, 50, 99, 100)], [1, 50, 99, 100])
    expect(percentile([7], 99), 7)
    expect_failure(lambda: percentile([], 50))


def growth_tells_constant_from_linear():
    expect(round(slope([(1, 5), (4, 5), (16, 5)]), 6), 0.0)
    expect(round(slope([(1, 5), (4, 20), (16, 80)]), 6), 1.0)
    expect_failure(lambda: slope([(1, 5), (1, 6)]))


def targets_are_reached_by_the_side_that_is_meant():
    rate = Row("a", compared=[0.94, 0.96, 0.93, 0.94, 0.96], target=Target(0.95))
    expect(rate.verdict(), "**not reached**")
    # By the upper end of the interval, where there is one.
    rate.with_interval, rate.compared = True, rate.compared * 3
    expect(rate.verdict(), "reached")
    size = Row("a", compared=[15, 17, 16, 15, 17], target=Target(16, at_most=True, unit="MB"))
    expect(size.verdict(), "reached")
    expect(size.cells()[3:5], ["16.0 MB (15.0 to 17.0)", "at most 16.0 MB"])
    missing = Row("a", skipped="fio is not installed", target=Target(1))
    expect(missing.verdict(), "SKIPPED")
    expect(missing.cells()[3], "SKIPPED: fio is not installed")


def too_few_rounds_give_no_verdict():
    row = Row("a", compared=[1.0] * 4, target=Target(0.95))
    expect(row.verdict(), "")
    row.compared = [1.0] * 5
    expect(row.verdict(), "reached")
    row.with_interval = True
    expect(row.verdict(), "")
    row.compared = [1.0] * 15
    expect(row.verdict(), "reached")
    counted = Row("a", compared=[1.2], target=Target(1.1, at_most=True), is_exact=True)
    expect(counted.verdict(), "**not reached**")
    expect(Row("a", target=Target(1), is_exact=True).verdict(), "")


def numbers_have_three_digits():
    shown = [number(value) for value in (0, 0.95, 0.00123, 12.34, 123.4, 12345.6)]
    expect(shown, ["0", "0.95", "0.0012", "12.3", "123", "12,346"])


def only_what_is_between_the_marks_is_written():
    begin, end = document.begin_mark("random"), document.end_mark("random")
    text = f"by hand\n{begin}\nold\n{end}\nby hand too\n"
    expect(document.with_block(text, "random", "new\n"), f"by hand\n{begin}\nnew\n{end}\nby hand too\n")
    expect(document.marks(text), ["random"])
    once = document.with_block(text, "random", "new")
    expect(document.with_block(once, "random", "new"), once)
    expect_failure(lambda: document.with_block(text + begin, "random", "new"))
    expect_failure(lambda: document.with_block("by hand", "random", "new"))
    expect_failure(lambda: document.with_block(f"{end}\n{begin}", "random", "new"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.md"
        path.write_text(text, encoding="utf-8")
        document.write(path, "random", "new")
        expect(path.read_text(encoding="utf-8"), once)
        expect([one.name for one in Path(folder).iterdir()], ["a.md"])


def tables_are_tables():
    table = Table("Some", rows=[Row("a", "s", [2.0], [1.0], [0.5], Target(0.4), is_exact=True)], remarks=["by night"])
    lines = document.markdown(table, "today").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    expect({line.count("|") for line in rows}, {7})
    expect(rows[2], "| a | 2.00 s | 1.00 s | 0.50 (0.50 to 0.50) | 0.40 | reached |")
    expect(lines[-1], "* by night")


def pictures_are_xml_without_surprises():
    entries = [("x & y", Spread(1, 0.5, 2, 3), None), ("z", Spread(0.2, 0.1, 0.3, 3), 0.25)]
    shown = picture.bars("a < b", entries)
    lines = picture.growth("c", "GiB", "ms", [("scan", [(1, 10), (4, 41)]), ("pin", [(1, 0.1), (4, 0)])])
    for one in (shown, lines):
        root = xml.etree.ElementTree.fromstring(one)
        expect(root.tag, "{http://www.w3.org/2000/svg}svg")
    expect([picture.round_up(value) for value in (0, 0.97, 7, 130)], [1.0, 1.0, 8.0, 150.0])
    expect(picture.decades([0.2, 30]), (-1, 2))
    expect(picture.decades([5, 5]), (0, 1))
    expect_failure(lambda: picture.growth("c", "x", "y", [("none", [])]))


CHECKS = (
    medians_have_their_lowest_and_highest,
    ratios_are_of_the_same_round,
    the_interval_holds_what_the_values_agree_on,
    percentiles_are_values_that_were_there,
    growth_tells_constant_from_linear,
    targets_are_reached_by_the_side_that_is_meant,
    too_few_rounds_give_no_verdict,
    numbers_have_three_digits,
    only_what_is_between_the_marks_is_written,
    tables_are_tables,
    pictures_are_xml_without_surprises,
)


def run(path, measurements):
    """All checks, and that the document has a place for each measurement; the exit code."""

    def the_document_has_a_place_for_each():
        expect(sorted(document.marks(Path(path).read_text(encoding="utf-8"))), sorted(["machine", *measurements]))

    failed = 0
    for check in (*CHECKS, the_document_has_a_place_for_each):
        try:
            check()
        except (AssertionError, ValueError):
            failed += 1
            print(f"FAILED {check.__name__}", file=sys.stderr)
            traceback.print_exc()
    print(f"{len(CHECKS) + 1 - failed} of {len(CHECKS) + 1} checks of the instrument passed")
    return 1 if failed else 0
