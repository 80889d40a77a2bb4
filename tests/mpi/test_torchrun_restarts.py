"""A run that was asked to stop stays stopped under `torchrun --max-restarts N`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from arriving import arrived
from ends_of_several import FIRST, SEVERAL
from launching import TRAIN, forked, run, torchrun

from hpc_localsgd.commands.summary import status
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4", "--steps=120"]
RUN += ["--schedule=post_local", "--schedule.switch=60", "--schedule.every=8", "--world=torch"]
RUN += ["--evaluate-every=60", "--figures=false", "--resume=auto"]
RESTARTING = [*torchrun(2)[:-1], "--max-restarts=2", "--no-python"]


def final(out: Path) -> torch.Tensor:
    found = last_complete(out)
    assert found is not None
    return torch.cat([shard.read(p)["x"] for p in sorted(found[0].glob("*.pt"))])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run of which rank 1 alone is told to stop, by SIGTERM; and what was said.

    Agents send that as well, where they regroup.
    """
    out = tmp_path_factory.mktemp("restarts") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))  # where the slow task is
        with arrived(RESTARTING, [*TRAIN, *RUN, f"--out={out}"], out, 30) as job:
            os.kill(job.ranks()[1], signal.SIGTERM)
            said = job.wait(90).succeeded().stderr
        yield out, said


def test_it_is_not_started_again(stopped: tuple[Path, str]) -> None:
    out, said = stopped
    assert status(out) == "stopped" and len(Trajectory(out).paths) == 1
    assert f"summary --status {out}" in said and "--resume" in said


def test_it_goes_on_bitwise_when_asked_to(stopped: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = stopped
    options = {out: tmp_path / "on", tmp_path / "whole": tmp_path / "anew"}
    for folder, file in options.items():
        file.write_text("\n".join([*RUN, f"--out={folder}"]))
    given = ["--first", FIRST, SEVERAL, *map(str, options.values())]
    run(forked(2), given, timeout_s=150).succeeded()
    assert [status(folder) for folder in options] == ["complete"] * 2
    assert len(Trajectory(out).paths) == 2
    assert torch.equal(final(out), final(tmp_path / "whole"))
