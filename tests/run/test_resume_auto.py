"""Nothing that somebody might want back is lost by any --resume, whatever a folder holds."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hpc_localsgd.run.checkpoint.folder import PARTIAL, Checkpoints
from hpc_localsgd.run.checkpoint.listing import all_folders, last_complete
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.resume_auto import ASIDES
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.simulated import Simulated

RUN = ["--task.hidden=4", "--workers=2", "--steps=12", "--figures=false"]
RUN += ["--checkpoint-every=4", "--checkpoint-keep=9", "--schedule=every", "--schedule.steps=2"]
RESUMES = [[], ["--resume"], ["--resume=auto"], ["--resume-from-mean"], ["--resume=false"]]
RESUMES += [["--resume=auto", "--resume-from-mean"]]
LONGER = ["--resume=auto", "--steps=24", "--extend"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main([*RUN, f"--out={out}"]) == 0
    return out


def nothing(out: Path) -> None:
    pass


def without_checkpoints(out: Path) -> None:
    shutil.rmtree(out / "checkpoints")


def partial(out: Path) -> None:
    """What an --out that is not shared leaves on rank 0's host."""
    for shard in (out / "checkpoints").rglob("*.pt"):
        shard.rename(shard.with_name("rank-0-of-2.pt"))


def damaged(out: Path) -> None:
    for shard in (out / "checkpoints").rglob("*.pt"):
        shard.write_bytes(b"x" * 100)


def record_damaged(out: Path) -> None:
    (out / "trajectory.h5").write_bytes(b"x" * 1000)
    without_checkpoints(out)


def without_record(out: Path) -> None:
    (out / "trajectory.h5").unlink()


def partial_without_record(out: Path) -> None:
    without_record(out)
    partial(out)


def foreign(out: Path) -> None:
    without_checkpoints(out)
    cut_off(out)
    (out / "config.yaml").unlink()
    with h5py.File(out / "trajectory.h5", "r+") as file:
        file.attrs["config"] = str(file.attrs["config"]).replace("seed: ", "seed: 7")


def of_other_options(out: Path) -> None:
    """Complete, with all its checkpoints."""
    with h5py.File(out / "trajectory.h5", "r+") as file:
        file.attrs["config"] = str(file.attrs["config"]).replace("seed: ", "seed: 7")


def record_empty(out: Path) -> None:
    (out / "trajectory.h5").write_bytes(b"")


def between_two_renames(out: Path) -> None:
    """A job that went on with other workers was killed there."""
    (out / "checkpoints").rename(out / "checkpoints-of-other-workers")


def cut_off(out: Path) -> None:
    with h5py.File(out / "trajectory.h5", "r+") as file:
        file.attrs["status"] = "running"


STATES = [nothing, without_checkpoints, partial, damaged, record_damaged, without_record]
STATES += [partial_without_record, foreign, of_other_options, record_empty, between_two_renames]


def contents(out: Path) -> dict[str, str]:
    """What a run consists of: its record and its shards."""
    found = [*out.rglob("*.h5"), *out.rglob("*.pt")]
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_complete_run_is_lost_by_no_resume(
    finished: Path, tmp_path: Path, state: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    state(out)
    before = contents(out)
    for resume in (*RESUMES, LONGER):
        status = main([*RUN, *resume, f"--out={out}"])
        resumes = resume not in ([], ["--resume=false"])
        assert status == (0 if state is nothing and resumes else 2), resume
        after = contents(out)
        assert {name: after.get(name) for name in before} == before, resume


def test_a_complete_run_with_a_damaged_newest_checkpoint_is_none_the_less_complete(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for shard in all_folders(out / "checkpoints")[-1].glob("*.pt"):
        shard.write_bytes(b"x" * 100)
    record = contents(out)["trajectory.h5"]
    assert main([*RUN, "--resume=auto", f"--out={out}"]) == 0
    assert contents(out)["trajectory.h5"] == record and Trajectory(out).status == "complete"
    np.testing.assert_array_equal(Trajectory(out).rounds.step_end, [2, 4, 6, 8, 10, 12])


@pytest.mark.parametrize("resume", RESUMES, ids=" ".join)
def test_a_folder_without_a_run_is_a_new_run_or_has_nothing_to_resume(
    tmp_path: Path, resume: list[str]
) -> None:
    begins = "--resume=auto" in resume or resume in ([], ["--resume=false"])
    for out in (tmp_path / "none", tmp_path):
        notes = out / "notes"
        if out.exists():
            notes.write_text("of somebody")
        assert main([*RUN, *resume, f"--out={out}"]) == (0 if begins else 2)
        assert (out / "trajectory.h5").exists() == begins
        assert out != tmp_path or notes.exists()


def test_a_job_killed_in_its_first_checkpoint_is_put_aside_and_not_for_ever(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for i in range(ASIDES + 1):
        for old in (out / "checkpoints", out / "trajectory.h5"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        shutil.copytree(finished, out, dirs_exist_ok=True)
        cut_off(out)
        partial(out)
        for folder in all_folders(out / "checkpoints")[2:]:
            shutil.rmtree(folder)
        status = main([*RUN, "--resume=auto", f"--out={out}"])
        assert status == (0 if i < ASIDES else 2)
    assert "jobs were cut off in their first checkpoint" in capsys.readouterr().err
    for i in range(1, ASIDES + 1):
        assert (out / f"cut-off-{i}" / "trajectory.h5").exists()
        assert len(all_folders(out / f"cut-off-{i}" / "checkpoints")) == 2


def test_a_record_without_any_shard_that_was_cut_off_begins_anew(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    without_checkpoints(out)
    cut_off(out)
    assert main([*RUN, "--resume=auto", f"--out={out}"]) == 0
    assert Trajectory(out).status == "complete" and last_complete(out) is not None


def test_partial_checkpoints_do_not_pile_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Simulated(2)
    world.n = 2  # the shards of rank 1 never come
    checkpoints = Checkpoints(tmp_path, world, keep=2)
    for after in range(0, 120, 5):
        checkpoints.save(RankCheckpoint(after, after, {"x": torch.zeros(1)}))
        if after == 10:  # one is complete
            shutil.copy(
                checkpoints.folder_of(after) / "rank-0-of-2.pt",
                checkpoints.folder_of(after) / "rank-1-of-2.pt",
            )
        checkpoints.tidy()
    steps = [int(f.name[5:]) for f in all_folders(checkpoints.folder)]
    assert steps[-PARTIAL:] == list(range(120 - 5 * PARTIAL, 120, 5)) and 10 in steps
    assert len([step for step in steps if step > 10]) == PARTIAL
    said = capsys.readouterr().err
    assert said.count("since step 10: the shards of rank 1 are missing") == 1
