"""The tree inside ``trajectory.h5``: names, shapes, units and dtypes, and nothing else.

The file is the only treaty between the training code, which writes it, and the analysis, which
reads it on a laptop without torch or MPI. So the tree is written down here once::

    /                 attrs: see ``header.Header``
    /rounds/          one row a round, the columns of ``ROUND_COLUMNS``
    /series/<name>/   step [n], value [n, ...]; attrs: units, dims, meaning; samples of a mean
    /snapshots/       step [m], mean [m, P], workers [m, K, P] when asked; one row a chunk

Rules that hold everywhere: every value has its step beside it; units are in attributes; what was
not measured is NaN; there are no paths in the file and no facts in its name.

Legend: K workers of the run, P parameters, S rounds so far, H local steps in a round, t global
step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

SCHEMA_VERSION = 2
"""Version of the tree and of what its names mean, as it is written."""

READABLE = (1, SCHEMA_VERSION)
"""Versions that are read (see `older_schema` for the first); of any other the writer is named."""

STATUSES = ("running", "complete", "stopped", "diverged")
"""`running` in a file that is no longer written means that its job was killed."""

CLOCKS = ("measured", "modelled")
"""Whether seconds were read from a clock or computed by the cost model of a simulated world."""

UNWRITTEN = int(np.iinfo(np.int64).min)
"""Fill value of integer columns: a row HDF5 made room for, but whose chunk never reached the
disk."""


class TrajectoryError(RuntimeError):
    """Error of a trajectory that cannot be written or read: which file, why, and what to do."""


class NotWritten(TrajectoryError):
    """Error of rows that could not be written: they wait in memory for the next flush."""


class RecordGone(TrajectoryError):
    """Error of a file that was moved, removed or cut short while it was written."""


@dataclass(frozen=True)
class Column:
    """One dataset of ``/rounds``.

    Attributes:
        name: Dataset name; a unit is its suffix.
        dtype: NumPy dtype on disk.
        units: Unit, as stored in the attribute ``units``.
        per_worker: Shape ``[S, K]`` when true, ``[S]`` otherwise.
        meaning: One sentence, as stored in the attribute ``meaning``.
    """

    name: str
    dtype: str
    units: str
    per_worker: bool
    meaning: str


# Bytes are float64 on purpose: exact up to 9 PB, and NaN where a world cannot know them.
ROUND_COLUMNS = (
    Column("step_begin", "int64", "steps", False, "global step at which the round began"),
    Column("step_end", "int64", "steps", False, "global step after its last local step"),
    Column("local_steps", "int64", "steps", False, "H, local steps before the exchange"),
    Column("lr", "float64", "1", False, "learning rate at the round's first step"),
    Column("compute_s", "float64", "s", True, "seconds of local steps"),
    Column("wait_s", "float64", "s", True, "seconds waiting for the slowest worker"),
    Column("transfer_s", "float64", "s", True, "seconds moving the exchanged numbers"),
    Column("payload_bytes", "float64", "bytes", True, "bytes the algorithm asked a worker to send"),
    Column("wire_bytes", "float64", "bytes", True, "bytes that a worker put on the wire"),
)

SNAPSHOT_DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Encodings of parameters on disk and their bytes per number."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-+@ ]*")


def check_series_name(name: str) -> str:
    """Return `name` if it can name a series, else raise.

    Names are paths such as ``eval/test/accuracy``. ``step`` and ``value`` are the datasets of every
    series, so no part of a name may be one of them.

    Args:
        name: Candidate name.

    Raises:
        TrajectoryError: If a part is empty, reserved, or has characters that HDF5 paths give a
            meaning.
    """
    for part in name.split("/"):
        if part in ("step", "value") or not _PART.fullmatch(part):
            raise TrajectoryError(
                f"series name {name!r} is not valid: its part {part!r} must be letters, digits or"
                ' "_-.+@ ", and not "step" or "value". Write for example "eval/test/accuracy".'
            )
    return name


def chunk_rows(row_bytes: int) -> int:
    """Return the rows of a table in one chunk: about 32 KiB, between 1 and 1024.

    Small enough that a run of ten rounds is a small file, large enough that 10^5 rounds are a few
    hundred chunks.

    Args:
        row_bytes: Bytes of one row of one dataset.
    """
    return max(1, min(1024, 32 * 1024 // max(1, row_bytes)))


def fill_value(dtype: np.dtype) -> float | int:
    """Return HDF5's value for a row never written: NaN, or `UNWRITTEN` for integers."""
    return float("nan") if dtype.kind == "f" else UNWRITTEN
