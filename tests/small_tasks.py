"""Options that make every task of the folder small, and files in the true formats to read."""

from __future__ import annotations

import atexit
import gzip
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch"),
    "cifar100": ("cifar-100-python", ["train"], "test"),
}


def small_options() -> dict[str, dict[str, Any]]:
    """Task -> options with which it is small enough for tests; they are not varied."""
    tiny = {"model": "resnet8", "groups": 4, "ghost": 3}
    return {
        "text": {"length": 12, "width": 16, "layers": 1, "vocabulary": 300},
        "synthetic_images": {**tiny, "size": 8, "samples": 96, "test_samples": 40},
        "cifar10": {"model": "cnn4", "norm": "batch", "data": str(files("cifar10"))},
        "cifar100": {"model": "cnn4", "groups": 2, "norm": "group", "data": str(files("cifar100"))},
        "idx_images": {**tiny, "norm": "batch", "data": str(files("idx")), "prefix": "small-"},
        **{
            name: {"model": "cnn4", "groups": 2, "norm": "group", "data": str(files("mnist"))}
            for name in ("mnist", "kmnist", "fashion_mnist")
        },
        "imagenet": {
            **tiny,
            "norm": "batch",
            "data": str(files("imagenet")),
            "size": 16,
            "classes": 4,
            "loaders": 0,
        },
    }


@cache
def files(task: str) -> Path:
    """A folder with small files of the data set of a task, until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{task}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write: dict[str, Callable[[Path], None]] = {
        "cifar10": lambda to: write_cifar(to, "cifar10", classes=10),
        "cifar100": lambda to: write_cifar(to, "cifar100", classes=100),
        "imagenet": write_folder,
        "idx": lambda to: write_idx(to, prefix="small-"),
        "mnist": lambda to: write_idx(to, ending=".gz"),
    }
    write[task](folder)
    return folder


def easy_images(
    n: int, size: int, classes: int, seed: int = 0, kinds: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Noise upon a colour that depends on the label: uint8 [n, 3, size, size] and labels [n]."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % min(kinds, classes)
    colours = np.random.default_rng(1).integers(0, 200, (classes, 3, 1, 1), dtype=np.uint8)
    noise = draw.integers(0, 56, (n, 3, size, size), dtype=np.uint8)
    return colours[labels] + noise, labels


def write_cifar(folder: Path, task: str, classes: int, binary: bool = False, n: int = 10) -> None:
    """Files as they are published, with n images each (40 in a test file)."""
    inside, train, test = PUBLISHED[task]
    fine = task == "cifar100"
    inside = inside.replace("-python", "-binary").replace("-py", "-bin") if binary else inside
    (folder / inside).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate([*train, test]):
        count = 40 if name in (test, "train") else n
        images, labels = easy_images(count, 32, classes, seed)
        path = folder / inside / name
        if binary:
            columns = [labels[:, None] // 5, labels[:, None]] if fine else [labels[:, None]]
            rows = np.concatenate([*columns, images.reshape(count, -1)], axis=1)
            rows.astype(np.uint8).tofile(path.with_suffix(".bin"))
            continue
        content = {
            b"data": images.reshape(count, -1),
            b"fine_labels" if fine else b"labels": labels.tolist(),
            b"filenames": [b"x.png"] * count,
        }
        path.write_bytes(pickle.dumps(content, protocol=2))


def idx(numbers: np.ndarray) -> bytes:
    """Bytes in the IDX format."""
    header = bytes([0, 0, 8, numbers.ndim]) + np.array(numbers.shape, dtype=">u4").tobytes()
    return header + numbers.astype(np.uint8).tobytes()


def write_idx(
    folder: Path, train: int = 40, test: int = 20, size: int = 8, prefix: str = "", ending: str = ""
) -> None:
    """Grey images of four classes in four files, as MNIST is published."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate({"train": train, "t10k": test}.items()):
        images, labels = easy_images(n, size, 4, seed)
        for name, numbers in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
            content = idx(numbers)
            path = folder / f"{prefix}{split}-{name}-ubyte{ending}"
            path.write_bytes(gzip.compress(content) if ending else content)


def write_folder(folder: Path, train: int = 40, val: int = 20, size: int = 20) -> None:
    """JPEG files of four classes in the form of ImageNet."""
    from PIL import Image

    for seed, (split, n) in enumerate({"train": train, "val": val}.items()):
        for i, (pixels, label) in enumerate(zip(*easy_images(n, size, 4, seed), strict=True)):
            path = folder / split / f"n{label:08d}" / f"image_{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path, quality=95)
