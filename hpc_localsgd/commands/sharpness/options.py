"""What is asked of `sharpness`, and which part of it decides the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from hpc_localsgd.commands.collective_command import parse_options, parser_of
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "python -m hpc_localsgd sharpness"
_FLAGS = {
    "density": "Also the density of all eigenvalues.",
    "each_worker": "Eigenvalues and trace of every worker's own model too, K times the work.",
    "eigenvectors": "Store the eigenvectors beside the eigenvalues.",
    "ggn": "Also of the generalised Gauss-Newton matrix, the Fisher matrix of cross entropy.",
    "fisher": "Also of the empirical Fisher matrix.",
    "noise": "Also the covariance of the gradient's noise: trace, alignment with the Hessian.",
}
_ELSEWHERE = ("run", "steps", "chunk", "vectors", "world", "device", "out", "overwrite", "trust")
MOST = 10_000  # the error of a mean over so many is a hundredth of that of one
_COUNTS = ("eigenvalues", "trace_probes", "density_steps", "density_probes", "direction_probes")


@dataclass(frozen=True)
class SharpnessOptions:
    """Options of `sharpness`.

    Args:
        run: The run: its folder, or its trajectory.h5.
        steps: Which snapshots: all, last, or their steps with commas between (0,500,1000).
        eigenvalues: How many of the largest; 0 for none.
        tolerance: Of the eigenvalues, relative.
        trace_tolerance: Standard error of the trace, relative, at which enough probes were drawn.
        trace_probes: Most probes for the trace; 0 for no trace.
        density: Also the density of all eigenvalues.
        density_steps: Lanczos steps of a probe.
        density_probes: Random vectors.
        each_worker: Eigenvalues and trace of every worker's own model too, where snapshots have
            them (--snapshot-workers when training). K times the work.
        eigenvectors: Store the eigenvectors beside the eigenvalues: eigenvalues x P numbers a
            snapshot.
        ggn: Eigenvalues and trace of the generalised Gauss-Newton matrix too; for cross entropy it
            is the (true) Fisher matrix.
        fisher: Those of the empirical Fisher matrix too.
        noise: The covariance Sigma of one sample's gradient too: tr Sigma, and the alignment
            tr(H Sigma) / (|H|_F |Sigma|_F) with the Hessian.
        sigma: Of the average-direction sharpness, E L(x + sigma z) - L(x).
        rho: Radius of the worst-direction sharpness (SAM).
        direction_probes: Pairs of opposite directions for averages over directions.
        samples: Training samples of the fixed subset, without augmentation, label noise and mixup;
            0 for all.
        seed: Of the subset and of all random vectors.
        dtype: Of the computation.
        chunk: Samples in one pass: bounds the memory, not the result.
        vectors: Hessian-vector products in one pass: bounds the memory, not the result.
        world: How ranks talk, as for training: auto, simulated (one process), horovod, mpi, torch.
        device: auto takes a GPU if there is one for this rank.
        out: The file of the results. Default: sharpness.h5 beside the trajectory.
        overwrite: Replace results that were computed with other settings.
        trust: Modules that the recorded configuration may name, beside what this package and torch
            ship.
    """

    run: str
    steps: str = "all"
    eigenvalues: int = 10
    tolerance: float = 1e-4
    trace_tolerance: float = 0.02
    trace_probes: int = 200
    density: bool = False
    density_steps: int = 30
    density_probes: int = 10
    each_worker: bool = False
    eigenvectors: bool = False
    ggn: bool = False
    fisher: bool = False
    noise: bool = False
    sigma: float = 0.01
    rho: float = 0.05
    direction_probes: int = 20
    samples: int = 2048
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    chunk: int = 512
    vectors: int = 10
    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    device: str = "auto"
    out: str | None = None
    overwrite: bool = False
    trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; raise ConfigurationError for impossible ones."""
        for name, value in asdict(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            least_one = name in ("chunk", "vectors", "density_steps", "density_probes")
            if value < (1 if least_one or name == "direction_probes" else 0):
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(f"{option} {value:g} is too small")
            if name in _COUNTS and value > MOST:
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(
                    f"{option} {value}: give at most {MOST:,}: each goes through all samples"
                )

    def settings(self) -> dict[str, Any]:
        """Return every option that the numbers depend on, up to rounding, if it was asked for."""
        return {k: v for k, v in asdict(self).items() if k not in _ELSEWHERE and v is not False}

    @property
    def needs_outputs(self) -> bool:
        """Whether the outputs of the model are used, and not only its loss."""
        return self.ggn or self.fisher or self.noise


def parse(argv: Sequence[str]) -> SharpnessOptions:
    """Parse the options of a command line.

    Raises:
        ConfigurationError: Unknown options or values.
        SystemExit: Help was printed.
    """
    return parse_options(parser(), SharpnessOptions, argv)


def parser() -> ArgumentParser:
    """Return the parser of sharpness."""
    about = (
        "Curvature of the loss at the snapshots of a run: largest Hessian eigenvalues, trace, "
        "density, Gauss-Newton and Fisher matrices, noise of the gradient, average- and "
        "worst-direction sharpness. Under mpirun, horovodrun or torchrun "
        "the samples are shared by the ranks."
    )
    return parser_of(PROG, about, SharpnessOptions, _FLAGS)
