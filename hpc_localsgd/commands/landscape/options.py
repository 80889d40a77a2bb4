"""What is asked of `landscape`, and which part of it decides the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from hpc_localsgd.commands.collective_command import parse_options, parser_of
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "python -m hpc_localsgd landscape"
_FLAGS = {"overwrite": "Start over, also where there is a file of the same or of other settings."}
_ELSEWHERE = ("run", "other", "chunk", "world", "device", "out", "overwrite", "trust")
MOST_POINTS = 100_000
REACH = {"between": 0.5, "random": 1.0, "pca": 0.25, "workers": 0.5}


@dataclass(frozen=True)
class LandscapeOptions:
    """Options of `landscape`.

    Args:
        run: The run: its folder, or its trajectory.h5.
        other: A second run, to look between the two; by default between two snapshots of one.
        directions: between two models (a line), random and filter-normalised around one model,
            pca, the principal ones of the run's snapshots, or workers, those of the workers around
            their mean (--snapshot-workers when training). auto takes between if there is another
            run, else pca.
        dimensions: 1 for a line or 2 for a plane; between is always a line.
        points: Along each direction.
        reach: How far. between: beyond both models, in units of their distance (default 0.5). pca:
            beyond the path, in units of its extent (0.25); workers likewise (0.5). random: to both
            sides, in units of each filter's length (1).
        from_step: Snapshot at 0 of a line between two of one run. Default: the first.
        to_step: The other end of it; the model in the middle for random; the snapshot whose workers
            are looked at. Of two runs, the snapshot of both. Default: the last; of workers, the
            last in which they differ.
        test: Also loss and accuracy on the test set, on as many samples at most.
        samples: Training samples of the fixed subset, without augmentation, label noise and mixup;
            0 for all.
        seed: Of the subset and of random directions.
        dtype: Of the computation.
        chunk: Samples in one pass: bounds the memory, not the result.
        world: How ranks talk, as for training: auto, simulated (one process), horovod, mpi, torch.
        device: auto takes a GPU if there is one for this rank.
        out: The file of the results. Default: landscape-<directions>.h5 beside the trajectory.
        overwrite: Start over, also where there is a file of the same or of other settings.
        trust: Modules that the recorded configuration may name, beside what this package and torch
            ship.
    """

    run: str
    other: str | None = None
    directions: Literal["auto", "between", "random", "pca", "workers"] = "auto"
    dimensions: Literal[1, 2] = 2
    points: int = 25
    reach: float | None = None
    from_step: int | None = None
    to_step: int | None = None
    test: bool = True
    samples: int = 2048
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    chunk: int = 512
    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    device: str = "auto"
    out: str | None = None
    overwrite: bool = False
    trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; raise ConfigurationError for impossible ones."""
        if self.points < 2 or self.chunk < 1 or self.samples < 0:
            raise ConfigurationError(
                f"--points {self.points} --chunk {self.chunk} --samples {self.samples}: there are "
                "at least 2 points along a direction, 1 sample in a pass, and 0 or more samples"
            )
        if self.points**self.d > MOST_POINTS:
            shape = " x ".join([f"{self.points:,}"] * self.d)
            raise ConfigurationError(
                f"--points {self.points}: {shape} points are more than {MOST_POINTS:,}, and the "
                "loss is computed at every one: type --points "
                f"{int(MOST_POINTS ** (1 / self.d))} or less"
            )
        if self.reach is not None and not self.reach >= 0:
            raise ConfigurationError(f"--reach {self.reach:g} must not be negative")
        if self.other is not None and self.kind != "between":
            raise ConfigurationError(
                f"--directions {self.directions} is about one run: leave --other out, or look "
                "--directions between the two"
            )

    @property
    def kind(self) -> str:
        """Kind of the slice: between, random, pca or workers."""
        if self.directions != "auto":
            return self.directions
        return "pca" if self.other is None else "between"

    @property
    def d(self) -> int:
        """Dimensions of the slice."""
        return 1 if self.kind == "between" else self.dimensions

    def settings(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, except the runs themselves."""
        given = {k: v for k, v in asdict(self).items() if k not in _ELSEWHERE}
        reach = REACH[self.kind] if self.reach is None else self.reach
        return {**given, "directions": self.kind, "dimensions": self.d, "reach": reach}


def parse(argv: Sequence[str]) -> LandscapeOptions:
    """Parse the options of a command line.

    Raises:
        ConfigurationError: Unknown options or values.
        SystemExit: Help was printed.
    """
    return parse_options(parser(), LandscapeOptions, argv)


def parser() -> ArgumentParser:
    """Return the parser of landscape."""
    about = (
        "The loss on a line or in a plane through parameter space, BatchNorm re-estimated at every "
        "point: between two models, around one in random directions, in the plane of a run's path, "
        "or in that of its workers. Under mpirun, horovodrun or torchrun the ranks share the "
        "points. A job that was killed continues where it was."
    )
    return parser_of(PROG, about, LandscapeOptions, _FLAGS)
