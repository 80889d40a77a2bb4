"""From encoded images to batches of bytes: decode, cut out, flip. Runs in the loader processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.torchvision_import import import_torchvision
from hpc_localsgd.tasks.vision.image_store import ImageStore
from hpc_localsgd.tasks.vision.in_memory import AUGMENT
from hpc_localsgd.tasks.vision.reader import BatchRequest, Result

RESIZED = 8 / 7  # the shorter side before the middle is cut out: 256 pixels for 224
MOST_SKIPS = 100  # in a row


class Decoder:
    """Decoder of batches of a store, with torchvision's v2 transforms.

    Training images: a random part resized to size x size (Szegedy et al. 2015), perhaps mirrored;
    with `rand_augment`, two random operations of that strength (Cubuk et al. 2020). The random
    numbers of an image are seeded by (seed, worker, t) and its place in the batch. Other images:
    the middle, after resizing the shorter side to 8/7 of size.
    """

    def __init__(
        self, store: ImageStore, size: int, augment: bool, rand_augment: int, skip_corrupt: bool
    ) -> None:
        self.store, self.size = store, size
        self.augment, self.rand_augment, self.skip_corrupt = augment, rand_augment, skip_corrupt

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_varied", "_plain")}

    def __call__(self, request: BatchRequest) -> Result:
        """Return the images of a request."""
        images = torch.zeros(len(request.rows), 3, self.size, self.size, dtype=torch.uint8)
        labels = torch.full((len(request.rows),), -1)
        faults: list[str] = []
        with torch.random.fork_rng(devices=[]):  # this may be a rank's own process
            for place, row in enumerate(request.rows):
                found = self._found(request, int(row), place, faults)
                if found is not None:
                    images[place], labels[place] = found
        return Result(request.key, images, labels, faults)

    def _found(
        self, request: BatchRequest, row: int, place: int, faults: list[str]
    ) -> tuple[torch.Tensor, int] | None:
        """Return an image and its label; in training, the next readable one for a damaged one."""
        labels = self.store.labels[request.split]
        training = request.seeds is not None
        for i in (np.arange(row, row + MOST_SKIPS) % len(labels)).tolist():
            try:
                image = self.store.image(request.split, i)
            except DataError as error:
                faults.append(str(error))
                if not self.skip_corrupt or not training:
                    return None
                continue
            if not training:
                return self._plain(image), int(labels[i])
            words = np.random.SeedSequence([AUGMENT, *(request.seeds or ()), place])
            # The CPU's alone: torch.manual_seed would reseed the rank's GPU at every image.
            torch.default_generator.manual_seed(int(words.generate_state(1, np.uint64)[0]))
            return self._varied(image), int(labels[i])
        return None

    @cached_property
    def _varied(self) -> Callable[..., torch.Tensor]:
        import_torchvision()
        from torchvision.transforms import v2

        if not self.augment:
            return self._plain
        steps = [v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip()]
        if self.rand_augment:
            steps.append(v2.RandAugment(num_ops=2, magnitude=self.rand_augment))
        return v2.Compose([*steps, v2.PILToTensor()])

    @cached_property
    def _plain(self) -> Callable[..., torch.Tensor]:
        import_torchvision()
        from torchvision.transforms import v2

        resized = v2.Resize(round(self.size * RESIZED), antialias=True)
        return v2.Compose([resized, v2.CenterCrop(self.size), v2.PILToTensor()])
