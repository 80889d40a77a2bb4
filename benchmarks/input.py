"""Images from class folders and from one packed file, cold and warm, side by side.

    python benchmarks/input.py

JPEG files of ImageNet's average size are made in a temporary folder and packed. *Reading* is the
bytes alone, in the shuffled order of training, one process; *batches* are decoded, cut out and
flipped, by loader processes. Cold: the files' pages are dropped from memory first (posix_fadvise;
directories and inodes stay, so that the folder is better off than on a node that never saw it).
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import write_report
from side_by_side import figures, table

from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.vision.decoding import Decoder
from hpc_localsgd.tasks.vision.hdf5_reader import Pack
from hpc_localsgd.tasks.vision.hdf5_writer import listed, pack
from hpc_localsgd.tasks.vision.image_store import Folder, ImageStore
from hpc_localsgd.tasks.vision.reader import PER_PROCESS
from hpc_localsgd.tasks.vision.streamed import Streamed

CLASSES, WIDTH, HEIGHT, BATCH = 20, 500, 375, 32
AGAINST = "folder"


def make_images(root: Path, n: int) -> None:
    """So many training images of about 110 kB in class folders, and one a class to validate."""
    draw = np.random.default_rng(0)
    fine = draw.normal(0, 14, (HEIGHT, WIDTH, 3))
    for i in range(n + CLASSES):
        split = "train" if i < n else "val"
        path = root / split / f"n{i % CLASSES:08d}" / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT))) + np.roll(fine, 7 * i, axis=1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=93)


def forget(paths: list[Path]) -> None:
    """Drop the pages of files from memory."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)  # only what is on disk can be dropped
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def reading(store: ImageStore, order: np.ndarray) -> Callable[[], object]:
    """Read the bytes of all images."""
    return lambda: [len(store.encoded("train", i)) for i in order]


def batches(store: ImageStore, loaders: int, count: int) -> Callable[[], float]:
    """Take batches without end, and yield the seconds of one image.

    Loaders work ahead while another contestant has its turn: what they have ready is taken first,
    and not timed.
    """
    decoder = Decoder(store, 224, augment=True, rand_augment=0, skip_corrupt=False)
    samples, steps = Streamed(decoder, loaders, TaskContext(batch=BATCH)), itertools.count()

    def take(n: int) -> None:
        for _ in range(n):
            samples.training([0], next(steps))

    def turn() -> float:
        take(1 + PER_PROCESS * loaders)
        return timed(lambda: take(count)) / count / BATCH

    return turn


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Make the images, time both forms in turn, and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=6, help="of a turn")
    parser.add_argument("--loaders", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", help="where to make the images (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root, file = Path(folder) / "images", Path(folder) / "images.h5"
        make_images(root, options.images)
        listing = listed(root)
        pack(listing, file)
        _report(options, {"folder": Folder(root), "packed": Pack(file)}, root, file)


def _report(
    options: argparse.Namespace, stores: dict[str, ImageStore], root: Path, file: Path
) -> None:
    order = np.random.default_rng(0).permutation(options.images)
    tree = sorted(root.rglob("*.JPEG"))
    cold_files = {"folder": tree, "packed": [file]}
    readers = {name: reading(store, order) for name, store in stores.items()}
    takers = {name: batches(s, options.loaders, options.batches) for name, s in stores.items()}
    kinds: dict[str, dict[str, list[float]]] = {}
    for r in range(1 + options.rounds):
        for name in stores if r % 2 else reversed(stores):
            forget(cold_files[name])
            seconds = {
                "reading, cold": timed(readers[name]) / options.images,
                "reading, warm": timed(readers[name]) / options.images,
                "batches": takers[name](),
            }
            for kind, value in seconds.items():
                if r:
                    kinds.setdefault(kind, {}).setdefault(name, []).append(value)
    size = sum(path.stat().st_size for path in tree) / len(tree)
    parts = [f"# Input: {options.images} images of {size / 1000:.0f} kB"]
    data = {}
    for kind, times in kinds.items():
        found = figures({name: times[name] for name in stores}, AGAINST)
        rates = ", ".join(f"{name} {1000 / f.ms:.0f}" for name, f in found.items())
        with_loaders = f", {options.loaders} loaders" if kind == "batches" else ""
        parts.append(
            f"## {kind.capitalize()}{with_loaders}\n\nImages per second: {rates}. Per image:\n\n"
            + table(found, AGAINST)
        )
        data[kind] = {name: asdict(f) | {"images_per_s": 1000 / f.ms} for name, f in found.items()}
    write_report("input", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
