"""`--init-from`: a run that begins with the parameters of another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hpc_localsgd.analysis.report.numbers import settings_of
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.commands.assembly.job import Job, make_job
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.summary import page
from hpc_localsgd.commands.train import main as train
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

SMALL = ["--task.hidden=4", "--batch-per-worker=4", "--figures=false", "--evaluate-every=100%"]
LOCAL = ["--schedule=every", "--schedule.steps=4", "--rate=constant", "--rate.lr=.05"]
Begin = Callable[..., Job]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three workers in a ring, who stay different, with snapshots of each."""
    out = tmp_path_factory.mktemp("first") / "run"
    kept = ["--snapshot-every=6", "--snapshot-workers", "--steps=12", "--seed=3"]
    words = [*SMALL, *LOCAL, "--algorithm=gossip", *kept, "--workers=3", f"--out={out}"]
    assert train(words) == 0
    return out


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Makes the job of another run, at its beginning."""

    def made(source: Path | str, *more: str, K: int = 3) -> Job:
        words = [*SMALL, *LOCAL, "--steps=8", f"--out={tmp_path / 'second'}"]
        return make_job(
            parse([*words, f"--init-from={source}", *more]), Simulated(K), lambda t, values: None
        )

    return made


def momentum(job: Job) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in job.run.optimizer.torch.state.values()]


def test_the_mean_model_of_the_end_for_any_number_of_workers(first: Path, begin: Begin) -> None:
    job = begin(first, K=2)
    named = load_file(first / "model.safetensors")
    x = job.run.task.vector_of(named)
    assert torch.equal(job.position.x, x.expand(2, -1)) and job.position.t == 0
    assert not job.run.optimizer.torch.state
    job.close("stopped")


def test_a_snapshot_of_the_mean_or_of_each_worker(first: Path, begin: Begin) -> None:
    kept = Trajectory(first).snapshot(6, workers=True)
    assert kept.workers is not None and np.ptp(kept.workers, axis=0).any()
    job = begin(f"{first}:6", K=5)
    np.testing.assert_array_equal(job.position.x.numpy(), np.tile(kept.mean, (5, 1)))
    job.close("stopped")
    job = begin(f"{first}:6", "--init-with=workers", "--overwrite")
    np.testing.assert_array_equal(job.position.x.numpy(), kept.workers)
    job.close("stopped")


def test_each_worker_of_a_checkpoint_with_its_momentum(first: Path, begin: Begin) -> None:
    (folder,) = (first / "checkpoints").glob("step-00000012")
    (file,) = folder.glob("rank-*.pt")
    state = shard.read(file)
    job = begin(first, "--init-with=workers")
    assert torch.equal(job.position.x, state["x"]) and not job.run.optimizer.torch.state
    job.close("stopped")
    job = begin(first, "--init-with=optimizer", "--overwrite", "--optimizer.momentum=0.5")
    theirs = [kept["momentum_buffer"] for kept in state["optimizer"]["state"].values()]
    assert theirs and all(torch.equal(a, b) for a, b in zip(momentum(job), theirs, strict=True))
    assert job.run.optimizer.torch.param_groups[0]["momentum"] == 0.5  # this run's own
    job.close("stopped")


def test_where_it_began_is_recorded_and_shown_and_kept_by_a_resumed_run(
    first: Path, tmp_path: Path
) -> None:
    out = tmp_path / "second"
    words = [*SMALL, *LOCAL, "--workers=3", f"--init-from={first}:6", f"--out={out}"]
    assert train([*words, "--steps=8"]) == 0
    assert train([*words, "--steps=12", "--resume"]) == 0  # which reads the source no more
    run = Trajectory(out)
    assert len(run.paths) == 2 and int(run.rounds.step_end[-1]) == 12
    whence = f"{first} at step 6, the mean model (seed 3, options "
    assert run.attrs["begins_from"].startswith(whence)
    assert run.config["init_from"] == f"{first}:6"
    assert whence in page(run)
    shown = dict(settings_of(Source(run, "second")))["begins from"]
    assert shown == run.attrs["begins_from"]
    assert "begins from" not in page(Trajectory(first))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task.hidden=5"], r"model.safetensors is of another model"),
        (["--task.model=tanh"], r"is of another model: --task.model mlp, and this run has tanh"),
        (["--init-from={first}:6", "--task.model=tanh"], r"of another model: --task.model mlp"),
        (["--init-with=workers", "--task.model=tanh"], r"of another model: --task.model mlp"),
        (["--task=quadratic"], r"is a run of the task digits, and this one is of quadratic"),
        (["--init-with=workers"], r"has 3 workers and this run 2: .* --init-with mean"),
        (["--init-from={first}:7"], r"no snapshot at step 7; there are: "),
        (["--init-from={first}:7", "--init-with=workers"], r"none of its workers at step 7"),
        (["--init-from={first}-no"], r"first"),
        (["--init-from={first}", "--out={first}", "--overwrite"], r"is --out itself"),
    ],
)
def test_refused_in_words_and_nothing_is_touched(
    first: Path, begin: Begin, tmp_path: Path, words: list[str], said: str
) -> None:
    typed = [word.format(first=first) for word in words]
    before = sorted(path.name for path in first.iterdir())
    drop = ["--task.hidden=4"] if "--task=quadratic" in typed else []
    with pytest.raises(ConfigurationError, match=said):
        if drop:
            options = [word for word in [*SMALL, *LOCAL] if word not in drop]
            more = ["--steps=8", f"--out={tmp_path / 'second'}", f"--init-from={first}"]
            make_job(parse([*options, *more, *typed]), Simulated(2), lambda t, values: None)
        else:
            begin(first, *typed, K=2)
    assert sorted(path.name for path in first.iterdir()) == before
    assert not (tmp_path / "second" / "trajectory.h5").exists()


def test_another_optimiser_is_refused(first: Path, begin: Begin) -> None:
    with pytest.raises(ConfigurationError, match="that of .* is another: .*--init-with workers"):
        begin(first, "--init-with=optimizer", "--optimizer=torch.optim.Adam")


def test_what_of_nothing(tmp_path: Path) -> None:
    words = [*SMALL, *LOCAL, "--steps=8", f"--out={tmp_path / 'run'}", "--init-with=workers"]
    with pytest.raises(ConfigurationError, match="add --init-from RUN"):
        make_job(parse(words), Simulated(2), lambda t, values: None)


@pytest.mark.parametrize("words", [["--algorithm=diloco"], ["--schedule.steps=1"]], ids=str)
def test_workers_that_differ_are_refused_where_all_must_begin_equal(
    first: Path, begin: Begin, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError, match="begin with different .*type --init-with mean"):
        begin(f"{first}:6", "--init-with=workers", *words)
    begin(f"{first}:6", *words).close("stopped")  # the mean may
