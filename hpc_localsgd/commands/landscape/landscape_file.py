"""The file of a landscape: written block by block, so that a killed job can be continued."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import yaml

from hpc_localsgd.analysis.landscape import VERSION, Landscape
from hpc_localsgd.commands.landscape.options import LandscapeOptions
from hpc_localsgd.commands.landscape.slices import Runs, Slice
from hpc_localsgd.commands.landscape.surface import NAMES
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory.diskspace import flush, open_to_write, promise, why, write
from hpc_localsgd.trajectory.header import package_version, utc_now
from hpc_localsgd.trajectory.safe_text import load_yaml
from hpc_localsgd.trajectory.whole_file import put_whole

ABOUT = {
    "train_loss": ("nat", "mean loss on the fixed subset of the training set"),
    "test_loss": ("nat", "mean loss on the test set, at most --samples of it, evenly spaced"),
    "test_accuracy": ("fraction", "on the same samples"),
}


class LandscapeFile:
    """A ``landscape.h5`` in the layout of `analysis.landscape`, open for writing.

    Attributes:
        path: The file.
    """

    def __init__(self, runs: Runs, found: Slice, options: LandscapeOptions) -> None:
        """Make the file, or open an existing one of the same settings.

        Raises:
            ConfigurationError: It is of other settings or runs, or cannot be written.
        """
        self.path = runs.out
        said = yaml.safe_dump(_settings(runs, options), sort_keys=False)
        try:
            if self.path.exists() and not options.overwrite:
                Landscape.read(self.path)  # refuses what is none
                self._file = open_to_write(self.path, "r+")
                self._check(said)
            else:
                self._begin(runs, found, said)
                self._file = open_to_write(self.path, "r+")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {self.path}: {why(error)}; give --out another file"
            ) from error

    @property
    def missing(self) -> np.ndarray:
        """Flat indices of the points that are not evaluated."""
        return np.flatnonzero(self._file["done"][:].ravel() == 0)

    def add(self, index: np.ndarray, values: np.ndarray) -> None:
        """Write values ``[n, 3]`` at these flat indices, and flush to disk."""
        places = np.unravel_index(index, self._file["done"].shape)
        for j, name in enumerate(NAMES):
            self._put(f"value/{name}", places, values[:, j])
        flush(self._file)
        self._put("done", places, np.ones(len(index)))  # only what is on the disk is done
        flush(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, name: str, places: Any, values: np.ndarray) -> None:
        whole = self._file[name][:]  # a few thousand numbers
        whole[places] = values
        write(self._file[name], slice(None), whole)

    def _begin(self, runs: Runs, found: Slice, said: str) -> None:
        """Put a file without values in its place."""
        numbers = (found.origin, found.directions, found.position, found.workers)
        nbytes = sum(each.nbytes for each in numbers) + 40 * int(np.prod(found.shape))
        with put_whole(self.path) as unborn:
            promise(unborn, nbytes)  # HDF5 crashes on a full disk
            with open_to_write(unborn, "w") as file:
                self._fill(file, runs, found, said)

    def _fill(self, file: h5py.File, runs: Runs, found: Slice, said: str) -> None:
        attrs = runs.run.attrs
        file.attrs.update(
            {
                "landscape_version": VERSION,
                "package_version": package_version(),
                "directions": yaml.safe_load(said)["directions"],
                **{name: str(attrs[name]) for name in ("task", "algorithm", "schedule")},
                "config": runs.run.config_text,
                "settings": said,
                "created": utc_now(),
            }
        )
        kept = []  # until it is flushed: of what HDF5 cannot write as it closes one nobody is told

        def put(name: str, values: Any, **said: str) -> None:
            kept.append(file.create_dataset(name, data=values))
            kept[-1].attrs.update(said)

        for i, axis in enumerate(found.axes):
            put(f"axis/{i}", axis, meaning=f"coordinate along directions[{i}]")
        for name, (units, meaning) in ABOUT.items():
            put(f"value/{name}", np.full(found.shape, np.nan), units=units, meaning=meaning)
        for name in ("step", "position", "off"):
            put(f"path/{name}", getattr(found, name))
        put("basis/origin", found.origin)
        put("basis/directions", found.directions)
        if len(found.workers):
            put("path/workers", found.workers)
        if len(found.explained):
            put("basis/explained", found.explained)
        put("done", np.zeros(found.shape, dtype=np.uint8))
        flush(file)

    def _check(self, said: str) -> None:
        before = str(self._file.attrs.get("settings", ""))
        if before == said:
            return
        self._file.close()
        try:
            old, new = (dict(load_yaml(text) or {}) for text in (before, said))
        except (yaml.YAMLError, TypeError, ValueError):
            raise ConfigurationError(
                f"{self.path} is not a landscape: give --out another file"
            ) from None
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        raise ConfigurationError(
            f"{self.path} holds a landscape of other settings ({', '.join(changed)}): give --out "
            "another file, or --overwrite to replace it"
        )


def _settings(runs: Runs, options: LandscapeOptions) -> dict[str, Any]:
    both = [run for run in (runs.run, runs.other) if run is not None]
    made = [f"{run.attrs['digest'][:12]} of {run.attrs['created']}" for run in both]
    return {**options.settings(), "runs": made, "snapshots": len(runs.steps)}
