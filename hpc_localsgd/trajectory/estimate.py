"""Bytes a run will need on disk, printed before it starts.

A ResNet-50 in float32 is 102 MB a snapshot: a cadence typed without thinking fills a quota
overnight.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_localsgd.trajectory.encoding import disk_dtype
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, SNAPSHOT_DTYPES

_FILE_BYTES = 64 * 1024  # superblock, groups, attributes, the configuration text


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes of one run, before compression. `str()` is one line for a reader.

    Attributes:
        rounds_bytes: The table of rounds.
        series_bytes: All series together.
        snapshots_bytes: All snapshots together.
        snapshots: How many snapshots.
        checkpoints_bytes: The checkpoints that are kept, of all ranks; beside the trajectory.
    """

    rounds_bytes: int
    series_bytes: int
    snapshots_bytes: int
    snapshots: int
    checkpoints_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Everything, with the file's own overhead."""
        trajectory = self.rounds_bytes + self.series_bytes + self.snapshots_bytes
        return _FILE_BYTES + trajectory + self.checkpoints_bytes

    def __str__(self) -> str:
        """Format as ``about 10.3 MB on disk: rounds 0.1 MB, series 0.2 MB, snapshots 10 MB``."""
        text = f"rounds {human_bytes(self.rounds_bytes)}, series {human_bytes(self.series_bytes)}"
        if self.snapshots:
            each = human_bytes(self.snapshots_bytes / self.snapshots)
            text += f", snapshots {human_bytes(self.snapshots_bytes)} ({self.snapshots} x {each})"
        if self.checkpoints_bytes:
            text += f", checkpoints {human_bytes(self.checkpoints_bytes)}"
        return f"about {human_bytes(self.total_bytes)} on disk: {text}"


def disk_estimate(
    K: int,
    P: int,
    *,
    rounds: int,
    series_values: int = 0,
    snapshots: int = 0,
    dtype: str = "float32",
    workers: bool = False,
) -> DiskEstimate:
    """Estimate the size of a trajectory, an upper bound when snapshots are compressed.

    Args:
        K: Workers of the run.
        P: Parameters of the model.
        rounds: Rounds of the whole run.
        series_values: Numbers of all series together, a worker's value counting as one.
        snapshots: Snapshots of the whole run.
        dtype: Encoding of the snapshots, a key of `SNAPSHOT_DTYPES`.
        workers: Whether each snapshot holds the K workers besides their mean.
    """
    disk_dtype(dtype)  # an unknown dtype is an error here as it is in the writer
    row = sum(8 * (K if column.per_worker else 1) for column in ROUND_COLUMNS)
    vectors = snapshots * (K + 1 if workers else 1)
    return DiskEstimate(
        rounds_bytes=rounds * row,
        series_bytes=2 * 8 * series_values,  # each value has its step beside it
        snapshots_bytes=vectors * P * SNAPSHOT_DTYPES[dtype],
        snapshots=snapshots,
    )


def human_bytes(number: float) -> str:
    """Format bytes for a reader, in decimal units: ``0 B``, ``812 kB``, ``1.25 MB``, ``102 MB``.

    Args:
        number: Bytes.
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(number) < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
