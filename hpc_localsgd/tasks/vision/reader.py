"""Reads batches in other processes, ahead of time: torch's DataLoader, told what comes next.

The processes come from a fork server: a rank is never forked, which after MPI has begun would be
undefined. What a batch holds depends on the request alone, never on the processes.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hpc_localsgd.errors import DataError

FORK_SERVER = "hpc_localsgd.tasks.vision.fork_server"
TIMEOUT_S = 600.0  # for one batch; a file system that hangs must not hang a job silently
LOOK_AFTER_S = 5.0  # without a batch, check that no loader process has ended: nothing else would
_TIMED_OUT = "DataLoader timed out"
# To stop, of which only the rank is to hear
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PER_PROCESS = 2  # requests a process has before it, so that it never waits for the rank


@dataclass(frozen=True)
class BatchRequest:
    """A batch to be read.

    Attributes:
        split: "train" or "test".
        rows: The samples.
        seeds: What the random numbers of the augmentation depend on, beside the place in the
            batch: (seed, worker, t). None for images as they are.
    """

    split: str
    rows: np.ndarray
    seeds: tuple[int, ...] | None = None

    @property
    def key(self) -> Hashable:
        """Key of the request; the rows of a training batch follow from its seeds."""
        return self.seeds or (self.split, self.rows.tobytes())


@dataclass
class Result:
    """A batch that was read.

    Attributes:
        key: Of its request.
        images: uint8 [b, 3, size, size].
        labels: int64 [b]; -1 where an image was left out.
        faults: What was wrong with images that could not be read.
    """

    key: Hashable
    images: torch.Tensor
    labels: torch.Tensor
    faults: list[str]

    def pin_memory(self) -> Result:
        """Pin the memory; called by the DataLoader for a batch that is sent to a GPU."""
        return Result(self.key, self.images.pin_memory(), self.labels.pin_memory(), self.faults)


class Reader:
    """Reader of batches on request, which reads ahead while one is used."""

    def __init__(
        self,
        read: Callable[[BatchRequest], Result],
        processes: int,
        pin: bool,
        first: str = FORK_SERVER,
    ) -> None:
        """Prepare to read; processes are started with the first request.

        Args:
            read: Reads a batch; is sent to the processes.
            processes: How many; 0 reads in this one, when asked.
            pin: Copy batches into pinned memory.
            first: Module that is imported once, before the processes are forked.
        """
        self._read, self._processes, self._pin, self._first = read, processes, pin, first
        self._flying = PER_PROCESS * processes
        self._kept: dict[Hashable, Result] = {}
        self._plan = _Plan(self._kept)
        self._running: list[Iterator[Result | None]] = []
        # Before multiprocessing's own clean-up at exit, which would wait for ever.
        weakref.finalize(self, _end, self._running)

    def get(self, request: BatchRequest, following: Iterable[BatchRequest] = ()) -> Result:
        """Return a batch, given a hint of what will be asked for next.

        Raises:
            DataError: A loader process has ended, or nothing came for `TIMEOUT_S`.
        """
        if not self._processes:
            return self._read(request)
        if request.key not in self._kept:
            self._plan.aim(chain([request], following))
            self._pull_until(request.key)
        return self._kept.pop(request.key)

    def _pull_until(self, wanted: Hashable) -> None:
        until = time.monotonic() + TIMEOUT_S
        while wanted not in self._kept:
            try:
                result = next(self._stream())
            except RuntimeError as error:
                if _TIMED_OUT in str(error) and time.monotonic() < until:
                    continue  # all loaders live
                if "DataLoader" not in str(error):
                    raise
                raise DataError(
                    f"reading images: {_reason(error)} (--task.loaders 0 does without)"
                ) from error
            if result is not None:
                self._plan.flying.discard(result.key)
                self._kept[result.key] = result
        while len(self._kept) > 4 * self._flying:  # expected, but never asked for
            del self._kept[next(iter(self._kept))]

    def _stream(self) -> Iterator[Result | None]:
        if not self._running:
            with _left_to_the_rank():
                self._running.append(iter(self._loader()))
        return self._running[0]

    def _loader(self) -> DataLoader[Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self._first])
        return DataLoader(
            _Remote(self._read),
            batch_size=None,
            sampler=self._plan,
            num_workers=self._processes,
            multiprocessing_context=context,
            prefetch_factor=PER_PROCESS,
            pin_memory=self._pin,
            # The loaders are the fork server's children, so that no SIGCHLD tells the rank of a
            # death, and the DataLoader looks for one only when it has waited for so long.
            timeout=LOOK_AFTER_S,
            generator=torch.Generator(),  # or it would draw from the run's random numbers
            worker_init_fn=_live_with_the_rank,
        )


def _reason(error: RuntimeError) -> str:
    """Return the DataLoader's error, with the whole wait instead of its last part."""
    return f"nothing came for {TIMEOUT_S:g} s" if _TIMED_OUT in str(error) else str(error)


class _Plan(Sampler[Any]):
    """Requests that the DataLoader gives its processes next; may change while it runs."""

    def __init__(self, kept: dict[Hashable, Result]) -> None:
        self._kept = kept
        self._wanted: Iterator[BatchRequest] = iter(())
        self.flying: set[Hashable] = set()

    def aim(self, requests: Iterable[BatchRequest]) -> None:
        """Set the requests from now on."""
        self._wanted = iter(requests)

    def __iter__(self) -> Iterator[BatchRequest | None]:
        return self

    def __next__(self) -> BatchRequest | None:
        for request in self._wanted:
            if request.key not in self.flying and request.key not in self._kept:
                self.flying.add(request.key)
                return request
        return None  # nothing to do: comes back at once


class _Remote(Dataset[Any]):
    """State of a loader process."""

    def __init__(self, read: Callable[[BatchRequest], Result]) -> None:
        self._read = read

    def __getitem__(self, request: BatchRequest | None) -> Result | None:
        return None if request is None else self._read(request)


def _end(running: list[Any]) -> None:
    """End the processes: a traceback may still hold the iterator, so releasing it is not enough."""
    while running:
        running.pop()._shutdown_workers()


def _live_with_the_rank(process: int) -> None:
    """Set up a loader process, which outlives signals but not its rank.

    The DataLoader watches a loader's parent, which is the fork server, and the fork server ends
    when no process holds the other end of its pipe, as its loaders do: when the rank ends without
    clean-up (a request to stop, a kill, an abort) both would wait for each other for ever.
    """
    del process
    leave_signals_to_the_rank()  # again: the DataLoader has set handlers of its own in it
    rank = multiprocessing.parent_process()
    assert rank is not None  # a loader is always started by a rank
    threading.Thread(target=_end_with, args=(rank.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its rank has ended, however: the kernel closes the rank's pipe."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _left_to_the_rank() -> Iterator[None]:
    """Start processes with requests to stop blocked, since they cannot ignore them from the start.

    A fork server that is still importing torch would end by one, and so would multiprocessing's
    tracker, or a loader to which the DataLoader has given its handlers and that has not come to
    `_live_with_the_rank`. The rank, asked to stop, would fail. It is told after the start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        resource_tracker.ensure_running()  # whose start unblocks two of them
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_rank() -> None:
    """Ignore requests to stop: see `fork_server`."""
    for name in REQUESTS:
        signal.signal(name, signal.SIG_IGN)
