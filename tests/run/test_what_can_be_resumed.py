"""What a run goes on from, what it refuses, and what it begins anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Interrupted, finish, folders, interrupt, start
from small_runs import files_below

from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint, shard
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated


def test_a_checkpoint_of_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "rank-0-of-1.pt").rename(folder / "rank-0-of-2.pt")
        (folder / "rank-1-of-2.pt").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"is not of 3 workers: .* --resume-from-mean"):
        start(tmp_path, "--resume")


def test_there_must_be_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    interrupt(tmp_path, 3)
    with pytest.raises(ConfigurationError, match="no complete checkpoint.*--overwrite"):
        start(tmp_path, "--resume")


def test_a_run_that_replaces_another_does_not_keep_its_checkpoints(tmp_path: Path) -> None:
    finish(start(tmp_path)[0])
    start(tmp_path, "--overwrite")[0].close("stopped")
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_of_another_run_are_neither_mixed_with_nor_resumed(tmp_path: Path) -> None:
    finish(start(tmp_path)[0])
    (tmp_path / "trajectory.h5").unlink()
    with pytest.raises(ConfigurationError, match="holds a run already"):
        start(tmp_path, "--seed=2")
    mine = Checkpoints(tmp_path, Simulated(3), digest="of the other run")
    with pytest.raises(ConfigurationError, match="another configuration"):
        mine.load()


def test_auto_begins_anew_goes_on_and_replaces_a_run_without_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = finish(start(tmp_path / "whole")[0]).x.clone()
    out, auto = tmp_path / "run", "--resume=auto"
    with pytest.raises(Interrupted):
        finish(start(out, auto, stop=3)[0])  # before the first checkpoint
    assert capfd.readouterr().err == ""
    with pytest.raises(Interrupted):
        finish(start(out, auto, stop=21)[0])
    assert (
        "has no checkpoint: the run starts over and replaces its record" in capfd.readouterr().err
    )
    job, _ = start(out, auto)
    assert job.position.t == 15
    assert torch.equal(finish(job).x, whole)
    assert len(Trajectory(out).paths) == 2
    assert start(out, auto)[0].position.t == 30  # nothing left to do


def test_a_flag_of_three_values_is_read_as_one_writes_it() -> None:
    for words, value in [
        ([], False),
        (["--resume"], True),
        (["--resume", "auto"], "auto"),
        (["--resume=false"], False),
        (["--resume", "--seed=1"], True),
    ]:
        assert parse(words).config.resume == value


def test_a_place_kept_on_a_cpu_can_be_gone_on_from_on_a_gpu(
    tmp_path: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda kept, device: restored.append(kept))
    job, _ = start(tmp_path)
    finish(job)
    place = RankCheckpoint.of(job.run, job.position, 30)
    job.run.world.device = torch.device("cuda")  # where the next job finds itself
    kept = torch.ones(16, dtype=torch.uint8)
    RankCheckpoint.saved({**place.state, "cuda_rng": kept, "sync": {}}).restore(
        job.run, job.position
    )
    assert restored == [kept]
    assert capfd.readouterr().err == ""
    RankCheckpoint.saved({**place.state, "sync": {}}).restore(job.run, job.position)
    assert restored == [kept]
    assert "not bit for bit" in capfd.readouterr().err


def test_another_number_of_workers_is_refused_or_starts_from_the_mean(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    kept = shard.read(tmp_path / "checkpoints/step-00000015/rank-0-of-1.pt")
    with pytest.raises(ConfigurationError, match="--resume-from-mean"):
        start(tmp_path, "--resume", "--workers=4", K=4)
    job, _ = start(tmp_path, "--resume-from-mean", K=4)
    assert job.position.t == job.position.end == 15
    expected = kept["x"].mean(0).expand(4, -1)
    assert torch.equal(job.run.task.x, expected)
    assert (tmp_path / "checkpoints-of-other-workers").is_dir()
    with pytest.raises(Interrupted):
        job.record._show.at = 25  # type: ignore[attr-defined]
        finish(job)
    job.close("stopped")
    again, _ = start(tmp_path, "--resume-from-mean", K=4)  # as a requeued job would
    assert again.position.t == 23
    finish(again)
    assert Trajectory(tmp_path).rounds.step_end[-1] == 30


def test_where_nobody_says_how_many_workers_they_are_those_that_were(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    job, _ = start(tmp_path, "--resume", K=4)
    world = job.run.world
    assert (world.K, world.R, len(job.run.task.x), world.ledger.R) == (3, 3, 3, 3)
    finish(job)
    assert Trajectory(tmp_path).K == 3 and Trajectory(tmp_path).status == "complete"


def test_the_mean_is_of_the_newest_checkpoint_that_is_sound(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    *_, older, newest = (tmp_path / "checkpoints" / name for name in folders(tmp_path))
    kept = shard.read(older / "rank-0-of-1.pt")["x"].mean(0)
    (newest / "rank-0-of-1.pt").write_bytes(b"x" * 100)
    (tmp_path / "checkpoints-new/step-00000099").mkdir(parents=True)  # of a job that was killed
    job, _ = start(tmp_path, "--resume-from-mean", K=4)
    assert torch.equal(job.run.task.x, kept.expand(4, -1))
    assert "step-00000099" not in folders(tmp_path)
    job.close("stopped")


def test_a_job_killed_between_two_renames_is_told_what_to_type(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    (tmp_path / "checkpoints").rename(tmp_path / "checkpoints-of-other-workers")
    with pytest.raises(ConfigurationError, match="mv .*checkpoints-of-other-workers"):
        start(tmp_path, "--resume=auto")
    assert (tmp_path / "trajectory.h5").exists()


def test_rounds_an_algorithm_cannot_do_are_refused_before_anything_is_touched(
    tmp_path: Path,
) -> None:
    finish(start(tmp_path)[0])
    before = files_below(tmp_path)
    with pytest.raises(ConfigurationError, match="single|every step"):
        start(tmp_path, "--overwrite", "--algorithm=gradient_tracking")
    assert files_below(tmp_path) == before
