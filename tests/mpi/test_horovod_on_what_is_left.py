"""A job of horovodrun is lost, and goes on under a shorter list of hosts, by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from arriving import arrived
from launching import TRAIN, horovodrun, run, until
from moved_runs import check_same_run

from hpc_localsgd.run.checkpoint.listing import last_complete, number
from hpc_localsgd.train import main

pytestmark = pytest.mark.launched

STEPS, AT = 60, 10
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4"]
RUN += ["--dtype=float64", "--rate=constant", "--algorithm=slowmo", "--schedule=every"]
RUN += ["--schedule.steps=4", f"--steps={STEPS}", "--spread-every=4", "--evaluate-every=20"]
RUN += ["--checkpoint-every=4", "--figures=false", "--resume=auto"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of which all three ranks were killed, when there was something to go on from."""
    out = tmp_path_factory.mktemp("left") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        launcher = horovodrun(3, "-H", "localhost:3")
        with arrived(launcher, arguments(out), out, AT, workers=3) as job:

            def kept() -> bool:
                found = last_complete(out)
                return found is not None and number(found[0]) >= AT

            until(kept, 60, "there is a checkpoint to go on from")
            for pid in job.ranks().values():
                os.kill(pid, signal.SIGKILL)
            assert job.wait().status != 0
        yield out


def arguments(out: Path) -> list[str]:
    return [*TRAIN, *RUN, "--world=horovod", f"--out={out}"]


def test_a_job_of_which_all_ranks_are_killed_keeps_what_it_has(killed: Path) -> None:
    found = last_complete(killed)
    assert found is not None and AT <= number(found[0]) < STEPS and found[1] == 3


def test_it_goes_on_as_two(killed: Path, tmp_path: Path) -> None:
    """Nobody says how many workers there are: K is that of the first start."""
    said = run(horovodrun(2, "-H", "localhost:2"), arguments(killed)).succeeded().stderr
    line = "the checkpoint is of 3 ranks and this job has 2: the same 3 workers continue"
    assert said.count(line) == 1, said
    alone = tmp_path / "alone"
    assert main([*RUN, "--world=simulated", "--workers=3", f"--out={alone}"]) == 0
    check_same_run(killed, alone, launches=2)
