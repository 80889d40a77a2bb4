"""What a quantity did in the course of the runs of a group: mean and deviation over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from hpc_localsgd.analysis import costs, curves
from hpc_localsgd.analysis.compare.groups import Group
from hpc_localsgd.analysis.draw_sharpness import series_of
from hpc_localsgd.analysis.draw_spread import measured
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.trajectory import Series, Trajectory


@dataclass(frozen=True)
class Quantity:
    """Something that is drawn over a run.

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
class Axis:
    """What a quantity is drawn against.

    Attributes:
        name: In file names and on the command line.
        of: Where steps ``[n]`` of a run are on it, ``[n]``.
    """

    name: str
    of: Callable[[Trajectory, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Course:
    """A quantity of a group against an axis.

    Attributes:
        step: ``[n]`` steps at which every counted run that has it has a value.
        x: ``[n]`` where they are on the axis, the mean over runs.
        mean: ``[n]`` over runs.
        deviation: ``[n]`` sample standard deviation over runs; NaN of a single one.
        runs: How many.
    """

    step: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    runs: int


def _recorded(name: str) -> Callable[[Source], Series | None]:
    return lambda source: curves.series_or_none(source.run, name)


def _sharpness(name: str) -> Callable[[Source], Series | None]:
    """The largest eigenvalue, or the trace: of several numbers a step the first."""

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
    Quantity("consensus distance", lambda source: measured(source.run, "spread"), logarithmic=True),
    Quantity("largest eigenvalue of the Hessian", _sharpness("eigenvalues")),
    Quantity("trace of the Hessian", _sharpness("trace")),
)
AXES = (
    Axis("steps", lambda run, step: step.astype(float)),
    Axis("bytes", costs.sent_bytes),
    Axis("seconds", costs.elapsed_s),
)


def course_of(group: Group, quantity: Quantity, axis: Axis) -> Course | None:
    """Give a quantity over the runs of a group that count; None if none of them has it.

    Only steps at which all of them have a value are used: nothing is interpolated.

    Args:
        group: The runs.
        quantity: What is drawn.
        axis: Against what.
    """
    found = [(source.run, quantity.of(source)) for source in group.counted]
    pairs = [(run, series) for run, series in found if series is not None and len(series)]
    if not pairs:
        return None
    step = reduce(np.intersect1d, [series.step for _, series in pairs])
    if not len(step):
        return None
    value = np.stack([_at(series, step) for _, series in pairs])
    alone = len(pairs) == 1
    return Course(
        step=step,
        x=np.mean([axis.of(run, step) for run, _ in pairs], axis=0),
        mean=value.mean(axis=0),
        deviation=np.full(len(step), np.nan) if alone else value.std(axis=0, ddof=1),
        runs=len(pairs),
    )


def smoothed(course: Course) -> Course:
    """Give the running mean over a fortieth of the values, of the mean and of the deviation."""
    window = max(1, len(course.mean) // 40)
    mean, deviation = (curves.smoothed(y, window) for y in (course.mean, course.deviation))
    return replace(course, mean=mean, deviation=deviation)


def recorded(groups: Sequence[Group]) -> list[Quantity]:
    """List what at least one run has more than once: a single value has no course."""
    return [
        quantity for quantity in QUANTITIES if any(_several(group, quantity) for group in groups)
    ]


def _several(group: Group, quantity: Quantity) -> bool:
    found = course_of(group, quantity, AXES[0])
    return found is not None and len(found.step) > 1


def _at(series: Series, step: np.ndarray) -> np.ndarray:
    """The values at these steps; of several at one step the last."""
    value: np.ndarray = series.value[np.searchsorted(series.step, step, side="right") - 1]
    return value
