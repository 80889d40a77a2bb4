"""Small images, all of them on the device as bytes; cropped and flipped as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from hpc_localsgd.tasks.base import Batch, TaskContext
from hpc_localsgd.tasks.samples import Places, Samples, chunks, normalised, rows_of

AUGMENT = 5  # a stream of random numbers of its own, beside those of `tasks/partition.py`
Images8 = tuple[np.ndarray, np.ndarray]  # images uint8 [N, C, size, size], labels [N]


class InMemory(Samples):
    """Images held on the device in one byte a number.

    The augmentation of the CIFAR papers (He et al. 2016): a random crop out of the image with a
    black frame, and a flip with probability 1/2; a function of (seed, worker, t).
    """

    def __init__(
        self,
        splits: Mapping[str, Images8],
        classes: int,
        context: TaskContext,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int | None,
        repeated: Mapping[str, int] | None = None,
        mirrored: bool = True,
    ) -> None:
        """Take the images to the device.

        Args:
            splits: Images and labels of each split.
            classes: Labels are 0..classes-1.
            context: Batch, seed, device and dtype of the run.
            mean: Of each channel, where pixels are in 0..1.
            std: Likewise.
            pad: Width of the black frame; None for no augmentation.
            repeated: Nominal length of a split that has fewer images, which are then repeated.
            mirrored: Whether the augmentation flips images, too.
        """
        self._context, self._pad, self.classes, self.skipped = context, pad, classes, []
        self._mirrored = mirrored
        device = context.device
        self._data = {
            name: (
                torch.as_tensor(images).to(device),
                torch.as_tensor(labels).to(device, torch.int64),
            )
            for name, (images, labels) in splits.items()
        }
        lengths = {name: len(labels) for name, (_, labels) in self._data.items()}
        self.splits = lengths | dict(repeated or {})
        self.partition = context.partition(
            self.splits["train"], np.resize(splits["train"][1], self.splits["train"])
        )
        shape = (1, len(mean), 1, 1)
        self._mean = 255 * torch.tensor(mean, dtype=context.dtype, device=device).view(shape)
        self._std = 255 * torch.tensor(std, dtype=context.dtype, device=device).view(shape)

    def training(self, workers: Sequence[int], t: int) -> Batch:
        """Return a training batch, see `Samples.training`."""
        images, labels = self._data["train"]
        rows = rows_of(self.partition, workers, t) % len(labels)
        index = rows.to(self._context.device, non_blocking=True)
        chosen = images[index.flatten()]
        if self._pad is not None:
            chosen = self._augmented(chosen, workers, t, self._pad)
        return normalised(chosen, self._mean, self._std).unflatten(0, index.shape), labels[index]

    def clean(self, split: str, rows: Places) -> Iterator[Batch]:
        """Yield chunks of a split, see `Samples.clean`."""
        images, labels = self._data[split]
        for part in chunks(rows, images[0].numel()):
            index = torch.as_tensor(np.asarray(part) % len(labels), device=labels.device)
            yield normalised(images[index], self._mean, self._std), labels[index]

    def _augmented(
        self, images: torch.Tensor, workers: Sequence[int], t: int, pad: int
    ) -> torch.Tensor:
        draws = []
        for worker in workers:
            draw = np.random.default_rng([AUGMENT, self._context.seed, worker, t])
            draws.append(draw.integers(0, [[2 * pad + 1], [2 * pad + 1], [2]], (3, self._batch)))
        down, right, flip = torch.from_numpy(np.concatenate(draws, axis=1)).to(
            images.device, non_blocking=True
        )
        return cropped(images, down, right, flip.bool() & self._mirrored, pad)

    @property
    def _batch(self) -> int:
        return self.partition.batch


def cropped(
    images: torch.Tensor, down: torch.Tensor, right: torch.Tensor, flip: torch.Tensor, pad: int
) -> torch.Tensor:
    """Crop images [N, C, h, w] out of a frame of zeros around them, some of them mirrored.

    Args:
        images: Of any dtype.
        down: int64 [N], 0..2 pad: the first row of the cut-out.
        right: int64 [N], first column of each cut.
        flip: bool [N].
        pad: Width of the frame.
    """
    N, C, h, w = images.shape
    framed = torch.nn.functional.pad(images, (pad,) * 4)
    along = torch.arange(w, device=images.device)
    rows = down[:, None] + torch.arange(h, device=images.device)
    columns = right[:, None] + torch.where(flip[:, None], w - 1 - along, along)
    places = rows[:, :, None] * framed.shape[3] + columns[:, None, :]  # in a frame laid flat
    flat = framed.flatten(2).gather(2, places.view(N, 1, h * w).expand(N, C, h * w))
    return flat.view(N, C, h, w)
