"""Images in the IDX format: what is read, from where, and how damage is named."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import easy_images, idx, write_idx

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.cifar100 import cifar100
from hpc_localsgd.tasks.fashion_mnist import DEBIAN, fashion_mnist
from hpc_localsgd.tasks.idx_images import idx_images
from hpc_localsgd.tasks.mnist import mnist
from hpc_localsgd.tasks.synthetic_images import synthetic_images
from hpc_localsgd.tasks.vision import idx_files

CONTEXT = TaskContext(workers=2, local_workers=(0, 1), batch=8)
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def small(folder: Path, **options: object) -> idx_images:
    return idx_images(data=str(folder), model="cnn4", groups=2, **options)  # type: ignore[arg-type]


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        small(folder, **options).build(CONTEXT)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("below", ["", "raw"])
def test_the_four_files_are_read(tmp_path: Path, ending: str, below: str) -> None:
    write_idx(tmp_path / below, ending=ending)
    task = small(tmp_path).build(CONTEXT)
    assert task.splits == {"train": 40, "test": 20} and task.samples.classes == 4
    images, labels = easy_images(40, 8, 4, 0)
    grey = images[:, 0] / 255.0
    [(inputs, found)] = task.samples.clean("train", range(40))
    assert inputs.shape == (40, 1, 8, 8)
    expected = torch.from_numpy((grey - grey.mean()) / grey.std()).float()
    torch.testing.assert_close(inputs[:, 0], expected)
    assert found.tolist() == labels.tolist()


def test_names_of_other_publishers_are_known(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx").replace("t10k", "test")))
    assert small(tmp_path).build(CONTEXT).splits == {"train": 40, "test": 20}


def test_labels_that_begin_at_one_are_shifted(tmp_path: Path) -> None:
    """The letters of EMNIST; class 0 would be one that never comes."""
    write_idx(tmp_path, prefix="letters-")
    for split, n in (("train", 40), ("t10k", 20)):
        labels = easy_images(n, 8, 4)[1] + 1
        (tmp_path / f"letters-{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    task = small(tmp_path, prefix="letters-").build(CONTEXT)
    assert task.samples.classes == 4
    [(_, labels)] = task.samples.clean("test", range(20))
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]


def test_several_sets_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    for prefix in ("emnist-letters-", "emnist-digits-"):
        write_idx(tmp_path, prefix=prefix)
    said = refusal(tmp_path)
    assert "--task.prefix ''" in said and "'emnist-digits-', 'emnist-letters-'" in said


def test_a_subset_takes_every_class_in_turn_and_is_the_same_for_every_seed(tmp_path: Path) -> None:
    write_idx(tmp_path, train=80)
    tasks = [
        small(tmp_path, subset=12).build(
            TaskContext(workers=2, local_workers=(0, 1), batch=4, seed=seed)
        )
        for seed in (0, 7)
    ]
    (one, labels), (other, _) = (next(iter(t.samples.clean("train", range(12)))) for t in tasks)
    assert torch.equal(one, other) and tasks[0].splits == {"train": 12, "test": 20}
    assert np.bincount(labels.numpy()).tolist() == [3, 3, 3, 3]
    whole = small(tmp_path).build(CONTEXT)
    [(every, _)] = whole.samples.clean("train", range(80))
    at = [int(((every - image) ** 2).flatten(1).sum(1).argmin()) for image in one]
    torch.testing.assert_close(every[at], one)  # standardised as the whole set is
    assert len(set(at)) == 12 and at != sorted(at)
    assert "--task.subset 81: 0 for all, or at most 80" in refusal(tmp_path, subset=81)


def test_digits_are_not_mirrored_and_clothes_are() -> None:
    assert not mnist.mirrored and fashion_mnist.mirrored


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_augmentation(tmp_path: Path, mirrored: bool) -> None:
    write_idx(tmp_path)

    class either(idx_images):
        pass

    either.mirrored = mirrored  # type: ignore[misc]
    options = {"data": str(tmp_path), "model": "cnn4", "groups": 2}
    varied, plain = (either(**options, augment=on).build(CONTEXT) for on in (True, False))  # type: ignore[arg-type]
    flipped = 0
    for t in range(2):
        crops, images = varied.batch([0, 1], t)[0], plain.batch([0, 1], t)[0]
        for crop, image in zip(crops.flatten(0, 1), images.flatten(0, 1), strict=True):
            fits = [
                torch.allclose(_moved(candidate, down, right), crop[0, 2:6, 2:6])
                for candidate in (image[0], image[0].flip(1))
                for down in range(5)
                for right in range(5)
            ]
            assert any(fits)
            flipped += not any(fits[:25])
    assert (flipped > 4) == mirrored


def _moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The middle of a crop, where no frame is seen."""
    return image[down : down + 4, right : right + 4]


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-7]
    elif how == "longer":
        content += b"more"
    elif how == "no header":
        content = content[:3]
    elif how == "not IDX":
        content[0] = 7
    elif how == "integers":
        content[2] = 0x0C
    elif how == "huge":
        content[4:16] = b"\xff" * 12
    elif how == "empty":
        content[4:16] = bytes(12)
        content = content[:16]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "is damaged (2553 numbers, where its header says 2560)"),
        ("longer", "is damaged (more than 2560 numbers"),
        ("no header", "it does not begin as an IDX file does"),
        ("not IDX", "it does not begin as an IDX file does"),
        ("integers", "holds numbers of type 0xc in 3 dimensions, where bytes (0x8) in 3"),
        ("huge", "where its header says 79228162458924105385300197375"),
        ("empty", "they do not belong together"),
    ],
)
def test_damage_is_named(tmp_path: Path, how: str, said: str) -> None:
    write_idx(tmp_path)
    damaged(tmp_path / IMAGES, how)
    found = refusal(tmp_path)
    assert said in found and IMAGES in found


def test_files_of_two_sets_do_not_go_together(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(np.zeros(39)))
    assert "holds 40 images of 8x8 and train-labels-idx1-ubyte 39 labels" in refusal(tmp_path)


def test_images_of_two_sizes_do_not_go_together(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.ones((20, 6, 6))))
    assert "images of the splits differ in size" in refusal(tmp_path)


def test_damaged_and_deceitful_gzip(tmp_path: Path) -> None:
    write_idx(tmp_path, ending=".gz")
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} is damaged" in refusal(tmp_path)
    path.write_bytes(b"not gzip at all")
    assert f"{path} is damaged" in refusal(tmp_path)
    path.write_bytes(gzip.compress(idx(np.zeros((40, 8, 8))) + bytes(10_000_000)))
    assert "more than 2560 numbers" in refusal(tmp_path)  # the rest is not unpacked


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / IMAGES).unlink()
    os.mkfifo(tmp_path / IMAGES)
    assert f"{IMAGES} cannot be read: it is a device or a pipe" in refusal(tmp_path)
    (tmp_path / IMAGES).unlink()
    with (tmp_path / IMAGES).open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
    assert "has 1,099,511,627,776 bytes, and at most" in refusal(tmp_path)


def test_absent_files_come_with_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fashion_mnist(data=str(tmp_path)).build(CONTEXT)
    said = str(caught.value)
    assert "apt-get install dataset-fashion-mnist" in said and "zalandoresearch" in said


def test_oblong_and_uniform_images_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for split, n in (("train", 40), ("t10k", 20)):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(np.ones((n, 8, 6))))
    assert "all pixels are equal" in refusal(tmp_path)
    for split, n in (("train", 40), ("t10k", 20)):
        draw = np.random.default_rng(0).integers(0, 9, (n, 8, 6))
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(draw))
    assert "images of 8x6 pixels: only square ones" in refusal(tmp_path)


@pytest.mark.skipif(
    not Path(DEBIAN).is_dir(), reason="no real files: apt-get install dataset-fashion-mnist"
)
def test_the_real_set() -> None:
    files = idx_files.find([Path(DEBIAN)], "")
    assert files is not None
    splits = idx_files.read(files)
    assert {name: len(labels) for name, (_, labels) in splits.items()} == {
        "train": 60_000,
        "test": 10_000,
    }
    images, labels = splits["train"]
    assert np.bincount(labels).tolist() == [6000] * 10
    assert images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # as torchvision's users know it
    assert images.std() / 255 == pytest.approx(0.3530, abs=1e-4)


def test_without_the_files_a_plan_takes_synthetic_images_as_many_and_as_large() -> None:
    shared = {"model": "mlp16", "norm": "group", "augment": False, "label_noise": 0.25}
    grey = idx_images(data="nowhere", **shared).published()  # type: ignore[arg-type]
    sizes = {"size": 28, "classes": 10, "samples": 60_000, "channels": 1}
    assert grey == synthetic_images(**shared, **sizes)  # type: ignore[arg-type]
    colours = cifar100(data="nowhere", **shared).published()  # type: ignore[arg-type]
    sizes = {"size": 32, "classes": 100, "samples": 50_000, "channels": 3}
    assert colours == synthetic_images(**shared, **sizes)  # type: ignore[arg-type]
