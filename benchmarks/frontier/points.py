"""Methods as points: accuracy and costs over their seeds, and what it took to come to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from frontier.pricing import RunCost

from hpc_localsgd.analysis import curves
from hpc_localsgd.analysis.compare import SeedGroup, front, summary, uncertainty
from hpc_localsgd.analysis.compare.measures import ACCURACY, Summary
from hpc_localsgd.analysis.report.source import Source

SENT, TALKED, TOTAL = range(3)  # of what `RunCost.until` gives
Price = Callable[[Source], RunCost]


@dataclass(frozen=True)
class Point:
    """A method on a network.

    Attributes:
        label: Of the method.
        algorithm: Its legend, by which it gets its colour.
        runs: How many count.
        accuracy: Of the mean model at the end.
        off: How far that may be off: the larger of deviation over seeds and error of the test set.
        costs: Bytes, seconds of communication, and all seconds, of the whole run.
        reached: How many runs came to the target.
        to_target: The same costs until they did; of those alone that did.
    """

    label: str
    algorithm: str
    runs: int
    accuracy: Summary
    off: float
    costs: tuple[Summary, Summary, Summary]
    reached: int = 0
    to_target: tuple[Summary, ...] = field(default=())


def point(label: str, group: SeedGroup, price: Price, target: float) -> Point:
    """Give the point of a method.

    Args:
        label: Of the method.
        group: Its runs.
        price: Gives the costs of each.
        target: Test accuracy that is to be reached.
    """
    costs = [price(source) for source in group.counted]
    whole = [cost.until(math.inf) for cost in costs]
    steps = [first_at(source, target) for source in group.counted]
    there = [cost.until(step) for cost, step in zip(costs, steps, strict=True) if step is not None]
    return Point(
        label=label,
        algorithm=str(group.runs[0].run.attrs["algorithm"]),
        runs=len(group.counted),
        accuracy=summary(group, ACCURACY),
        off=uncertainty(group),
        costs=_summed(whole),
        reached=len(there),
        to_target=_summed(there) if there else (),
    )


def first_at(source: Source, target: float) -> int | None:
    """Give the step of the first evaluation of the mean model at a target; None without one.

    Args:
        source: The run.
        target: Test accuracy.
    """
    found = curves.series_or_none(source.run, curves.ACCURACY)
    if found is None:
        return None
    at = np.flatnonzero(found.value >= target)
    return int(found.step[at[0]]) if len(at) else None


def on_front(points: Sequence[Point], cost: int) -> list[int]:
    """Give the indices of the methods than which nothing cheaper is as good, to within the noise.

    Args:
        points: The methods on one network.
        cost: Which of the costs.
    """
    costs = [p.costs[cost].mean for p in points]
    return front(costs, [p.accuracy.mean for p in points], [p.off for p in points])


def _summed(rows: Sequence[tuple[float, float, float]]) -> tuple[Summary, Summary, Summary]:
    sent, talked, total = (_summary([row[i] for row in rows]) for i in range(3))
    return sent, talked, total


def _summary(values: Sequence[float]) -> Summary:
    found = np.asarray(values, dtype=float)
    deviation = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return Summary(float(found.mean()), deviation, len(found))
