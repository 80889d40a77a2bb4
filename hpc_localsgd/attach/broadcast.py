"""Copy rank 0's model to all ranks, and its optimiser's state where asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hpc_localsgd.attach.buffers import buffers_of
from hpc_localsgd.attach.other_tensors import in_common, take_rank_0s
from hpc_localsgd.attach.shards import local
from hpc_localsgd.attach.storage import Group

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World


def broadcast_model(world: World, model: nn.Module, groups: Sequence[Group]) -> None:
    """Copy rank 0's parameters and buffers, frozen and integer ones too, to all ranks.

    Caches that have another size on another rank stay each rank's own. Tensors are sent in parts,
    so that a large frozen model costs no second copy.
    """
    take_rank_0s(world, [part for group in groups for part in group.parts])
    ours = {id(p) for group in groups for p in group.parameters}
    buffers = [buffer for buffer in buffers_of(model) if buffer.plain]
    everywhere = in_common(world, [str(buffer) for buffer in buffers])
    rest = [local(p) for p in model.parameters() if id(p) not in ours and _plain(p)]
    rest += [b.values() for b, yes in zip(buffers, everywhere, strict=True) if yes]
    take_rank_0s(world, [tensor for tensor in rest if tensor.numel()])


def broadcast_optimizer_state(world: World, optimizer: torch.optim.Optimizer) -> None:
    """Copy rank 0's optimiser state and hyper-parameters to all ranks. A collective, not billed."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    length = int(world.gather(np.array([[float(len(file.getvalue()))]]))[0, 0])
    raw = np.frombuffer(file.getvalue()[:length].ljust(length, b"\0"), dtype=np.uint8)
    received = world.broadcast(torch.from_numpy(raw.copy())[None].to(world.device))
    if world.rank != 0:
        state = io.BytesIO(received[0].cpu().numpy().tobytes())
        # A file of this very job's rank 0, so not one that needs to be distrusted. On the host: the
        # optimiser takes to the device what it wants there, which Adam's count of steps is not.
        optimizer.load_state_dict(torch.load(state, map_location="cpu", weights_only=False))


def _plain(x: torch.Tensor) -> bool:
    return x.layout is torch.strided and not x.is_meta
