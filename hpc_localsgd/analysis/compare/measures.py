"""What runs are compared by, its mean and deviation over seeds, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.analysis import curves
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.costs import exchanges, round_s
from hpc_localsgd.analysis.draw.sharpness import series_of
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.cost.formatting import grouped, human_seconds
from hpc_localsgd.trajectory.estimate import human_bytes


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        name: What it is.
        of: The number; NaN where the record does not have it.
        text: How it is written.
    """

    name: str
    of: Callable[[Source], float]
    text: Callable[[float], str]


@dataclass(frozen=True)
class Summary:
    """A measure over the runs of a group.

    Attributes:
        mean: Of those that have it; NaN without any.
        deviation: Sample standard deviation (n - 1); NaN of a single one.
        count: How many have it.
        runs: How many there are, if some may not have it.
    """

    mean: float
    deviation: float
    count: int
    runs: int = 0


def _last(name: str) -> Callable[[Source], float]:
    def last(source: Source) -> float:
        known = name in source.run.names() and len(source.run.series(name))
        return float(source.run.series(name).value[-1]) if known else math.nan

    return last


def _best_accuracy(source: Source) -> float:
    found = curves.series_or_none(source.run, curves.ACCURACY)
    return math.nan if found is None else float(found.value.max())


def _communication_s(source: Source) -> float:
    sums = source.run.totals
    parts = [x for x in (sums.wait_s, sums.transfer_s) if not math.isnan(x)]
    return sum(parts) if parts else math.nan


def _sharpness(name: str) -> Callable[[Source], float]:
    """Return a reader of the sharpness at the run's end: earlier measurements are not compared."""

    def sharpest(source: Source) -> float:
        found, kept = series_of(source.files).get(name), source.run.snapshot_steps
        if found is None or (len(kept) and found.step[-1] < kept[-1]):
            return math.nan
        return float(np.ravel(found.value[-1])[0])

    return sharpest


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _count(value: float) -> str:
    """Format a number of things, or a mean of such numbers, of which small ones have digits."""
    return grouped(value) if value >= 100 or value == round(value) else f"{value:.3g}"


def _short(value: float) -> str:
    return f"{value:.4g}"


ACCURACY = Measure("test accuracy", _last(curves.ACCURACY), _percent)
SENT = Measure("sent by a worker", lambda s: s.run.totals.payload_bytes, human_bytes)
TALKED = Measure("communication", _communication_s, human_seconds)
TEST_LOSS = Measure("test loss", _last(curves.TEST_LOSS), _short)
SHARPEST = Measure("largest eigenvalue", _sharpness("eigenvalues"), _short)
TRACE = Measure("trace of the Hessian", _sharpness("trace"), _short)
MEASURES = (
    ACCURACY,
    Measure("best", _best_accuracy, _percent),
    TEST_LOSS,
    Measure("steps", lambda s: float(s.run.totals.steps), _count),
    Measure("rounds", lambda s: float(exchanges(s.run)), _count),
    SENT,
    TALKED,
    Measure("training", lambda s: float(round_s(s.run).sum()), human_seconds),
    Measure("wall time", lambda s: float(s.run.attrs["wall_s"]), human_seconds),
    SHARPEST,
    TRACE,
)


def summary(group: SeedGroup, measure: Measure) -> Summary:
    """Return the mean and deviation of a measure over the runs of a group that count."""
    every = np.array([measure.of(source) for source in group.counted], dtype=float)
    values = every[np.isfinite(every)]
    if not len(values):
        return Summary(math.nan, math.nan, 0, len(every))
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    if deviation < 1e-12 * abs(mean):
        deviation = 0.0  # rounding of equal numbers
    return Summary(mean, deviation, len(values), len(every))


def worth(group: SeedGroup) -> float:
    """Return the accuracy by which a group is ranked; NaN where it diverged and no run is complete.

    Args:
        group: The runs.
    """
    return math.nan if diverged(group) else summary(group, ACCURACY).mean


def diverged(group: SeedGroup) -> bool:
    """Return whether a group has no complete run, and one that diverged.

    Args:
        group: The runs.
    """
    return any(source.run.status == "diverged" for source in group.counted)


def uncertainty(group: SeedGroup) -> float:
    """Return how far the accuracy of a group may be off: the larger of two standard deviations.

    One is that over its seeds, the other that of the finite test set, sqrt(a (1 - a) / n) for an
    accuracy a on n samples. 0 where neither is known.

    Args:
        group: The runs.
    """
    found = summary(group, ACCURACY)
    over_seeds = 0.0 if math.isnan(found.deviation) else found.deviation
    return max(over_seeds, _of_the_test_set(group, found.mean))


def _of_the_test_set(group: SeedGroup, accuracy: float) -> float:
    known = [curves.series_or_none(source.run, curves.ACCURACY) for source in group.counted]
    samples = min((series.samples for series in known if series is not None), default=0)
    if not samples or not 0 <= accuracy <= 1:
        return 0.0
    return math.sqrt(accuracy * (1 - accuracy) / samples)


def clocks(groups: Sequence[SeedGroup]) -> set[str]:
    """Return the sources of the seconds of the runs that count: measured, modelled or both."""
    return {str(source.run.attrs.get("clock")) for g in groups for source in g.counted}


def costs_of(groups: Sequence[SeedGroup]) -> tuple[Measure, ...]:
    """Return the costs that groups can be ranked by: seconds only if none are modelled."""
    return (SENT,) if len(clocks(groups)) > 1 else (SENT, TALKED)


def told(found: Summary, measure: Measure) -> str:
    """Format a summary, ``97.21 % ± 0.30 %``; without the deviation where it is unknown or 0.

    Behind it stands of how many runs it is, ``(1 of 3)``, where the others do not have it.
    """
    if math.isnan(found.mean):
        return ""
    text, off = measure.text(found.mean), found.deviation
    if off > 0:
        # Two digits; but percent have as many decimals as the mean: a 0 would follow that is none.
        rounded = off if measure.text is _percent else float(f"{off:.2g}")
        text += f" ± {measure.text(rounded)}"
    return f"{text} ({found.count} of {found.runs})" if found.count < found.runs else text


def front(
    cost: Sequence[float], gain: Sequence[float], noise: Sequence[float] | None = None
) -> list[int]:
    """Return indices of the Pareto front by rising cost: nothing cheaper is as good.

    A costlier point is on it if it is better by more than its noise and that of the best before it.
    Of points of equal cost all are on it that are as good as the best of them, to within the noise.
    A point with a NaN is not.

    Args:
        cost: The less the better.
        gain: The more the better.
        noise: How far a gain may be off, its deviation over seeds say; NaN counts as 0.
    """
    off = np.nan_to_num(np.zeros(len(cost)) if noise is None else np.asarray(noise, dtype=float))
    known = [i for i in range(len(cost)) if not (math.isnan(cost[i]) or math.isnan(gain[i]))]
    kept: list[int] = []
    for i in sorted(known, key=lambda i: (cost[i], -gain[i])):
        best = max(kept, key=lambda j: gain[j], default=i)
        apart = max(off[i], off[best])
        better = gain[i] > gain[best] + apart
        equal = cost[i] == cost[best] and gain[i] >= gain[best] - apart
        if not kept or better or equal:
            kept.append(i)
    return kept
