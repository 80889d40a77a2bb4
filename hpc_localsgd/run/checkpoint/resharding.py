"""The place of some workers, read from the shards of other ranks: a run resumed on other machines.

K belongs to the algorithm, ranks to the machine. A shard holds rows, one for each worker of its
rank, and what all ranks hold alike; which is which follows from where a tensor is and from its
shape:

    x, buffers, task, record    every tensor but a single number has a row for each worker; those of
                                the task have what a worker draws (dropout)
    sync, optimizer             every tensor of two dimensions or more; vectors [P] and numbers
                                are equal on all ranks
    rng, numbers of the task    of the process that wrote it, and not moved

Each rank opens the shards that its workers are in, and no other. In a long round they may have
taken unequal numbers of local steps: `catching_up` has the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import shard_name

if TYPE_CHECKING:
    from hpc_localsgd.worlds.placement import Placement

LEAST_DIMENSIONS = {"x": 1, "buffers": 1, "task": 1, "record": 1, "sync": 2, "optimizer": 2}
AT_ONCE = "by --replicas vmap all workers of a rank draw at once"
NO_STREAMS = "the checkpoint has no stream for each worker, as those of earlier versions"
TAKEN = "taken"  # local steps of each row, where they differ


class OtherWorkers(RuntimeError):
    """The shards are not of so many workers."""


def of_workers(workers: range, folder: Path, then: Placement) -> list[dict[str, Any]]:
    """Return the states of the shards that hold some workers, cut to their rows.

    Args:
        workers: Those of this rank.
        folder: A complete checkpoint of `then.n` ranks.
        then: Where all workers were placed.

    Raises:
        DamagedShard, OSError: As `shard.read`.
        OtherWorkers: A shard has another number of rows.
    """
    parts = []
    for rank in range(then.rank_of(workers[0]), then.rank_of(workers[-1]) + 1):
        state, had = shard.read(folder / shard_name(rank, then.n)), then.workers_of(rank)
        if len(state["x"]) != len(had) or state.get("workers", then.K) != then.K:
            raise OtherWorkers
        wanted = slice(max(0, workers.start - had.start), min(len(had), workers.stop - had.start))
        if wanted != slice(0, len(had)):
            cut = {name: _cut(state[name], wanted, len(had), d) for name, d in _parts(state)}
            state = {**state, **cut}  # one shard at a time is whole in memory
        parts.append(state)
    return parts


def joined(parts: Sequence[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Return one state of the rows of several; what they share is that of the hindmost.

    Args:
        parts: From `of_workers`.
        device: Of this process, whose random numbers go on as they are.

    Raises:
        DamagedShard: They do not fit together.
    """
    steps = [part["place"]["t"] for part in parts]
    hindmost = parts[steps.index(min(steps))]
    join = _Join([len(part["x"]) for part in parts], steps)
    for name in ("after", "steps", "schedule"):
        join.same([part.get(name) for part in parts], name)
    foremost = parts[steps.index(max(steps))]["place"]
    join.same([_in_round_of(foremost, part["place"]) for part in parts], "place")
    state = {name: join([part[name] for part in parts], d, name) for name, d in _parts(parts[0])}
    groups = hindmost["optimizer"]["param_groups"]
    return {
        **hindmost,
        **state,
        "place": foremost,
        "task": {name: value for name, value in state["task"].items() if value.ndim},
        "optimizer": {"state": state["optimizer"], "param_groups": groups},
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        TAKEN: [t for t, m in zip(steps, join.rows, strict=True) for _ in range(m)],
    }


def _in_round_of(foremost: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    """Return a place but for its step; after an exchange, in the round that others have begun."""
    exchanged = place["t"] == place["end"] == foremost["begin"]
    return {**(foremost if exchanged else place), "t": 0}


def lost_draws(parts: Sequence[dict[str, Any]]) -> str:
    """Say why what was drawn, for dropout say, is not of one worker; "" where all of it is."""
    for part in parts:
        at_once = bool(part["task"].get("vmapped", False))
        if ("draws" not in part["task"] or at_once) and has_drawn(part["rng"]):
            return AT_ONCE if at_once else NO_STREAMS
    return ""


def has_drawn(rng: torch.Tensor) -> bool:
    """Return whether a generator, by its state, has drawn since it was seeded."""
    kept = torch.Generator()
    kept.set_state(rng)
    fresh = torch.Generator().manual_seed(kept.initial_seed())
    return not torch.equal(fresh.get_state(), rng)


def _parts(state: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, d) for name, d in LEAST_DIMENSIONS.items() if name in state]


def _cut(value: Any, wanted: slice, R: int, least: int) -> Any:
    """Return a value with the wanted rows of its tensors that have R."""
    if isinstance(value, dict):
        return {key: _cut(each, wanted, R, least) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cut(each, wanted, R, least) for each in value)
    if isinstance(value, torch.Tensor) and value.ndim >= least and len(value) == R:
        return value[wanted].clone()
    return value


class _Join:
    """Puts values of several shards together, row under row.

    Attributes:
        rows: Of each shard.
    """

    def __init__(self, rows: list[int], steps: list[int]) -> None:
        self.rows, self._first = rows, steps.index(min(steps))
        self._together = len(set(steps)) == 1

    def __call__(self, values: Sequence[Any], least: int, name: str) -> Any:
        first = values[self._first]
        if name == "optimizer":  # its groups say how a step is computed there
            return self([value["state"] for value in values], least, "optimizer.state")
        if isinstance(first, dict):
            self.same([sorted(map(str, value)) for value in values], name)
            return {k: self([v[k] for v in values], least, f"{name}.{k}") for k in first}
        if isinstance(first, list | tuple):
            self.same([len(value) for value in values], name)
            return type(first)(self(v, least, name) for v in zip(*values, strict=True))
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if not tensors or tensors[0].ndim < least or not len(tensors[0]):
            if self._together and not tensors:
                self.same(values, name)
            return first
        if len(tensors) < len(values) and not self._together:  # before the first step of a round
            like = tensors[0]
            pairs = zip(values, self.rows, strict=True)
            values = [like.new_zeros((m, *like.shape[1:])) if v is None else v for v, m in pairs]
        if [len(value) for value in values] != self.rows:
            raise shard.DamagedShard(f"{name} has not a row for each worker")
        return torch.cat(list(values))

    def same(self, values: Sequence[Any], name: str) -> None:
        """Check that all shards hold the same, as those of one run do.

        Raises:
            shard.DamagedShard: They do not.
        """
        if other := [value for value in values if value != values[0]]:
            raise shard.DamagedShard(
                f"{name} is {values[0]!r:.60} in one shard, and {other[0]!r:.60} in another"
            )
