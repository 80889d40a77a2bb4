"""A slice through the loss, as it lies in ``landscape.h5``; h5py and numpy only.

The file holds the loss on a line or in a plane through parameter space::

    /                   attrs: landscape_version, package_version, directions, task, algorithm,
                        schedule, config (YAML of the run), settings (YAML), created
    /axis/<i>           coordinates [n_i]; attrs: meaning
    /value/<name>       [n_0] or [n_0, n_1], NaN where not evaluated yet; attrs: units, meaning
                        train_loss, test_loss, test_accuracy
    /path/              step [m], position [m, d], off [m]: the snapshots of the run projected into
                        the slice, and how far each is from it; workers [K, d] if it is theirs
    /done               [n_0] or [n_0, n_1], 1 where evaluated
    /basis/             origin [P], directions [d, P]; a point (a, b) of the slice is
                        origin + a directions[0] + b directions[1]; explained [d] with pca, workers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.trajectory.opening import check_bytes
from hpc_localsgd.trajectory.safe_text import readable
from hpc_localsgd.trajectory.vetting import vet

VERSION = 1


@dataclass(frozen=True)
class Landscape:
    """A line or a plane through parameter space, and the loss on it.

    Attributes:
        axes: Coordinates along each direction, ``[n_i]``.
        values: ``[n_0]`` or ``[n_0, n_1]`` by name; NaN where not evaluated.
        step: ``[m]`` steps of the run's snapshots.
        position: ``[m, d]`` where they are in the slice.
        off: ``[m]`` their distance from it.
        explained: ``[d]`` share of the squared distances along each direction: of the path for pca,
            of the workers from their mean for workers; else empty.
        workers: ``[K, d]`` where the workers are, for workers; else empty.
        attrs: What the file says of itself.
    """

    axes: tuple[np.ndarray, ...]
    values: Mapping[str, np.ndarray]
    step: np.ndarray
    position: np.ndarray
    off: np.ndarray
    explained: np.ndarray
    workers: np.ndarray
    attrs: Mapping[str, Any]

    @staticmethod
    def read(path: str | Path) -> Landscape:
        """Read a file, without the parameters in it.

        Args:
            path: A ``landscape.h5``.

        Raises:
            TrajectoryError: It is missing, not a landscape, or of another version.
        """
        path = Path(path)
        if not path.exists():
            raise TrajectoryError(f"{path}: no such landscape.")
        try:
            check_bytes(path)
            with h5py.File(path, "r", locking=False) as file:
                vet(path, file)
                _check_version(path, file)
                return Landscape(
                    axes=tuple(file[f"axis/{i}"][:] for i in range(len(file["axis"]))),
                    values={name: found[:] for name, found in file["value"].items()},
                    step=file["path/step"][:],
                    position=file["path/position"][:],
                    off=file["path/off"][:],
                    explained=file["basis/explained"][:]
                    if "explained" in file["basis"]
                    else np.empty(0),
                    workers=file["path/workers"][:]
                    if "workers" in file["path"]
                    else np.empty((0, len(file["axis"]))),
                    attrs={
                        name: readable(value, "\n\t") if isinstance(value, str) else value
                        for name, value in file.attrs.items()
                    },
                )
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
            if isinstance(error, TrajectoryError):
                raise
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrajectoryError(f"{path}: not a landscape, or damaged ({said}).") from error

    @property
    def directions(self) -> str:
        """``between``, ``random``, ``pca`` or ``workers``."""
        return str(self.attrs["directions"])

    @property
    def missing(self) -> int:
        """Number of points that have not been evaluated."""
        return int(np.isnan(self.values["train_loss"]).sum())

    def barrier(self, name: str) -> float:
        """Return how far the loss between two models rises above the straight line of its ends.

            max_{0 <= a <= 1} L(x_a) - ((1 - a) L(x_0) + a L(x_1))

        At the points of the grid; the ends are interpolated. NaN where it is not known.

        Args:
            name: ``train_loss`` or ``test_loss``.
        """
        a, y = self.axes[0], self.values.get(name, np.empty(0))
        fine = np.isfinite(y) if len(y) == len(a) else np.zeros(0, bool)
        if not fine.any():
            return float("nan")
        a, y = a[fine], y[fine]
        low, high = np.interp([0.0, 1.0], a, y)
        between = (a >= 0) & (a <= 1)
        return float(np.max((y - (1 - a) * low - a * high)[between], initial=0.0))

    @property
    def title(self) -> str:
        """What the file shows."""
        words = {
            "between": "Loss between two models",
            "random": "Loss around a model, random directions",
            "pca": "Loss in the plane of the run's path",
            "workers": "Loss around the workers' mean",
        }
        return words.get(self.directions, "Landscape")

    @property
    def caption(self) -> str:
        """How it was made, in a sentence or two."""
        said = {
            "between": "On the straight line: 0 is the first model, 1 the second.",
            "random": (
                "Filter-normalised random directions (Li et al., 2018): one unit moves every "
                "filter by its own length."
            ),
            "pca": "Principal directions of the snapshots about the last one (Li et al., 2018).",
            "workers": (
                "Principal directions of the workers about their mean. White: each worker before "
                "the exchange; red: their mean, which an average makes of all of them."
            ),
        }.get(self.directions, "")
        more = ["BatchNorm is re-estimated at every point.", said]
        if self.directions == "pca":
            more.append("Dots are the snapshots, projected.")
        if self.missing:
            more.append(f"{self.missing} points are not evaluated yet.")
        return " ".join(filter(None, more))


def _check_version(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("landscape_version")
    if version is None:
        raise TrajectoryError(f"{path}: an HDF5 file, but not a landscape.")
    if int(version) != VERSION:
        writer = file.attrs.get("package_version", "of unknown version")
        raise TrajectoryError(
            f"{path}: a landscape of version {int(version)}, written by hpc_localsgd {writer}; "
            f"this one reads version {VERSION}."
        )
