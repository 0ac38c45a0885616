"""Pictures as SVG: bars with their spread and a mark for the target, and lines of growth."""

from html import escape
from math import ceil, log10

FONT = 'font-family="sans-serif" font-size="12"'
BAR, GAP, LEFT, WIDTH = 18, 10, 250, 460
COLOURS = ("#3b6ea5", "#b5533c", "#4f8a4f", "#8a6d3b", "#77569b")
BACK, INK, FAINT = "#ffffff", "#222222", "#cccccc"


def bars(title, entries, most=None):
    """`entries`: (name, Spread, target or None). One bar each, from 0."""
    most = most or max(max(spread.high, target or 0) for _, spread, target in entries)
    most = round_up(most)

    def x(value):
        return LEFT + WIDTH * min(value, most) / most

    lines = []
    top = 34
    for at in range(5):
        value = most * at / 4
        lines.append(line(x(value), top - 6, x(value), top + len(entries) * (BAR + GAP), FAINT))
        lines.append(text(x(value), top + len(entries) * (BAR + GAP) + 14, f"{value:.3g}", "middle"))
    for at, (name, spread, target) in enumerate(entries):
        y = top + at * (BAR + GAP)
        reached = target is None or spread.median >= target
        colour = COLOURS[0] if reached else COLOURS[1]
        lines.append(text(LEFT - 8, y + 13, name, "end"))
        width = x(spread.median) - LEFT
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        lines.append(line(x(spread.low), y + BAR / 2, x(spread.high), y + BAR / 2, INK))
        if target is not None:
            lines.append(line(x(target), y - 3, x(target), y + BAR + 3, INK, 3))
        lines.append(text(x(max(spread.high, spread.median)) + 6, y + 13, f"{spread.median:.3g}", "start"))
    return frame(title, LEFT + WIDTH + 60, top + len(entries) * (BAR + GAP) + 26, lines)


def growth(title, x_name, y_name, series):
    """`series`: (name, [(x, y)]), both axes logarithmic, one colour each."""
    points = [point for _, line_ in series for point in line_ if point[0] > 0 and point[1] > 0]
    if not points:
        raise ValueError("nothing to draw")
    (low_x, high_x), (low_y, high_y) = (decades([p[axis] for p in points]) for axis in (0, 1))
    left, top, width, height = 70, 34, 460, 260

    def x(value):
        return left + width * (log10(value) - low_x) / (high_x - low_x)

    def y(value):
        return top + height * (high_y - log10(value)) / (high_y - low_y)

    lines = []
    for decade in range(low_x, high_x + 1):
        lines.append(line(x(10**decade), top, x(10**decade), top + height, FAINT))
        lines.append(text(x(10**decade), top + height + 16, f"{10.0**decade:g}", "middle"))
    for decade in range(low_y, high_y + 1):
        lines.append(line(left, y(10**decade), left + width, y(10**decade), FAINT))
        lines.append(text(left - 6, y(10**decade) + 4, f"{10.0**decade:g}", "end"))
    for at, (name, of_one) in enumerate(series):
        colour = COLOURS[at % len(COLOURS)]
        places = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in of_one if a > 0 and b > 0)
        lines.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b in of_one:
            if a > 0 and b > 0:
                lines.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>')
        lines.append(text(left + width + 10, top + 14 + 18 * at, name, "start", colour))
    lines.append(text(left + width / 2, top + height + 34, x_name, "middle"))
    lines.append(text(left, top - 8, y_name, "start"))
    return frame(title, left + width + 190, top + height + 46, lines)


def decades(values):
    """The whole powers of ten around them, two at least."""
    low, high = int(log10(min(values)) // 1), ceil(log10(max(values)))
    return low, max(high, low + 1)


def round_up(value):
    """A round number that is not less."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 10.0 ** int(log10(value) - 1)
    return next(step * unit for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12) if step * unit >= value)


def line(x1, y1, x2, y2, colour, width=1):
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width}"/>'


def text(x, y, words, anchor, colour=INK):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {FONT}>{escape(words)}</text>'


def frame(title, width, height, lines):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" role="img">'
    back = f'<rect width="100%" height="100%" fill="{BACK}"/>'
    parts = [head, f"<title>{escape(title)}</title>", back, text(8, 18, title, "start"), *lines, "</svg>"]
    return "\n".join(parts) + "\n"
