"""The HDF5 record of a run: h5py and numpy only, so it opens on a laptop without torch or MPI.

>>> from hpc_localsgd.trajectory import Trajectory
>>> run = Trajectory("runs/a")                           # doctest: +SKIP
>>> run.series("eval/test/accuracy").value[-1]           # doctest: +SKIP
0.972
"""

from hpc_localsgd.trajectory.estimate import DiskEstimate, disk_estimate
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.reader import Trajectory
from hpc_localsgd.trajectory.records import Rounds, Series, Snapshot, Totals
from hpc_localsgd.trajectory.schema import SCHEMA_VERSION, NotWritten, RecordGone, TrajectoryError
from hpc_localsgd.trajectory.segments import next_segment, segment_paths
from hpc_localsgd.trajectory.writer import Writer

__all__ = [
    "SCHEMA_VERSION",
    "DiskEstimate",
    "Header",
    "NotWritten",
    "RecordGone",
    "Rounds",
    "Series",
    "Snapshot",
    "Totals",
    "Trajectory",
    "TrajectoryError",
    "Writer",
    "disk_estimate",
    "next_segment",
    "segment_paths",
]
