"""CIFAR's files in both published forms, augmentation on tensors, and label noise."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import PUBLISHED, easy_images, write_cifar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.cifar10 import cifar10
from hpc_localsgd.tasks.synthetic_images import synthetic_images
from hpc_localsgd.tasks.vision.cifar_files import CIFAR10, CIFAR100
from hpc_localsgd.tasks.vision.in_memory import cropped

CONTEXT = TaskContext(workers=2, local_workers=(0, 1), batch=8)


@pytest.mark.parametrize(("published", "task"), [(CIFAR10, "cifar10"), (CIFAR100, "cifar100")])
@pytest.mark.parametrize("inside", [False, True])
def test_both_forms_hold_the_same_images(
    tmp_path: Path, published: Any, task: str, inside: bool
) -> None:
    found = []
    for binary in (False, True):
        folder = tmp_path / str(binary)
        write_cifar(folder, task, published.classes, binary)
        found.append(published.read(next(folder.iterdir()) if inside else folder))
    for split, count in (("train", 50 if task == "cifar10" else 40), ("test", 40)):
        (images, labels), (same, same_labels) = (read[split] for read in found)
        assert images.shape == (count, 3, 32, 32) and images.dtype == np.uint8
        assert np.array_equal(images, same) and np.array_equal(labels, same_labels)
    n = 40 if task == "cifar100" else 10
    assert np.array_equal(found[0]["train"][0][:n], easy_images(n, 32, published.classes)[0])


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        cifar10(data=str(folder)).build(CONTEXT)
    return str(caught.value)


def test_absent_files_come_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    said = refusal(tmp_path / "none")
    assert f"mkdir -p {tmp_path}/none && curl -L https://www.cs.toronto.edu/~kriz/cifar" in said
    assert said.endswith(f"| tar xz -C {tmp_path}/none")


@pytest.mark.parametrize("binary", [False, True])
def test_a_missing_or_truncated_file_is_named(tmp_path: Path, binary: bool) -> None:
    write_cifar(tmp_path, "cifar10", 10, binary)
    file = next(tmp_path.rglob("data_batch_3*"))
    file.write_bytes(file.read_bytes()[:-7])
    assert f"{file} is damaged" in refusal(tmp_path)
    file.unlink()
    assert f"{file} is missing" in refusal(tmp_path)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pipe", "it is a device or a pipe, which may have no end"),
        ("device", "it is a device or a pipe, which may have no end"),
        ("sparse", "it has 5,000,000,000 bytes, and at most 536,870,912 are read"),
    ],
)
def test_a_file_without_an_end_is_named_and_not_read(
    tmp_path: Path, binary: bool, what: str, said: str
) -> None:
    write_cifar(tmp_path, "cifar10", 10, binary)
    file = next(tmp_path.rglob("data_batch_3*"))
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "device":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as sparse:  # a pickle that announces 4 GB, which it has
            sparse.write(b"\x80\x04\x95" + (4 * 10**9).to_bytes(8, "little"))
            sparse.truncate(5 * 10**9)
    assert refusal(tmp_path) == f"CIFAR-10: {file}: {said}"


def test_a_label_that_cannot_be_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", 10, binary=True)
    file = next(tmp_path.rglob("data_batch_2.bin"))
    content = bytearray(file.read_bytes())
    content[0] = 77
    file.write_bytes(content)
    assert "data_batch_2.bin is damaged (a label 77, where there are 10 classes)" in refusal(
        tmp_path
    )


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", 10)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    file = tmp_path / PUBLISHED["cifar10"][0] / "data_batch_1"
    file.write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    assert "data_batch_1 is damaged" in refusal(tmp_path)
    assert not (tmp_path / "touched").exists()


def test_a_crop_is_a_part_of_the_framed_image() -> None:
    images = torch.randint(1, 255, (5, 3, 6, 6), dtype=torch.uint8)
    down, right = torch.tensor([0, 2, 4, 1, 3]), torch.tensor([4, 2, 0, 3, 3])
    flip = torch.tensor([False, False, True, True, False])
    found = cropped(images, down, right, flip, pad=2)
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i in range(5):
        part = framed[i, :, down[i] : down[i] + 6, right[i] : right[i] + 6]
        assert torch.equal(found[i], part.flip(2) if flip[i] else part)
    assert torch.equal(found[1], images[1])  # the middle, unflipped


def test_augmentation_varies_with_the_step_and_can_be_switched_off() -> None:
    spec = synthetic_images(model="resnet8", size=8, samples=16, test_samples=4)
    task, plain = (
        synthetic_images(**{**vars(spec), "augment": on}).build(CONTEXT) for on in (True, False)
    )
    stored = plain.samples._data["train"][0].float().sub(127.5).div(63.75)
    for t in range(3):
        for varied, same in zip(task.batch([0, 1], t)[0], plain.batch([0, 1], t)[0], strict=True):
            assert varied.shape == same.shape
            assert not torch.equal(varied, same)
            assert all((stored - image).abs().flatten(1).amax(1).min() < 1e-5 for image in same)


def test_a_repeated_set_has_its_nominal_size() -> None:
    spec = synthetic_images(model="resnet8", size=8, samples=1000, test_samples=30, distinct=16)
    task = spec.build(CONTEXT)
    assert task.splits == {"train": 1000, "test": 30}
    assert task.partition.samples == 1000 and len(task.samples._data["train"][1]) == 16
    assert task.evaluate(task.x[0], "test", range(30), task.buffers[0])[2] == 30


def noisy_labels(p: float, t: int) -> torch.Tensor:
    spec = synthetic_images(
        model="resnet8", size=8, samples=4000, test_samples=4, label_noise=p, augment=False
    )
    return spec.build(TaskContext(workers=2, local_workers=(0, 1), batch=1000)).batch([0, 1], t)[1]


def test_label_noise_is_fresh_at_every_step_and_replayable() -> None:
    clean, noisy, again, later = (noisy_labels(*a) for a in ((0, 0), (0.2, 0), (0.2, 0), (0.2, 2)))
    changed = clean != noisy
    assert torch.equal(noisy, again)
    assert 0.17 < changed.double().mean() < 0.23  # never to the same class
    assert not torch.equal(changed[0], changed[1])
    assert noisy.min() >= 0 and noisy.max() < 10
    # The same samples come again two epochs later (4000 samples, 2000 a step), in another order.
    assert not torch.equal(changed, noisy_labels(0, 2) != later)


def test_mixup_blends_pairs_of_images_and_their_labels_alike() -> None:
    options: dict[str, Any] = {"model": "resnet8", "size": 8, "samples": 64, "test_samples": 4}
    context = TaskContext(workers=2, local_workers=(0, 1), batch=16)
    plain, mixing = (
        synthetic_images(**options, augment=False, mixup=alpha).build(context)
        for alpha in (0.0, 0.4)
    )
    for t in range(3):
        (x, y), (blended, soft) = plain.batch([0, 1], t), mixing.batch([0, 1], t)
        assert soft.shape == (2, 16, 10)
        torch.testing.assert_close(soft.sum(-1), torch.ones(2, 16))
        for r in range(2):  # the labels tell with whom and how much: so must the images
            hot = torch.nn.functional.one_hot(y[r], 10).float()
            weights = [float(v) for v in soft[r].max(-1).values if v < 0.999]
            assert weights, "somebody was blended with another class"
            own = float(soft[r][torch.arange(16), y[r]].min())
            found = [
                any(
                    torch.allclose(own * x[r, i] + (1 - own) * x[r, j], blended[r, i], atol=1e-5)
                    and torch.allclose(own * hot[i] + (1 - own) * hot[j], soft[r, i], atol=1e-5)
                    for j in range(16)
                )
                for i in range(16)
            ]
            assert all(found)
        assert torch.equal(mixing.batch([1], t)[0][0], blended[1])  # whoever computes worker 1
    losses, _ = mixing.loss_and_grad(mixing.x, mixing.batch([0, 1], 0))
    assert losses.isfinite().all()


def test_label_smoothing_is_of_training_only() -> None:
    options: dict[str, Any] = {"model": "resnet8", "size": 8, "samples": 32, "test_samples": 8}
    hard, soft = (
        synthetic_images(**options, norm="group", label_smoothing=s).build(CONTEXT)
        for s in (0.0, 0.3)
    )
    x = hard.init(0)
    hard.x[:], soft.x[:] = x, x
    batch = hard.batch([0, 1], 0)
    inputs, labels = batch[0][0], batch[1][0]
    logits = hard._point.eval()(inputs)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert soft.loss_and_grad(soft.x, batch)[0][0].item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert soft.loss(x, (inputs, labels)).item() == pytest.approx(expected.item(), rel=1e-5)
    evaluated = (task.evaluate(x, "test", range(8), task.buffers[0]) for task in (hard, soft))
    assert torch.equal(*evaluated)


@pytest.mark.parametrize("option", ["label_noise", "label_smoothing"])
def test_fractions_are_checked(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--task.{option.replace('_', '-')} 1.5"):
        synthetic_images(model="resnet8", size=8, **{option: 1.5}).build(CONTEXT)  # type: ignore[arg-type]


def test_a_negative_mixup_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--task.mixup -1"):
        synthetic_images(model="resnet8", size=8, mixup=-1.0).build(CONTEXT)
