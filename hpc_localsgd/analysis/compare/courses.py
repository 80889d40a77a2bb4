"""What a quantity did in the course of the runs of a group: mean and deviation over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from hpc_localsgd.analysis import curves
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.costs import Axis
from hpc_localsgd.analysis.draw.sharpness import series_of
from hpc_localsgd.analysis.draw.spread import measured
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.trajectory import Series, Trajectory


@dataclass(frozen=True)
class Quantity:
    """A quantity that is drawn over a run.

    Attributes:
        name: As the axis says it.
        of: Its series in a run, one finite value a step; None if it was not recorded.
        percent: Whether it is a share, shown in percent.
        logarithmic: Whether it may change by orders of magnitude.
        noisy: Whether it is of single batches, so that of many values a running mean is drawn.
    """

    name: str
    of: Callable[[Source], Series | None]
    percent: bool = False
    logarithmic: bool = False
    noisy: bool = False


@dataclass(frozen=True)
class Values:
    """A quantity of some runs, where all of them have a value: nothing is interpolated.

    Attributes:
        runs: Those that have it.
        step: ``[n]``.
        value: ``[runs, n]``.
    """

    runs: tuple[Trajectory, ...]
    step: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Recorded:
    """A quantity of all groups.

    Attributes:
        quantity: Which.
        of: Its values in each group; None where a group has none.
    """

    quantity: Quantity
    of: tuple[Values | None, ...]


@dataclass(frozen=True)
class MeanCurve:
    """A quantity of a group against an axis.

    Attributes:
        step: ``[n]``.
        x: ``[n]`` where the steps are on the axis, the mean over runs.
        mean: ``[n]`` over runs.
        deviation: ``[n]`` sample standard deviation over runs; NaN of a single one.
        breaks: Indices before which a run lacks values, see `curves.breaks`.
    """

    step: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    breaks: Sequence[int] = ()


def _recorded(name: str) -> Callable[[Source], Series | None]:
    return lambda source: curves.series_or_none(source.run, name)


def _sharpness(name: str) -> Callable[[Source], Series | None]:
    """Return a reader of the largest eigenvalue or the trace: the first of several values."""

    def of(source: Source) -> Series | None:
        found = series_of(source.files).get(name)
        if found is None:
            return None
        value = found.value.reshape(len(found.step), -1)[:, 0]
        fine = np.isfinite(value)
        return Series(found.step[fine], value[fine], found.units, (), found.meaning, name)

    return of


QUANTITIES = (
    Quantity("test accuracy", _recorded(curves.ACCURACY), percent=True),
    Quantity("test loss", _recorded(curves.TEST_LOSS), logarithmic=True),
    Quantity("training loss", _recorded(curves.TRAIN), logarithmic=True, noisy=True),
    Quantity(
        "spread of the workers", lambda source: measured(source.run, "spread"), logarithmic=True
    ),
    Quantity("largest eigenvalue of the Hessian", _sharpness("eigenvalues")),
    Quantity("trace of the Hessian", _sharpness("trace")),
)


def values_of(group: SeedGroup, quantity: Quantity) -> Values | None:
    """Read a quantity of the runs of a group that count; None if none of them has it.

    Args:
        group: The runs.
        quantity: What is read.
    """
    found = [(source.run, quantity.of(source)) for source in group.counted]
    pairs = [(run, series) for run, series in found if series is not None and len(series)]
    if not pairs:
        return None
    step = reduce(np.intersect1d, [series.step for _, series in pairs])
    if not len(step):
        return None
    return Values(
        runs=tuple(run for run, _ in pairs),
        step=step,
        value=np.stack([_at(series, step) for _, series in pairs]),
    )


def recorded(groups: Sequence[SeedGroup]) -> list[Recorded]:
    """Read every quantity that a group has at more than one step: one value makes no curve."""
    found = [Recorded(q, tuple(values_of(group, q) for group in groups)) for q in QUANTITIES]
    return [r for r in found if any(v is not None and len(v.step) > 1 for v in r.of)]


def curve_of(values: Values, axis: Axis) -> MeanCurve:
    """Return the mean and deviation of a quantity over runs, against an axis.

    Args:
        values: The quantity.
        axis: Against what.
    """
    alone = len(values.runs) == 1
    missing = {int(i) for run in values.runs for i in curves.breaks(run, values.step)}
    return MeanCurve(
        step=values.step,
        x=np.mean([axis.of(run, values.step) for run in values.runs], axis=0),
        mean=values.value.mean(axis=0),
        deviation=np.full(len(values.step), np.nan) if alone else values.value.std(axis=0, ddof=1),
        breaks=sorted(missing),
    )


def smoothed(curve: MeanCurve) -> MeanCurve:
    """Return the curve with mean and deviation smoothed over a fortieth of its values."""
    window = max(1, len(curve.mean) // 40)
    mean, deviation = (curves.smoothed(y, window) for y in (curve.mean, curve.deviation))
    return replace(curve, mean=mean, deviation=deviation)


def _at(series: Series, step: np.ndarray) -> np.ndarray:
    """Return the values at these steps; where a step has several, the last."""
    value: np.ndarray = series.value[np.searchsorted(series.step, step, side="right") - 1]
    return value
