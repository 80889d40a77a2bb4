"""Facts of a record of unknown origin: numbers are numbers, and within possible bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory.schema import CLOCKS, ROUND_COLUMNS, STATUSES, TrajectoryError

MOST_WORKERS, MOST_PARAMETERS, MOST_STEPS = 10**7, 10**14, 10**15
_WHOLE = {  # name -> least and most
    "K": (1, MOST_WORKERS),
    "P": (1, MOST_PARAMETERS),
    "seed": (-(2**63), 2**64),
    "t0": (0, MOST_STEPS),
    "steps": (0, MOST_STEPS),
}
_LATER = ("t0", "steps")  # files of before there was such an attribute lack it
_WORDS = {"clock": CLOCKS, "status": STATUSES}
_TEXTS = ("config", "task", "algorithm", "schedule", "world")


def check_facts(path: Path, file: h5py.File, attrs: Mapping[str, Any]) -> None:
    """Refuse what no run can have recorded of itself.

    Args:
        path: Of the file, for the message.
        file: Whose arrays must have the workers and parameters that are named.
        attrs: Of its root.

    Raises:
        TrajectoryError: A number is missing or out of bounds, a word is unknown, or arrays belong
            to another number of workers.
    """
    for name, (least, most) in _WHOLE.items():
        if name in attrs or name not in _LATER:
            _check_whole(path, name, attrs.get(name), least, most)
    for name, words in _WORDS.items():
        if attrs.get(name) not in words:
            raise _wrong(path, name, attrs.get(name), f"one of {', '.join(words)}")
    for name in _TEXTS:
        if not isinstance(attrs.get(name), str):
            raise _wrong(path, name, attrs.get(name), "text")
    epoch = attrs.get("steps_per_epoch", math.nan)
    if not isinstance(epoch, float | int) or epoch <= 0 or math.isinf(epoch):
        raise _wrong(path, "steps_per_epoch", epoch, "a positive number, or NaN")
    _check_shapes(path, file, int(attrs["K"]), int(attrs["P"]))


def _check_whole(path: Path, name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise _wrong(path, name, value, f"a whole number from {least:,} to {most:,}")


def _check_shapes(path: Path, file: h5py.File, K: int, P: int) -> None:
    want: dict[str, tuple[int, ...]] = {
        f"rounds/{c.name}": (K,) for c in ROUND_COLUMNS if c.per_worker
    }
    want |= {"snapshots/mean": (P,), "snapshots/workers": (K, P)}
    for name, row in want.items():
        if name in file and file[name].shape[1:] != row:
            raise TrajectoryError(
                f"{path}: not a record of this package: it is of {K:,} workers and {P:,} "
                f"parameters, but a row of {name} is {file[name].shape[1:]}."
            )


def _wrong(path: Path, name: str, value: Any, wanted: str) -> TrajectoryError:
    given = value.item() if isinstance(value, np.generic) else value
    return TrajectoryError(
        f"{path}: not a record of this package: its {name} is {given!r:.80}, where "
        f"{wanted} is expected."
    )
