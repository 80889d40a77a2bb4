"""An allocation that is larger than what runs in it: the host without a rank is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from slurm_of_hosts import SlurmOfHosts

from hpc_localsgd.environment.allocation import told

PLACED = Path(__file__).with_name("placed.py")
TWO_ON_THREE = """\
mpirun -np 2 --bind-to none {python} {placed} {out}/mpirun
srun --mpi=pmix --nodes=3 --ntasks=2 {python} {placed} {out}/srun
"""


def test_a_host_of_the_allocation_that_has_no_rank_is_warned_of(
    slurm: SlurmOfHosts, tmp_path: Path
) -> None:
    for name in ("mpirun", "srun"):
        (tmp_path / name).mkdir()
    script = TWO_ON_THREE.format(python=sys.executable, placed=PLACED, out=tmp_path)
    words = ["--nodes=3", "--ntasks-per-node=1", f"--output={tmp_path}/said", "--wrap", script]
    assert slurm.wait(slurm.sbatch(*words)) == "COMPLETED", (tmp_path / "said").read_text()
    places = [json.loads(file.read_text()) for file in sorted((tmp_path / "mpirun").iterdir())]
    assert [place["host"] for place in places] == ["a", "b"]
    for place in places:
        lines = told(["a", "b"], place["allocated"])
        assert lines[0] == "workers on a x 1, b x 1"
        assert lines[1].startswith("c: in the allocation, but without a rank: mpirun --map-by")
    # srun says it itself, and its step is what the ranks were given.
    assert "can't run 2 processes on 3 nodes" in (tmp_path / "said").read_text()
    (first, second) = sorted((tmp_path / "srun").iterdir())
    assert all(json.loads(file.read_text())["allocated"] == ["a", "b"] for file in (first, second))
