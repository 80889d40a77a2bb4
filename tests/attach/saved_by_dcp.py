"""Models, optimisers and `attach` in checkpoints of `torch.distributed.checkpoint`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from all_ranks import folder_of_all, same_complaint
from loops import (
    attached,
    net,
    parameters,
    steps,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from hpc_localsgd import every
from hpc_localsgd.attach import Sync
from hpc_localsgd.worlds.base import World


def dcp_parts(model: nn.Module, optimizer: torch.optim.Optimizer, sync: Sync) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "sync": sync.state_dict(),
    }


def distributed_checkpoints(world: World) -> None:
    """`torch.distributed.checkpoint` in mid-round: one entry a rank, or refused at the load."""
    options: dict[str, Any] = {"world": world, "schedule": every(4)}
    own, shared, mean = folder_of_all(), folder_of_all(), folder_of_all()
    model, optimizer, sync = attached(net(), "adam", **options)
    steps(model, optimizer, sync, range(6), world.rank)
    me = f"rank-{world.rank}"
    dcp.save({me: dcp_parts(model, optimizer, sync)}, checkpoint_id=own)
    dcp.save(dcp_parts(model, optimizer, sync), checkpoint_id=shared)  # one rank's of each
    with sync.averaged():
        dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=mean)
        shown = parameters(model)
    steps(model, optimizer, sync, range(6, 11), world.rank)
    sync.finish()

    again = attached(net(5), "adam", **options)
    saved = {me: dcp_parts(*again)}
    dcp.load(saved, checkpoint_id=own)
    set_model_state_dict(again[0], saved[me]["model"])
    set_optimizer_state_dict(again[0], again[1], saved[me]["optimizer"])
    again[2].load_state_dict(saved[me]["sync"])
    steps(*again, range(6, 11), world.rank)
    again[2].finish()
    assert torch.equal(parameters(model), parameters(again[0]))

    last = attached(net(5), "adam", **options)
    saved = dcp_parts(*last)
    dcp.load(saved, checkpoint_id=shared)
    set_model_state_dict(last[0], saved["model"])
    mixed = "the model does not hold the parameters this state was saved with"
    same_complaint(world, lambda: last[2].load_state_dict(saved["sync"]), mixed)
    only = {"model": get_model_state_dict(last[0])}
    dcp.load(only, checkpoint_id=mean)
    set_model_state_dict(last[0], only["model"])
    assert torch.equal(parameters(last[0]), shown)
