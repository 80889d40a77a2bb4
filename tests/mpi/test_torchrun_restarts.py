"""A run that was asked to stop stays stopped under `torchrun --max-restarts N`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from arriving import arrived
from launching import TRAIN, run, torchrun

from hpc_localsgd.commands.summary import status
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4", "--steps=300"]
RUN += ["--schedule=post_local", "--schedule.switch=60", "--schedule.every=8", "--world=torch"]
RUN += ["--evaluate-every=100", "--figures=false", "--resume=auto"]
RESTARTING = [*torchrun(2)[:-1], "--max-restarts=2", "--no-python"]


def final(out: Path) -> torch.Tensor:
    found = last_complete(out)
    assert found is not None
    return torch.cat([shard.read(p)["x"] for p in sorted(found[0].glob("*.pt"))])


def test_it_is_not_started_again_and_goes_on_bitwise_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 alone is told, and by SIGTERM, which agents send as well where they regroup."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))  # where the slow task is
    out = tmp_path / "stopped"
    with arrived(RESTARTING, [*TRAIN, *RUN, f"--out={out}"], out, 30) as job:
        os.kill(job.ranks()[1], signal.SIGTERM)
        said = job.wait(90).succeeded().stderr
    assert status(out) == "stopped" and len(Trajectory(out).paths) == 1
    assert f"summary --status {out}" in said and "--resume" in said
    options = {out: tmp_path / "on", tmp_path / "whole": tmp_path / "anew"}
    for folder, file in options.items():
        file.write_text("\n".join([*RUN, f"--out={folder}"]))
    given = [str(HERE / "several_runs.py"), *map(str, options.values())]
    run(RESTARTING, given, timeout_s=150).succeeded()
    assert [status(folder) for folder in options] == ["complete"] * 2
    assert len(Trajectory(out).paths) == 2
    assert torch.equal(final(out), final(tmp_path / "whole"))
