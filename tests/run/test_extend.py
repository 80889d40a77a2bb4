"""A run that continues to another length: the one asked for from the start, or refused, or said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from interrupted import Interrupted, Stop, finish, memory_of
from small_runs import files_below

from hpc_localsgd.commands.assembly.job import Job, make_job
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint import Checkpoints, shard
from hpc_localsgd.schedules.rates import cosine
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

BASE = ("--batch-per-worker=4", "--checkpoint-every=4")
LOCAL = ("--task.hidden=4", "--schedule=every", "--schedule.steps=4", "--evaluate-every=4")
CONSTANT = (*LOCAL, "--rate=constant", "--rate.lr=.05", "--rate.warmup=3")
HALVES = (*LOCAL, "--rate=multi_step", "--rate.at=[50%]", "--rate.warmup=3")


def begun(
    out: Path, options: Sequence[str], steps: int, *more: str, stop: int | None = None
) -> Job:
    """A job of so many steps; as a dictionary would, an option that is given twice counts last."""
    told = dict(o.partition("=")[::2] for o in (*BASE, *options, f"--steps={steps}", *more))
    argv = [f"{name}={value}" if value else name for name, value in told.items() if value != "-"]
    return make_job(parse([*argv, f"--out={out}"]), Simulated(3), Stop(stop))


def cut_off(out: Path, options: Sequence[str], steps: int, at: int, *more: str) -> None:
    """A job that ends, without its last words, when it has measured step `at`."""
    job = begun(out, options, steps, *more, stop=at)
    with pytest.raises(Interrupted):
        finish(job)
    job.close("stopped")


def same(one: Job, other: Job) -> bool:
    """Whether two jobs are at the same place, in every bit."""
    pairs = zip(memory_of(one), memory_of(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def refusal(out: Path, options: Sequence[str], steps: int, *more: str) -> str:
    """What is said, after which everything is as it was."""
    before = files_below(out)
    with pytest.raises(ConfigurationError) as caught:
        begun(out, options, steps, *more)
    assert files_below(out) == before
    return str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that is over."""
    out = tmp_path_factory.mktemp("finished") / "run"
    finish(begun(out, CONSTANT, 12))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """One that was asked for 28 steps from the start, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    job = begun(out, CONSTANT, 28)
    finish(job)
    return job, out


@pytest.mark.parametrize("resume", ["--resume", "--resume=auto", "--resume-from-mean"])
def test_a_finished_run_goes_on_and_is_the_longer_one_bit_for_bit(
    finished: Path,
    whole: tuple[Job, Path],
    tmp_path: Path,
    resume: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(finished, tmp_path / "cut")
    assert Trajectory(out).status == "complete"
    capfd.readouterr()
    cut = begun(out, CONSTANT, 28, resume)
    assert cut.position.t == 12
    assert capfd.readouterr().err == (
        "the run was begun with 12 steps and continues to 28: rate and rounds so far are those of "
        "a run of 28 steps\n"
    )
    finish(cut)
    assert same(whole[0], cut)
    assert (out / "trajectory.h5").read_bytes() == (finished / "trajectory.h5").read_bytes()
    both, wanted = Trajectory(out), Trajectory(whole[1])
    assert (both.status, both.attrs["steps"]) == ("complete", 28)
    assert both.rounds.step_end.tolist() == wanted.rounds.step_end.tolist()
    for name in ("train/loss", "eval/test/loss"):
        assert both.series(name).value.tolist() == wanted.series(name).value.tolist()


def test_a_run_that_was_stopped_goes_on_where_the_rate_has_not_differed_yet(tmp_path: Path) -> None:
    whole = begun(tmp_path / "whole", HALVES, 48)
    finish(whole)
    cut_off(tmp_path / "cut", HALVES, 24, 12)
    assert "step 12 would have had the rate 0.1" in refusal_at_the_end(tmp_path / "end")
    cut = begun(tmp_path / "cut", HALVES, 48, "--resume")
    assert cut.position.t == 8  # before the rate of the shorter run drops, at 12
    finish(cut)
    assert same(whole, cut)


def refusal_at_the_end(out: Path) -> str:
    finish(begun(out, HALVES, 24))
    return refusal(out, HALVES, 48, "--resume")


def test_a_cosine_is_another_rate_and_what_is_said_is_what_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    waves = (*LOCAL, "--rate=cosine", "--rate.lr=.1")
    finish(begun(tmp_path, waves, 12))
    said = refusal(tmp_path, waves, 24, "--resume=auto")
    new, old = (cosine(lr=0.1, until=until) for until in (24, 12))
    assert f"step 1 would have had the rate {new(1):.6g} in place of {old(1):.6g}" in said
    here = f"where the rate is {new(12):.3g} after {old(11):.3g} and H 4"
    assert f"Add --extend to resume from step 12 all the same, {here}; or begin a run of 24" in said
    capfd.readouterr()
    job = begun(tmp_path, waves, 24, "--resume=auto", "--extend")
    assert here in capfd.readouterr().err
    finish(job)
    rounds = Trajectory(tmp_path).rounds
    assert rounds.step_begin.tolist() == [0, 4, 8, 12, 16, 20]
    wanted = [old(t) if t < 12 else new(t) for t in rounds.step_begin]
    assert rounds.lr.tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "steps", "longer", "said"),
    [
        (CONSTANT, 10, 20, "the round from step 8 would have ended at step 12 in place of 10"),
        (
            (*CONSTANT, "--schedule=post_local", "--schedule.steps=-", "--schedule.every=4"),
            16,
            32,
            "the round from step 8 would have ended at step 9 in place of 12",
        ),
        ((*CONSTANT, "--rate.warmup=25%"), 12, 24, "step 1 would have had the rate"),
        (
            (*CONSTANT, "--algorithm=overlap"),
            12,
            24,
            "the exchange at step 12 was the last, which Overlap makes in a way of its own",
        ),
        (
            (*CONSTANT, "--schedule=spread_triggered", "--schedule.steps=-"),
            12,
            24,
            "the end of the run may have cut the round from step",
        ),
        (CONSTANT, 12, 8, "the run has taken 12 steps, and one of 8 is shorter: type --steps 12"),
    ],
)
def test_a_run_whose_steps_would_have_been_others_is_refused(
    tmp_path: Path, options: Sequence[str], steps: int, longer: int, said: str
) -> None:
    finish(begun(tmp_path, options, steps))
    assert said in refusal(tmp_path, options, longer, "--resume")
    if longer > steps:
        job = begun(tmp_path, options, longer, "--resume", "--extend")
        assert finish(job).t == longer
    else:
        assert said in refusal(tmp_path, options, longer, "--resume", "--extend")


def test_a_run_that_is_to_be_shorter_ends_there(tmp_path: Path) -> None:
    whole = begun(tmp_path / "short", CONSTANT, 20)
    finish(whole)
    cut_off(tmp_path / "cut", CONSTANT, 60, 12)
    cut = begun(tmp_path / "cut", CONSTANT, 20, "--resume")
    assert finish(cut).t == 20
    assert same(whole, cut)


def test_a_round_under_way_ends_with_a_run_that_became_shorter(tmp_path: Path) -> None:
    long = (*CONSTANT, "--schedule.steps=16", "--checkpoint-every=2")
    cut_off(tmp_path, long, 64, 7, "--evaluate-every=1")
    assert "the round from step 0 would have ended at step 10 in place of 16" in refusal(
        tmp_path, long, 10, "--evaluate-every=1", "--resume"
    )
    job = begun(tmp_path, long, 10, "--evaluate-every=1", "--resume", "--extend")
    assert 0 < job.position.t < 10
    assert finish(job).t == 10
    assert Trajectory(tmp_path).rounds.step_end.tolist() == [10]


def test_what_a_finished_run_came_to_stays_beside_what_it_becomes(tmp_path: Path) -> None:
    keep = (*CONSTANT, "--checkpoint-keep=1", "--checkpoint-every=4")
    finish(begun(tmp_path, keep, 12))
    folder = tmp_path / "checkpoints"
    came_to = files_below(folder / "step-00000012")
    finish(begun(tmp_path, keep, 28, "--resume"))
    assert [f.name for f in sorted(folder.glob("step-*"))] == ["step-00000028"]
    assert files_below(folder / "finished-step-00000012") == came_to


def test_a_job_that_is_killed_before_its_first_checkpoint_goes_on_by_the_same_line(
    finished: Path, whole: tuple[Job, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "cut")
    cut_off(out, (*CONSTANT, "--checkpoint-every=0"), 28, 16, "--resume=auto")
    assert len(Trajectory(out).paths) == 2  # the newest of which asks for 28 steps
    again = begun(out, CONSTANT, 28, "--resume=auto")
    assert again.position.t == 12
    finish(again)
    assert same(again, whole[0])


def test_the_same_length_in_another_unit_is_the_same_length(tmp_path: Path) -> None:
    waves = (*LOCAL, "--rate=cosine")
    job = begun(tmp_path, waves, 12)
    per_epoch = job.run.task.partition.steps_per_epoch
    finish(job)
    argv = [*BASE, *waves, f"--epochs={12 / per_epoch!r}", f"--out={tmp_path}", "--resume"]
    again = make_job(parse(argv), Simulated(3), lambda t, values: None)
    assert again.position.t == 12
    finish(again)


def test_a_checkpoint_of_an_earlier_version_is_of_the_same_configuration(tmp_path: Path) -> None:
    job = begun(tmp_path, CONSTANT, 12)
    finish(job)
    path = next((tmp_path / "checkpoints").glob("step-00000012/*.pt"))
    state = {**shard.read(path), "digest": "with its length"}
    shard.write(path, state)
    ours = Checkpoints(tmp_path, job.run.world, digest="without", also=["with its length"])
    assert ours.load().t == 12
    with pytest.raises(ConfigurationError, match="another configuration"):
        Checkpoints(tmp_path, job.run.world, digest="without").load()


def test_links_that_a_file_system_refuses_become_copies(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")

    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    begun(out, CONSTANT, 28, "--resume")
    folder = out / "checkpoints"
    assert files_below(folder / "finished-step-00000012") == files_below(folder / "step-00000012")


def test_extend_goes_with_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--extend changes how .* add --resume"):
        begun(tmp_path, CONSTANT, 12, "--extend")
