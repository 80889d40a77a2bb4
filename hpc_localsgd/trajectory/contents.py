"""What one file of a run holds: its attributes, its series and what they are, a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory.encoding import PLUGINS, decode, load_plugin
from hpc_localsgd.trajectory.fact_checks import check_facts
from hpc_localsgd.trajectory.opening import opened
from hpc_localsgd.trajectory.records import Snapshot
from hpc_localsgd.trajectory.safe_text import readable
from hpc_localsgd.trajectory.schema import TrajectoryError
from hpc_localsgd.trajectory.vetting import check_row


def attrs_of(path: Path) -> dict[str, Any]:
    """Return the attributes of a file, as plain values.

    Raises:
        TrajectoryError: The file cannot be opened, or lacks facts of its run.
    """
    with opened(path) as file:
        attrs = {readable(n): _plain(value) for n, value in file.attrs.items()}
        check_facts(path, file, attrs)
        return attrs


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return readable(value, "\n\t") if isinstance(value, str) else value


def series_in(file: h5py.File) -> dict[str, dict[str, str]]:
    """Return the series of an open file: name -> `units`, `dims`, `meaning` and `samples`."""
    found: dict[str, dict[str, str]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and {"step", "value"} <= set(item):
            found[name] = {
                key: readable(str(item.attrs.get(key, ""))) for key in ("units", "dims", "meaning")
            }
            samples = item.attrs.get("samples", 0)  # anybody's: a number, or it is not known
            known = isinstance(samples, int | np.integer) and samples > 0
            found[name]["samples"] = str(int(samples)) if known else "0"

    if "series" in file:
        file["series"].visititems(visit)
    return found


def snapshot_at(group: h5py.Group, row: int, workers: bool, path: Path) -> Snapshot:
    """Read one row of the snapshots of an open file.

    Args:
        group: The snapshots.
        row: Which.
        workers: Whether to read every worker's parameters too.
        path: The file, for messages.

    Raises:
        TrajectoryError: Workers were not recorded, or the row is damaged.
    """
    if workers and "workers" not in group:
        raise TrajectoryError(
            f"{path}: its snapshots hold the mean model only, not every worker's."
        )
    if group["mean"].attrs.get("compression") in PLUGINS:
        load_plugin(str(group["mean"].attrs["compression"]))
    names = ("mean", "workers") if workers else ("mean",)
    for name in names:
        check_row(path, group[name])
    read = {n: decode(group[n][row], str(group[n].attrs["encoding"])) for n in names}
    return Snapshot(int(group["step"][row]), **read)
