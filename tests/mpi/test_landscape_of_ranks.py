"""Ranks that share the points find the same landscape as one process, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from launching import mpirun, run

from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.commands.landscape import main
from hpc_localsgd.train import main as train

CONV = ["--task.model=conv", "--task.norm=batch", "--task.hidden=2", "--workers=2"]
LENGTH = ["--schedule=every", "--schedule.steps=4", "--steps=12", "--snapshot-every=4"]


def test_two_ranks_give_the_same_numbers(tmp_path: Path) -> None:
    trained = tmp_path / "run"
    assert train([*CONV, *LENGTH, "--figures=false", f"--out={trained}"]) == 0
    options = [str(trained), "--samples=64", "--points=5"]
    assert main([*options, "--world=simulated", f"--out={tmp_path / 'one.h5'}"]) == 0
    more = ["--world=mpi", f"--out={tmp_path / 'two.h5'}"]
    said = run(mpirun(2), ["-m", "hpc_localsgd", "landscape", *options, *more]).succeeded()
    assert said.stdout.count("5 x 5 points") == 1
    one, two = (Landscape.read(tmp_path / f"{name}.h5") for name in ("one", "two"))
    for name, values in one.values.items():
        np.testing.assert_array_equal(values, two.values[name], err_msg=name)
    np.testing.assert_array_equal(one.position, two.position)
