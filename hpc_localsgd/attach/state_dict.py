"""The state of an attached run, saved and restored by the rank it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.attach.checksum import checksum, plain_sum
from hpc_localsgd.attach.storage import FlatGroup
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.attach.context import AttachContext
    from hpc_localsgd.attach.exchange import Exchange
    from hpc_localsgd.attach.rounds import AgreedRounds
    from hpc_localsgd.attach.warm_up import WarmUp


def saved(
    context: AttachContext, rounds: AgreedRounds, warm_up: WarmUp, exchange: Exchange
) -> dict[str, Any]:
    """Return what `Sync.state_dict` returns."""
    return {
        "place": asdict(rounds.place),
        "schedule": rounds.schedule.observed(),
        "rates": warm_up.saved(),
        "states": exchange.saved(),
        "checksum": checksum_of(exchange.saved()),
        "rank": context.grid.everyone.rank,
        "workers": context.world.K,
        "shards": context.grid.shards,
        "algorithm": repr(context.algorithm),
        "checksums": [group.fingerprint() for group in context.groups],
    }


def checksum_of(value: Any) -> int:
    """Return a checksum of the tensors in a state, in dicts of any depth, and of their names."""
    if isinstance(value, torch.Tensor):
        return checksum(value.contiguous()) % 2**52
    if isinstance(value, dict):
        named = sorted((str(key), checksum_of(each)) for key, each in value.items())
        return int.from_bytes(hashlib.sha256(repr(named).encode()).digest()[:6], "big")
    if isinstance(value, list):
        return checksum_of(dict(enumerate(value)))
    return 0


def check_saved(context: AttachContext, rounds: AgreedRounds, state: dict[str, Any]) -> None:
    """Check that a state belongs to this run, this rank and the model in memory.

    Raises:
        ConfigurationError: It does not.
    """
    grid, rank = context.grid, state["rank"]
    now = (context.world.K, repr(context.algorithm))
    then = (state["workers"], state["algorithm"])
    if now != then:
        raise ConfigurationError(
            f"the state is of {then[0]} workers of {then[1]}, this is {now[0]} of {now[1]}"
        )
    if state.get("shards", 1) != grid.shards:
        raise ConfigurationError(
            f"the state is of workers of {state.get('shards', 1)} ranks, which share a model, and "
            f"these have {grid.shards}: continue with as many, or with sync.finish() before "
            "the model is saved"
        )
    if "checksum" in state and state["checksum"] != checksum_of(state["states"]):
        raise ConfigurationError(
            "the state is incomplete: torch.distributed.checkpoint loads only what a state of the "
            "same form has, and what an algorithm remembers grows in its first rounds; save "
            "sync.state_dict() by torch.save, in a file of each rank"
        )
    rounds.having_observed(state.get("schedule", {}))
    shared = state["place"]["equal"] and context.algorithm.ends_equal
    shared = shared and grid.columns[rank] == grid.columns[grid.everyone.rank]
    if rank != grid.everyone.rank and not shared:
        raise ConfigurationError(
            f"the state was saved by rank {rank} between two exchanges, where workers "
            "differ: save and load model, optimizer and sync on every rank, each its own"
        )
    if not _holds(context, state):
        raise ConfigurationError(
            "the model does not hold the parameters this state was saved with: after attach, "
            "load this rank's own model, then its optimizer, then sync"
        )


def _holds(context: AttachContext, state: dict[str, Any]) -> bool:
    """Return whether the model holds the parameters of a state; version 0.1 kept plain sums."""
    if "checksums" in state:
        return bool(state["checksums"] == [group.fingerprint() for group in context.groups])
    flats = [group.flat for group in context.groups if isinstance(group, FlatGroup)]
    return bool(state["fingerprints"] == [plain_sum(flat) for flat in flats])
