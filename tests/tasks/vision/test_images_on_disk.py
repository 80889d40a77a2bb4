"""ImageFolder trees and packed files: the same batches from both, and what is damaged is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from read_images import all_batches, built, refusal
from small_runs import go

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.errors import DataError
from hpc_localsgd.run.probes import Evaluation
from hpc_localsgd.worlds.simulated import Simulated


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_packed_file_gives_the_same_numbers_as_its_folder(intact: Path) -> None:
    folder, file = built(intact / "images"), built(intact / "images.h5")
    assert folder.splits == file.splits == {"train": 40, "test": 20}
    assert all(same(folder.batch([0, 1], t), file.batch([0, 1], t)) for t in (0, 9))
    whole = [
        task.evaluate(task.x[0], "test", range(20), task.buffers[0]) for task in (folder, file)
    ]
    assert torch.equal(*whole) and whole[0][2] == 20


def test_batches_do_not_depend_on_loaders_nor_on_what_was_asked_before(intact: Path) -> None:
    alone = built(intact / "images.h5")
    others = [built(intact / "images.h5", loaders=n) for n in (1, 2)]
    # Onwards, a jump as after resuming, back, an evaluation, another set of workers.
    for t in (0, 1, 2, 7, 8, 0, 3):
        expected = alone.batch([0, 1], t)
        assert all(same(task.batch([0, 1], t), expected) for task in others)
    x, buffers = alone.x[0], alone.buffers[0]
    sums = [task.evaluate(x, "test", range(3, 20), buffers) for task in (alone, *others)]
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])
    for task in others:
        assert torch.equal(task.batch([1], 4)[0][0], alone.batch([0, 1], 4)[0][1])
    state = torch.get_rng_state()
    assert all(same(task.batch([0, 1], 4), alone.batch([0, 1], 4)) for task in others)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("cores", "ranks", "loaders"), [(24, 4, 6), (64, 4, 8), (2, 4, 1)])
def test_loaders_are_the_ranks_share_of_the_cores_whatever_torch_computes_with(
    intact: Path, monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, loaders: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))  # as torchrun does, which also sets
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    task = built(intact / "images.h5", loaders=None)  # which starts none yet
    assert task.samples._reader._processes == loaders


def test_loaders_of_images_find_torchvision_imported(intact: Path) -> None:
    """What that module does for them is in test_loader_processes."""
    task = built(intact / "images.h5", loaders=1)
    assert task.samples._reader._first == "hpc_localsgd.tasks.vision.fork_server_of_images"


def test_augmentation_can_be_switched(intact: Path) -> None:
    varied, plain, strong = (
        built(intact / "images.h5", **options)
        for options in ({}, {"augment": False}, {"rand_augment": 10})
    )
    images = [task.batch([0, 1], 0)[0] for task in (varied, plain, strong)]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    row = int(plain.partition.indices(0, 0)[0])
    (clean, label), *_ = plain.samples.clean("train", range(row, row + 1))
    assert torch.equal(images[1][0, 0], clean[0])
    assert label[0] == plain.batch([0, 1], 0)[1][0, 0]


def corrupt(tree: Path, split: str = "train") -> Path:
    victim = tree / split / "n00000002" / "image_6.JPEG"
    victim.write_bytes(victim.read_bytes()[:300])
    return victim


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_corrupt_image_is_named(tree: Path, loaders: int) -> None:
    victim = corrupt(tree)
    with pytest.raises(DataError) as caught:
        all_batches(built(tree, loaders=loaders))
    assert f"{victim} is not a readable image" in str(caught.value)
    assert "--task.skip-corrupt" in str(caught.value)


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_corrupt_image_is_skipped_and_counted_on_request(
    tree: Path, loaders: int, caplog: pytest.LogCaptureFixture
) -> None:
    victims = [corrupt(tree), corrupt(tree, "val")]
    task = built(tree, loaders=loaders, skip_corrupt=True)
    all_batches(task)
    assert sum(task.skipped) == 1
    sums = task.evaluate(task.x[0], "test", range(20), task.buffers[0])
    assert sums[2] == 19
    assert sum(task.skipped) == 1  # test images are named, not counted
    all_batches(task)  # named once only
    assert sum(task.skipped) == 2
    assert [sum(str(v) in line for line in caplog.messages) for v in victims] == [1, 1]
    other = built(tree, skip_corrupt=True)
    other.load_state_dict(task.state_dict())
    assert other.skipped == task.skipped


def test_what_measuring_meets_is_not_counted(tree: Path) -> None:
    """A fault counts once for each worker and step of training, however often a run is measured."""
    for image in (tree / "train").glob("*/*"):
        if int(image.stem.rpartition("_")[2]) % 3 == 0:
            image.write_bytes(b"")
    corrupt(tree, "val")

    def skipped(measured: int, gradient: Any = "plain") -> list[int]:
        options = f"--task.loaders=0 --batch-per-worker=5 --steps=6 --evaluate-every={measured}"
        run, _ = make_run(
            parse(
                [
                    *("--task=imagenet", f"--task.data={tree}", "--task.skip-corrupt=true"),
                    *("--task.model=resnet8", "--task.size=16", "--task.classes=4"),
                    *(*options.split(), "--batchnorm-batches=8", f"--gradient={gradient}"),
                ]
            ),
            Simulated(2),
        )
        go(run, [Evaluation(measured)])
        return list(run.task.skipped)  # type: ignore[attr-defined]

    seldom = skipped(0)
    assert min(seldom) > 3
    assert skipped(1) == skipped(4) == skipped(1, "sam") == seldom


def test_an_image_that_has_gone_is_named(tree: Path) -> None:
    task = built(tree)
    victim = tree / "val" / "n00000001" / "image_5.JPEG"
    victim.unlink()
    with pytest.raises(DataError, match=f"{victim} cannot be read: No such file"):
        task.evaluate(task.x[0], "test", range(20), task.buffers[0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_class_folder_is_named(tree: Path, split: str) -> None:
    shutil.rmtree(tree / split / "n00000003")
    assert f"the class folder {tree / split / 'n00000003'} is missing" in refusal(tree)


def test_an_empty_class_folder_is_named(tree: Path) -> None:
    (tree / "train" / "n00000009").mkdir()
    assert "n00000009" in refusal(tree)


def test_the_number_of_classes_is_checked(intact: Path, tmp_path: Path) -> None:
    said = refusal(intact / "images", classes=1000)
    assert "has 4 classes and 1000 are expected: --task.classes 4" in said
    assert built(intact / "images.h5", classes=None).samples.classes == 4
    assert "there is no folder" in refusal(tmp_path / "none")
    assert "there is no file" in refusal(tmp_path / "none.h5")
