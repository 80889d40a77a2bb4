"""The slice that is asked for: its origin, directions and grid, from the snapshots of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_localsgd.analysis.formats import USUAL
from hpc_localsgd.analysis.own_files import is_ours
from hpc_localsgd.commands.landscape.directions import coordinates, filter_normalised, principal
from hpc_localsgd.commands.landscape.options import REACH, LandscapeOptions
from hpc_localsgd.commands.replaceable import check_hdf5_name, check_replaceable, is_landscape
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Slice:
    """A line or a plane, and the positions of the run's snapshots in it.

    Attributes:
        origin: ``[P]`` float64.
        directions: ``[d, P]`` float64.
        axes: d coordinates ``[n_i]``.
        step: ``[m]`` steps of the snapshots of the run that are finite.
        position: ``[m, d]`` where they are.
        off: ``[m]`` how far they are from the slice.
        explained: ``[d]`` share of the path, or of the workers' distances, along each direction;
            empty but for pca and workers.
        workers: ``[K, d]`` where the workers are; empty but for workers.
    """

    origin: np.ndarray
    directions: np.ndarray
    axes: tuple[np.ndarray, ...]
    step: np.ndarray
    position: np.ndarray
    off: np.ndarray
    explained: np.ndarray
    workers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points along each direction."""
        return tuple(len(axis) for axis in self.axes)


@dataclass(frozen=True)
class Runs:
    """The run that is examined, and the other one if there is one.

    Attributes:
        run: The run.
        steps: Its snapshots, ascending.
        other: The other run.
        out: Where results go.
    """

    run: Trajectory
    steps: list[int]
    other: Trajectory | None
    out: Path


def open_runs(options: LandscapeOptions) -> Runs:
    """Open the runs of the options; raise ConfigurationError if they have no snapshots.

    Raises:
        ConfigurationError: No run, another schema, no snapshots, or models of another size.
    """
    try:
        run = Trajectory(options.run)
        other = None if options.other is None else Trajectory(options.other)
        for each in filter(None, (run, other)):
            if not len(each.snapshot_steps):
                raise ConfigurationError(
                    f"{each.path} has no snapshots, so there are no models to look at: train again "
                    'with --snapshot-every "5%"'
                )
        steps = np.unique(run.snapshot_steps).tolist()
    except TrajectoryError as error:
        raise ConfigurationError(str(error)) from error
    if other is not None and other.P != run.P:
        raise ConfigurationError(
            f"{run.path} is of a model of {run.P} parameters, {other.path} of {other.P}: there is "
            "no line between them"
        )
    out = Path(options.out or run.path.with_name(f"landscape-{options.kind}.h5"))
    read = [*run.paths, *(other.paths if other is not None else ())]
    if out.resolve() in {path.resolve() for path in read}:
        raise ConfigurationError(f"--out {out} is the run itself, which is never written to")
    check_hdf5_name(out)
    if options.overwrite:
        check_replaceable(out, is_landscape, "a file of landscape")
    for file in figures_of(out):
        check_replaceable(file, is_ours, "a figure of this package")
    return Runs(run, steps, other, out)


def figures_of(out: Path) -> list[Path]:
    """Return the files of the figure beside a file of results."""
    return [out.with_suffix(f".{suffix}") for suffix in USUAL]


def slice_of(runs: Runs, shapes: Shapes, options: LandscapeOptions) -> Slice:
    """Return the slice that is asked for.

    Args:
        runs: With snapshots.
        shapes: Of the model's tensors, for filter-normalised directions.
        options: Which slice.

    Raises:
        ConfigurationError: No such snapshot, one that is not finite, or too few for the directions.
    """
    explained, workers = np.empty(0), np.empty((0, options.d))
    if options.kind == "between":
        origin, end = _ends(runs, options)
        directions = (end - origin)[None]
        if not directions.any():
            raise ConfigurationError("the two models are the same: there is no line between them")
    elif options.kind == "random":
        origin = _model(runs.run, options.to_step)
        directions = filter_normalised(origin, shapes, options.d, options.seed)
        if not directions.any():
            raise ConfigurationError(
                "this model has no filters to take random directions by: --directions pca"
            )
    elif options.kind == "workers":
        origin, apart = _workers(runs, options.to_step)
        directions, explained = principal(apart, origin, options.d)
        workers, _ = coordinates(apart, origin, directions)
    else:
        points = np.stack([mean for _, mean in _finite(runs)])
        origin = points[-1].astype(np.float64)
        directions, explained = principal(points, origin, options.d)
    step, position, off = _path(runs, origin, directions)
    shown = workers if len(workers) else position
    axes = _axes(shown, options)
    return Slice(origin, directions, axes, step, position, off, explained, workers)


def _path(
    runs: Runs, origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps, positions and distances of the snapshots, one in memory at a time."""
    found = [(step, *coordinates(x[None], origin, directions)) for step, x in _finite(runs)]
    steps, positions, off = zip(*found, strict=True)
    return np.array(steps), np.concatenate(positions), np.concatenate(off)


def _finite(runs: Runs) -> Iterator[tuple[int, np.ndarray]]:
    """Yield steps and mean models ``[P]`` of the snapshots that are finite.

    Raises:
        ConfigurationError: None is.
    """
    kept = 0
    for step in runs.steps:
        mean = runs.run.snapshot(step).mean
        if np.isfinite(mean).all():
            kept += 1
            yield step, mean
    if not kept:
        raise ConfigurationError(f"{runs.run.path}: none of its snapshots is finite")


def _ends(runs: Runs, options: LandscapeOptions) -> tuple[np.ndarray, np.ndarray]:
    if runs.other is not None:
        return _model(runs.run, options.to_step), _model(runs.other, options.to_step)
    first = runs.steps[0] if options.from_step is None else options.from_step
    return _model(runs.run, first), _model(runs.run, options.to_step)


def _workers(runs: Runs, step: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``[P]`` and the workers ``[K, P]`` of a snapshot in which they differ.

    Raises:
        ConfigurationError: There is none.
    """
    for at in reversed(runs.steps) if step is None else [step]:
        try:
            found = runs.run.snapshot(at, workers=True).workers
        except TrajectoryError as error:
            said = str(error).rstrip(".")
            raise ConfigurationError(f"{said}: train with --snapshot-workers") from error
        if found is not None and np.isfinite(found).all() and np.ptp(found, axis=0).any():
            return found.mean(axis=0, dtype=np.float64), found
    where = "any snapshot" if step is None else f"the snapshot of step {step}"
    raise ConfigurationError(
        f"{runs.run.path}: its workers do not differ in {where}: take snapshots within a round, "
        "before its exchange (--snapshot-every)"
    )


def _model(run: Trajectory, step: int | None) -> np.ndarray:
    """Return a mean model ``[P]`` in float64."""
    try:
        snapshot = run.snapshot(step)
    except TrajectoryError as error:
        raise ConfigurationError(str(error)) from error
    if not np.isfinite(snapshot.mean).all():
        raise ConfigurationError(
            f"{run.path}: the snapshot of step {snapshot.step} is not finite: the run diverged, or "
            "float16 snapshots overflowed"
        )
    return snapshot.mean.astype(np.float64)


def _axes(position: np.ndarray, options: LandscapeOptions) -> tuple[np.ndarray, ...]:
    reach = REACH[options.kind] if options.reach is None else options.reach
    if options.kind == "between":
        return (np.linspace(-reach, 1 + reach, options.points),)
    if options.kind == "random":
        return (np.linspace(-reach, reach, options.points),) * options.d
    low, high = position.min(axis=0), position.max(axis=0)
    room = reach * np.maximum(high - low, 1e-12)
    ends = zip(low - room, high + room, strict=True)
    return tuple(np.linspace(a, b, options.points) for a, b in ends)
