"""The few statistics that the tables need. Medians, since a shared machine makes outliers in one direction."""

import random
import statistics
from dataclasses import dataclass

RESAMPLES = 10_000


@dataclass(frozen=True)
class Spread:
    """The median of what the rounds gave, between the lowest and the highest."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values):
        values = list(values)
        if not values:
            raise ValueError("no rounds")
        return Spread(statistics.median(values), min(values), max(values), len(values))


def paired_ratios(tops, bottoms):
    """The ratios of what belongs to the same round: a slow minute of the machine is in both of them."""
    tops, bottoms = list(tops), list(bottoms)
    if len(tops) != len(bottoms):
        raise ValueError(f"{len(tops)} values are no pairs of {len(bottoms)}")
    return [top / bottom for top, bottom in zip(tops, bottoms)]


def bootstrap_interval(values, resamples=RESAMPLES, seed=1):
    """The interval that holds 95 % of the medians of samples drawn from `values`, with replacement."""
    values = list(values)
    if not values:
        raise ValueError("no rounds")
    draw = random.Random(seed)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples)
    )
    return medians[int(resamples * 0.025)], medians[int(resamples * 0.975)]


def percentile(values, hundredths):
    """The smallest value that so many per cent of all do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    rank = -(-len(ordered) * hundredths // 100)
    return ordered[max(rank, 1) - 1]


def slope(points):
    """The exponent of growth: 0 for what is constant, 1 for what is linear (least squares of logarithms)."""
    from math import log

    logs = [(log(x), log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        raise ValueError("growth needs two sizes")
    middle_x = statistics.fmean(x for x, _ in logs)
    middle_y = statistics.fmean(y for _, y in logs)
    top = sum((x - middle_x) * (y - middle_y) for x, y in logs)
    return top / sum((x - middle_x) ** 2 for x, _ in logs)
