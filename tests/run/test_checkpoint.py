"""A run that was interrupted and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import (
    Interrupted,
    finish,
    folders,
    interrupt,
    memory_of,
    start,
)
from small_tasks import write_folder

from hpc_localsgd.commands.pack import main as pack
from hpc_localsgd.trajectory import Trajectory

RUNS = {
    "momentum": [],
    "adam averaged": [
        "--optimizer=torch.optim.Adam",
        "--momentum-at-sync=average",
        "--rate.lr=.01",
    ],
    "batchnorm": ["--task.model=conv", "--task.norm=batch", "--batchnorm-batches=3"],
    "batchnorm averaged": ["--task.model=conv", "--task.norm=batch", "--batchnorm=average"],
    "replacement": ["--sampling=replacement", "--momentum-at-sync=reset"],
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, options: list[str]
) -> None:
    whole, _ = start(tmp_path / "whole", *options)
    finish(whole)
    interrupt(tmp_path / "cut", 21, *options)
    cut, show = start(tmp_path / "cut", *options, "--resume")
    assert cut.position.t == 15  # the last end of a round behind a multiple of 5
    finish(cut)
    assert min(show.shown) == 16  # it went on, and did not start again
    for a, b in zip(memory_of(whole), memory_of(cut), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("data", ["images", "images.h5"])
def test_images_on_disk_go_on_in_mid_epoch(tmp_path: Path, data: str) -> None:
    write_folder(tmp_path / "images")
    assert pack([str(tmp_path / "images"), str(tmp_path / "images.h5")]) == 0
    task = ["--task=imagenet", "--task.model=resnet8", "--task.size=16", "--task.classes=4"]
    task += [f"--task.data={tmp_path / data}", "--task.loaders=1", "--batchnorm-batches=3"]
    seldom = ["--steps=20", "--evaluate-every=9", "--spread-every=9"]
    whole, _ = start(tmp_path / "whole", *seldom, task=task)
    finish(whole)
    interrupt(tmp_path / "cut", 18, *seldom, task=task)
    cut, _ = start(tmp_path / "cut", *seldom, "--resume", task=task)
    assert cut.position.t == 15
    assert cut.run.task.partition.steps_per_epoch not in (1, 3, 5, 15)  # 15 is in mid-epoch
    finish(cut)
    for a, b in zip(memory_of(whole), memory_of(cut), strict=True):
        assert torch.equal(a, b)


def test_the_record_of_both_jobs_together_is_that_of_the_uninterrupted_run(tmp_path: Path) -> None:
    finish(start(tmp_path / "whole")[0])
    interrupt(tmp_path / "cut", 21)
    finish(start(tmp_path / "cut", "--resume")[0])
    whole, cut = Trajectory(tmp_path / "whole"), Trajectory(tmp_path / "cut")
    assert cut.status == "complete"
    assert len(cut.paths) == 2
    for name in ("step_begin", "step_end", "lr", "payload_bytes"):
        np.testing.assert_array_equal(getattr(cut.rounds, name), getattr(whole.rounds, name))
    assert cut.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(cut.series(name).step, whole.series(name).step)
        np.testing.assert_array_equal(cut.series(name).value, whole.series(name).value)


def test_what_a_killed_job_recorded_reaches_as_far_as_its_checkpoint(tmp_path: Path) -> None:
    job, _ = start(tmp_path, stop=21)
    with pytest.raises(Interrupted):
        finish(job)  # and nobody closes the record
    killed = Trajectory(tmp_path)
    assert killed.status == "running"
    assert killed.rounds.step_end[-1] >= 15
    finish(start(tmp_path, "--resume")[0])
    assert Trajectory(tmp_path).rounds.step_end.tolist() == [*range(1, 8), *range(11, 30, 4), 30]


def test_resuming_twice_is_the_same_again(tmp_path: Path) -> None:
    whole, _ = start(tmp_path / "whole")
    interrupt(tmp_path / "cut", 12)
    with pytest.raises(Interrupted):
        finish(start(tmp_path / "cut", "--resume", stop=25)[0])
    cut, _ = start(tmp_path / "cut", "--resume")
    assert cut.position.t > 12
    assert torch.equal(finish(cut).x, finish(whole).x)


def test_a_finished_run_can_be_resumed_and_has_nothing_left_to_do(tmp_path: Path) -> None:
    x = finish(start(tmp_path)[0]).x.clone()
    job, _ = start(tmp_path, "--resume")
    assert job.position.t == 30
    assert torch.equal(finish(job).x, x)
    assert Trajectory(tmp_path).status == "complete"
    assert Trajectory(tmp_path).series("eval/test/loss").step.tolist() == list(range(31))


def test_checkpoints_are_written_at_ends_of_rounds_and_the_last_two_are_kept(
    tmp_path: Path,
) -> None:
    interrupt(tmp_path, 16)
    assert folders(tmp_path) == ["step-00000011", "step-00000015"]
    finish(start(tmp_path, "--resume")[0])
    assert folders(tmp_path) == ["step-00000027", "step-00000030"]


def test_without_a_cadence_only_the_end_is_kept(tmp_path: Path) -> None:
    finish(start(tmp_path, "--checkpoint-every=0")[0])
    assert folders(tmp_path) == ["step-00000030"]


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path) -> None:
    interrupt(tmp_path, 21)
    newest, older = folders(tmp_path)[-1], folders(tmp_path)[-2]
    folder = tmp_path / "checkpoints"
    for name in folder.joinpath(newest).iterdir():  # the job died while writing
        name.rename(name.with_suffix(".partial"))
    half = folder / "step-00000022"  # one of two ranks had written
    half.mkdir()
    (half / "rank-0-of-2.pt").write_bytes(b"")
    (folder / "step-00000023").mkdir()
    (folder / "notes").mkdir()  # none of ours
    job, _ = start(tmp_path, "--resume")
    assert job.position.t == int(older.removeprefix("step-"))
