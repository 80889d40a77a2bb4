"""The estimate printed before a run, against the file that the run leaves."""

import numpy as np
import pytest

from hpc_localsgd.trajectory import TrajectoryError, Writer, disk_estimate
from hpc_localsgd.trajectory.estimate import human_bytes

from .runs import add_round, header


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("workers", [False, True])
def test_the_estimate_is_near_the_file(tmp_path, dtype, workers):
    K, P, rounds, snapshots = 4, 100_000, 2000, 6
    with Writer(tmp_path, header(K=K, P=P), snapshot_dtype=dtype) as writer:
        for s in range(rounds):
            add_round(writer, s)
            writer.series("spread", s, 1.0)
        for step in range(snapshots):
            writer.snapshot(step, np.ones(P), np.ones((K, P)) if workers else None)
    options = {"rounds": rounds, "series_values": rounds, "snapshots": snapshots}
    estimate = disk_estimate(K, P, dtype=dtype, workers=workers, **options)
    size = writer.path.stat().st_size
    assert 0.9 * size < estimate.total_bytes < 1.1 * size


def test_the_estimate_reads_well():
    text = str(disk_estimate(64, 25_557_032, rounds=10_000, snapshots=90))
    assert text == (
        "about 9.23 GB on disk: rounds 25.9 MB, series 0 B, snapshots 9.2 GB (90 x 102 MB)"
    )
    with pytest.raises(TrajectoryError, match="float8"):
        disk_estimate(1, 1, rounds=1, dtype="float8")


def test_bytes_for_a_person():
    said = [human_bytes(n) for n in (0, 999, 1000, 999_600, 1_250_000, 3.2e15)]
    assert said == ["0 B", "999 B", "1 kB", "1 MB", "1.25 MB", "3.2e+03 TB"]
