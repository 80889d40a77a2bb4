"""Images through loader processes under MPI: the same run on one process and on two ranks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from launching import TRAIN, mpirun, started, train, until
from small_tasks import write_folder

from hpc_localsgd.commands.exit_codes import STOPPED
from hpc_localsgd.commands.pack import main as pack
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

OPTIONS = ["--task=imagenet", "--task.model=resnet8", "--task.size=16", "--task.classes=4"]
OPTIONS += ["--steps=6", "--schedule=every", "--schedule.steps=3", "--batch-per-worker=4"]
OPTIONS += ["--dtype=float64", "--evaluate-every=3", "--batchnorm-batches=4"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder / "tree")
    assert pack([str(folder / "tree"), str(folder / "packed.h5")]) == 0
    return folder


def test_ranks_and_loaders_do_not_change_the_numbers(images: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = ["--workers=2", "--task.loaders=0", "--figures=false", f"--out={one}"]
    assert main([*OPTIONS, *alone, f"--task.data={images / 'tree'}"]) == 0
    where = [f"--task.data={images / 'packed.h5'}", "--task.loaders=1", f"--out={two}"]
    train(mpirun(2), *OPTIONS, *where).succeeded()
    for name in ("train/loss", "eval/test/loss"):
        a, b = (Trajectory(out).series(name).value for out in (one, two))
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_run_that_is_stopped_leaves_no_loader_behind(images: Path, tmp_path: Path) -> None:
    """The ranks leave at once; that nothing of the job runs on is seen by `Job.wait`."""
    where = [f"--task.data={images / 'packed.h5'}", f"--out={tmp_path}", "--task.loaders=1"]
    options = [*OPTIONS, *where, "--steps=100000", "--checkpoint-every=5", "--figures=false"]
    with started(mpirun(2), [*TRAIN, *options]) as job:
        until(lambda: list(tmp_path.glob("checkpoints/*/*")), 90, "both ranks train")
        loaders = job.pids() - {job.process.pid, *job.ranks().values()}
        assert len(loaders) >= 4  # a fork server and a loader of each rank
        for rank in job.ranks().values():
            os.kill(rank, signal.SIGUSR2)
        assert job.wait().status == STOPPED


def test_a_corrupt_image_ends_the_job_with_its_name(images: Path, tmp_path: Path) -> None:
    victim = images / "tree" / "train" / "n00000000" / "image_0.JPEG"
    victim.write_bytes(b"no image")
    where = [f"--task.data={images / 'tree'}", f"--out={tmp_path / 'run'}", "--task.loaders=1"]
    outcome = train(mpirun(2), *OPTIONS, *where, timeout_s=60)
    assert outcome.status != 0
    assert f"{victim} is not an image" in outcome.text
    assert "Traceback" not in outcome.text
