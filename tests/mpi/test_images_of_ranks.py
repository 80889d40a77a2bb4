"""Images through loader processes under MPI: the same run on one process and on two ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ends_of_several import commands, ended
from launching import TRAIN, Job, mpirun, started
from small_tasks import write_folder

from hpc_localsgd.commands.exit_codes import STOPPED
from hpc_localsgd.commands.pack import main as pack
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

OPTIONS = ["--task=imagenet", "--task.model=resnet8", "--task.size=16", "--task.classes=4"]
OPTIONS += ["--steps=6", "--schedule=every", "--schedule.steps=3", "--batch-per-worker=4"]
OPTIONS += ["--dtype=float64", "--evaluate-every=3", "--batchnorm-batches=4"]
DAMAGED = Path("train") / "n00000000" / "image_0.JPEG"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree, the same packed, and one of which an image is none."""
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder / "tree")
    assert pack([str(folder / "tree"), str(folder / "packed.h5")]) == 0
    write_folder(folder / "damaged", train=8, val=4)
    (folder / "damaged" / DAMAGED).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def two(images: Path) -> Iterator[tuple[Path, Job]]:
    """A launch that trains on the good images, and then on those of which one is damaged."""
    data = {"two": images / "packed.h5", "corrupt": images / "damaged"}
    words = {
        name: ["train", *OPTIONS, f"--task.data={data[name]}", f"--out={images / name}"]
        + ["--task.loaders=1", "--figures=false"]
        for name in data
    }
    with started(mpirun(2), commands(images, words)) as job:
        yield images, job


@pytest.fixture(scope="module")
def endless(two: tuple[Path, Job]) -> Iterator[tuple[Path, Job]]:
    """A launch that trains until it is stopped; it begins while the other one ends."""
    out = two[0] / "endless"
    where = [f"--task.data={two[0] / 'packed.h5'}", f"--out={out}", "--task.loaders=1"]
    options = [*OPTIONS, *where, "--steps=100000", "--checkpoint-every=5", "--figures=false"]
    with started(mpirun(2), [*TRAIN, *options]) as job:
        yield out, job


@pytest.fixture(scope="module")
def one(two: tuple[Path, Job]) -> Trajectory:
    """The run of one process, which decodes the images of the tree itself."""
    images, _ = two
    alone = ["--workers=2", "--task.loaders=0", "--figures=false", f"--out={images / 'one'}"]
    assert main([*OPTIONS, *alone, f"--task.data={images / 'tree'}"]) == 0
    return Trajectory(images / "one")


def test_one_process_trains(one: Trajectory) -> None:
    assert one.status == "complete"
    assert one.series("eval/test/loss").step.tolist() == [0, 3, 6]


def test_ranks_and_loaders_do_not_change_the_numbers(
    one: Trajectory, two: tuple[Path, Job]
) -> None:
    images, job = two
    assert ended(job, images, "two", 100) == [0, 0]
    for name in ("train/loss", "eval/test/loss"):
        ranks = Trajectory(images / "two").series(name)
        np.testing.assert_allclose(one.series(name).value, ranks.value, rtol=1e-9)


@pytest.mark.usefixtures("endless")
def test_a_corrupt_image_ends_the_job_with_its_name(two: tuple[Path, Job]) -> None:
    images, job = two
    outcome = job.wait()
    assert outcome.status != 0
    assert f"{images / 'damaged' / DAMAGED} is not an image" in outcome.text
    assert "Traceback" not in outcome.text


def test_a_run_that_is_stopped_leaves_no_loader_behind(endless: tuple[Path, Job]) -> None:
    """The ranks leave at once; that nothing of the job runs on is seen by `Job.wait`."""
    out, job = endless
    job.until(lambda: list(out.glob("checkpoints/*/*")), 90, "both ranks train")
    loaders = job.pids() - {job.process.pid, *job.ranks().values()}
    assert len(loaders) >= 4  # a fork server and a loader of each rank
    for rank in job.ranks().values():
        os.kill(rank, signal.SIGUSR2)
    assert job.wait().status == STOPPED
