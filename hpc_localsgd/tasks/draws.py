"""Random numbers that a model draws in training (dropout): one stream for each worker.

torch's layers draw from the generator of the process, in whoever's forward pass. Where several
workers share a process, each one's stream is put there before its pass and taken back after it: so
a worker draws the same wherever it lives. A process of one worker draws from its own generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def seed_of(seed: int, worker: int) -> int:
    """Return the seed of a worker's stream, of a run's seed."""
    return (seed * 1_000_003 + worker) % 2**63


class Draws:
    """The streams of the R workers of a process, on the CPU and, if they live there, on a GPU."""

    def __init__(self, seed: int, workers: Sequence[int], device: torch.device) -> None:
        """Begin a stream for each worker; a lone one uses the generator of the process as it is.

        Args:
            seed: Of the run.
            workers: Those living here, [R].
            device: Where they compute.
        """
        self._generators = {"draws": torch.default_generator}
        if device.type == "cuda":
            torch.cuda.init()
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators["draws_gpu"] = torch.cuda.default_generators[index]
        self._alone = len(workers) == 1
        self._rows = {
            name: torch.stack([_begun(generator, seed_of(seed, k)) for k in workers])
            for name, generator in self._generators.items()
        }

    @contextmanager
    def of(self, r: int) -> Iterator[None]:
        """Let the body draw from the stream of row r."""
        if self._alone:
            yield
            return
        for name, generator in self._generators.items():
            # A copy: torch reads from where the storage of a tensor begins.
            generator.set_state(self._rows[name][r].clone())
        yield
        for name, generator in self._generators.items():
            self._rows[name][r] = generator.get_state()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the generators of the process as they are, whatever workers draw in the body."""
        before = [] if self._alone else self.now()
        try:
            yield
        finally:
            for generator, state in zip(self._generators.values(), before, strict=False):
                generator.set_state(state)

    def now(self) -> list[torch.Tensor]:
        """Return the states of the process: they change when something is drawn."""
        return [generator.get_state() for generator in self._generators.values()]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return where the streams are, a row [R, bytes] for each worker."""
        if self._alone:
            return {name: g.get_state()[None] for name, g in self._generators.items()}
        return dict(self._rows)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the streams; those that were not saved, on another device say, stay as they are.

        Raises:
            RuntimeError: A row is not the state of a generator.
        """
        for name, generator in self._generators.items():
            if name not in state:
                continue
            into = generator if self._alone else torch.Generator(generator.device)  # to try it
            for row in state[name].cpu():
                into.set_state(row.clone())
            self._rows[name].copy_(state[name])


def _begun(like: torch.Generator, seed: int) -> torch.Tensor:
    return torch.Generator(like.device).manual_seed(seed).get_state()
