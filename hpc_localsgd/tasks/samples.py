"""Where the samples of a classification come from: arrays in memory, or something else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from hpc_localsgd.tasks.base import Batch, TaskContext
from hpc_localsgd.tasks.partition import Partition

Places: TypeAlias = range | np.ndarray  # rows of a split, in any order

CHUNK = 1024  # samples evaluated at a time: bounds the memory, not the result
CHUNK_NUMBERS = 1 << 24  # and numbers: large images come in fewer


class Samples(ABC):
    """Labelled samples, at least of a split "train".

    Attributes:
        splits: Samples of each split.
        classes: Labels are 0..classes-1.
        partition: Which worker uses which training samples.
        skipped: How often a damaged sample was left out of a batch that was trained on, for each
            worker here; empty where that cannot happen.
    """

    splits: Mapping[str, int]
    classes: int
    partition: Partition
    skipped: list[int]

    @abstractmethod
    def training(self, workers: Sequence[int], t: int) -> Batch:
        """Return inputs [R, B, ...] and labels [R, B] of workers at step t, as they are trained on.

        A function of (seed, worker, t) only, augmentation included.
        """

    def trained(self) -> None:
        """Note that the batches asked for last are trained on, and not only measured."""
        return

    @abstractmethod
    def clean(self, split: str, rows: Places) -> Iterator[Batch]:
        """Yield rows of a split in chunks, not augmented: inputs [b, ...] and labels [b]."""


class Arrays(Samples):
    """Samples held on the device, used as they are."""

    def __init__(self, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], context: TaskContext):
        """Take inputs [N, ...] and integer labels [N] or [N, T] of each split to the device.

        Integer inputs (tokens) stay integers.
        """
        self._context, self.skipped = context, []
        self._data = {name: self._to_device(*split) for name, split in splits.items()}
        self.splits = {name: len(labels) for name, (_, labels) in self._data.items()}
        self.classes = 1 + max(int(labels.max()) for _, labels in self._data.values())
        self.partition = context.partition(self.splits["train"], splits["train"][1])

    def _to_device(
        self, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._context.device
        dtype = torch.int64 if inputs.dtype.kind in "iu" else self._context.dtype
        return (
            torch.as_tensor(inputs).to(device=device, dtype=dtype),
            torch.as_tensor(labels).to(device=device, dtype=torch.int64),
        )

    def training(self, workers: Sequence[int], t: int) -> Batch:
        """Return a training batch, see `Samples.training`."""
        index = rows_of(self.partition, workers, t).to(self._context.device, non_blocking=True)
        inputs, labels = self._data["train"]
        return inputs[index], labels[index]

    def clean(self, split: str, rows: Places) -> Iterator[Batch]:
        """Yield chunks of a split, see `Samples.clean`."""
        inputs, labels = self._data[split]
        logits = labels[0].numel() * self.classes
        for part in chunks(rows, max(inputs[0].numel(), logits)):
            these = _index(part)
            yield inputs[these], labels[these]


def rows_of(partition: Partition, workers: Sequence[int], t: int) -> torch.Tensor:
    """Return the training samples of some workers at step t, int64 [R, B]."""
    return torch.from_numpy(np.stack([partition.indices(worker, t) for worker in workers]))


def _index(rows: Places) -> slice | torch.Tensor:
    """Return rows as an index: no copy of consecutive ones."""
    if isinstance(rows, range):
        return slice(rows.start, rows.stop, rows.step)
    return torch.from_numpy(rows.copy())  # the order of an epoch may not be written to


def chunks(rows: Places, numbers: int) -> Iterator[Places]:
    """Yield consecutive parts of some rows, of so many numbers each, small enough to evaluate."""
    length = min(CHUNK, max(16, CHUNK_NUMBERS // max(1, numbers)))
    for begin in range(0, len(rows), length):
        yield rows[begin : begin + length]


def normalised(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return images of bytes [N, C, h, w] as numbers of the mean's dtype: (images - mean) / std."""
    return images.to(mean.dtype).sub_(mean).div_(std)
