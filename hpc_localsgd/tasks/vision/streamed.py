"""Images too many for memory: decoded by loader processes while the device computes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain, count

import numpy as np
import torch

from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.base import Batch, TaskContext
from hpc_localsgd.tasks.samples import Places, Samples, chunks, normalised
from hpc_localsgd.tasks.vision.decoding import Decoder
from hpc_localsgd.tasks.vision.reader import BatchRequest, Reader, Result

_LOG = logging.getLogger("hpc_localsgd")
FORK_SERVER_OF_IMAGES = "hpc_localsgd.tasks.vision.fork_server_of_images"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels


class Streamed(Samples):
    """Images of a store; the order is the partition's, so a run resumes in mid-epoch."""

    def __init__(self, decoder: Decoder, processes: int, context: TaskContext) -> None:
        """Prepare to read; start nothing yet.

        Args:
            decoder: Reads batches.
            processes: That decode, see `Reader`.
            context: Workers, batch, seed, device and dtype of the run.
        """
        self._decoder, self._context = decoder, context
        store = decoder.store
        self.classes = len(store.classes)
        self.splits = {split: len(labels) for split, labels in store.labels.items()}
        self.partition = context.partition(self.splits["train"], store.labels["train"])
        pin = context.device.type == "cuda"
        self._reader = Reader(decoder, processes, pin, FORK_SERVER_OF_IMAGES)
        self.skipped = [0] * len(context.local_workers) if decoder.skip_corrupt else []
        self._faults = [0] * len(self.skipped)  # of the batches asked for last
        self._named: set[str] = set()
        self._expected: Iterator[BatchRequest] = iter(())
        self._side = torch.cuda.Stream(context.device) if context.device.type == "cuda" else None
        shape = (1, 3, 1, 1)
        like = torch.empty(0, dtype=context.dtype, device=context.device)
        self._mean = 255 * like.new_tensor(MEAN).view(shape)
        self._std = 255 * like.new_tensor(STD).view(shape)

    def training(self, workers: Sequence[int], t: int) -> Batch:
        """Return a training batch, see `Samples.training`."""
        requests = self._from(workers, t)
        found = []
        self._faults = [0] * len(self.skipped)
        for worker in workers:
            request = next(requests)
            result = self._reader.get(request, self._from(workers, t, worker))
            found.append(self._checked(result, training=True))
            self._note(worker, len(result.faults))
        self._expected = self._from(workers, t + 1)
        images, labels = zip(*(self._to_device(result) for result in found), strict=True)
        return normalised(torch.stack(images), self._mean, self._std), torch.stack(labels)

    def trained(self) -> None:
        """Count skipped samples, see `Samples.trained`; a second pass over a batch adds none."""
        self.skipped = [n + new for n, new in zip(self.skipped, self._faults, strict=True)]
        self._faults = [0] * len(self.skipped)

    def clean(self, split: str, rows: Places) -> Iterator[Batch]:
        """Yield chunks of a split, see `Samples.clean`."""
        parts = list(chunks(rows, 3 * self._decoder.size**2))
        requests = [BatchRequest(split, np.array(part)) for part in parts]
        for i, request in enumerate(requests):
            following = chain(requests[i + 1 :], self._expected)
            result = self._checked(self._reader.get(request, following), training=False)
            images, labels = self._to_device(result)
            kept = labels >= 0
            yield normalised(images[kept], self._mean, self._std), labels[kept]

    def _from(
        self, workers: Sequence[int], t: int, worker: int | None = None
    ) -> Iterator[BatchRequest]:
        """Yield the training requests of these workers from step t on, or those after one's."""
        behind = worker is None
        for step in count(t):
            for k in workers:
                if behind:
                    rows = self.partition.indices(k, step)
                    yield BatchRequest("train", rows, (self._context.seed, k, step))
                behind = behind or k == worker

    def _checked(self, result: Result, training: bool) -> Result:
        """Return a result without faults, or with some that may be skipped; name each once."""
        if result.faults and not self._decoder.skip_corrupt:
            raise DataError(f"{result.faults[0]} (--task.skip-corrupt continues without)")
        if training and (result.labels < 0).any():
            raise DataError(f"{result.faults[-1]}: too many damaged images one after another")
        for fault in result.faults:
            if fault not in self._named:
                self._named.add(fault)
                _LOG.warning("skipped: %s", fault)
        return result

    def _note(self, worker: int, faults: int) -> None:
        """Note damaged samples in the batch of a worker, to be counted if it is trained on."""
        if self.skipped and worker in self._context.local_workers:
            self._faults[self._context.local_workers.index(worker)] += faults

    def _to_device(self, result: Result) -> Batch:
        """Return images uint8 [b, 3, size, size] and labels [b] on the device.

        Bytes travel, from pinned memory and on a stream of their own: the copy runs beside the step
        before, which the GPU is still computing while the host is here.
        """
        device = self._context.device
        if self._side is None:
            return result.images.to(device), result.labels.to(device)
        with torch.cuda.stream(self._side):
            images = result.images.to(device, non_blocking=True)
            labels = result.labels.to(device, non_blocking=True)
        now = torch.cuda.current_stream(device)
        now.wait_stream(self._side)
        for moved in (images, labels):
            moved.record_stream(now)
        return images, labels
