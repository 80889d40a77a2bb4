"""Local steps across, shards inside, in one start of four ranks: torchrun sharded_ranks.py

Two workers of two ranks each: every claim trains a model that `fully_shard` cuts in two, and beside
it the same model whole, on the same two workers (each of the two columns of the mesh does that for
itself, with the whole batch of its worker). All in float64.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import networkx  # noqa: F401 - once for all ranks, before they fork; so are torch's compilers
import torch
import torch._dynamo.backends.debugging
import torch.distributed as dist
from sharded_claims import (
    methods_as_if_it_were_whole,
    other_methods_as_if_it_were_whole,
    resumed_in_mid_round,
    rounds_as_if_it_were_whole,
    the_ledger_has_the_bytes_of_the_shards,
    what_one_shard_finds_is_known_to_all,
    wrong_meshes_are_refused,
)
from sharded_models import (
    OPTIMIZERS,
    SHARDS,
    WORKERS,
    Model,
    Scaled,
    Side,
    T,
    batch,
    close,
    column,
    net,
    same_everywhere,
    whole,
)
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import hpc_localsgd
from hpc_localsgd import (
    DiLoCo,
    Gossip,
    every,
    post_local,
)
from hpc_localsgd.environment import garbage


def train_scaled(
    mesh: DeviceMesh, schedule: Any, shards: bool, T: int, algorithm: Any = None
) -> Side:
    """Train it; a worker's ranks average the gradient of what `fully_shard` does not shard."""
    given = {"schedule": schedule, "algorithm": algorithm}
    side = Side(mesh, "sgd", shards, given, Scaled(mesh, shards))
    for t in range(T):
        side.optimizer.zero_grad()
        side.loss(t).backward()
        if shards:
            dist.all_reduce(side.model.scale.grad, group=mesh["shard"].get_group())
            side.model.scale.grad /= SHARDS
        side.optimizer.step()
        side.sync.step()
    return side


def whole_parameters_beside_shards(mesh: DeviceMesh) -> None:
    schedule = post_local(switch=2, every=2)
    both = [train_scaled(mesh, schedule, shards, 5) for shards in (True, False)]
    for side in both:
        side.sync.finish()
    close(*(whole(side.model) for side in both))
    same_everywhere(whole(both[0].model))
    apart = []
    for shards in (True, False):  # what both ranks of a worker hold counts once
        run = train_scaled(mesh, every(4), shards, 3, Gossip()).sync._run
        distance = run.exchange.distance(run.exchange.copies())
        apart.append(torch.tensor(run.context.grid.total(distance), dtype=torch.float64))
    assert apart[0] > 0
    close(*apart)
    side = Side(mesh, "sgd", True, {"schedule": every(2)}, Scaled(mesh, True))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        side.train(range(2), clips=False)  # without the average they drift apart
    told = [str(each.message) for each in said if "ignored_params" in str(each.message)]
    assert len(told) == (dist.get_rank() == 0), told


def tensors_cut_by_hand(mesh: DeviceMesh) -> None:
    """DTensors without `fully_shard`: columns of a matrix, and one that both ranks have."""
    both = []
    for shards in (True, False):
        model = nn.Linear(4, 3, dtype=torch.float64)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        if shards:
            for name, placement in (("weight", Shard(1)), ("bias", Replicate())):
                made = distribute_tensor(getattr(model, name).data, mesh["shard"], [placement])
                setattr(model, name, nn.Parameter(made))
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        company = {"mesh": mesh["replicate"]} if shards else {"world": column(mesh)}
        schedule = post_local(switch=2, every=2)
        sync = hpc_localsgd.attach(model, optimizer, schedule=schedule, **company)
        for t in range(6):
            optimizer.zero_grad()
            x = torch.arange(4.0, dtype=torch.float64)[None] + t + mesh.get_local_rank("replicate")
            given = distribute_tensor(x, mesh["shard"], [Replicate()]) if shards else x
            model(given).square().mean().backward()
            optimizer.step()
            sync.step()
        sync.finish()
        both.append(whole(model))
    close(*both)
    same_everywhere(both[0])


def models_that_people_have(mesh: DeviceMesh) -> None:
    schedule = post_local(switch=2, every=2)
    for form in ("tied", "checkpointed", "frozen"):
        both = []
        for shards in (True, False):
            model = Model(form)
            if shards:
                if form != "tied":  # what two layers share belongs to the module above them
                    fully_shard(model.one, mesh=mesh["shard"])
                fully_shard(model, mesh=mesh["shard"])
            side = Side(mesh, "adamw", shards, {"schedule": schedule}, model)
            side.train(range(5))
            side.sync.finish()
            both.append(whole(side.model))
        close(*both)
        same_everywhere(both[0])


def muon_of_even_shards(mesh: DeviceMesh) -> None:
    """Rows that divide by the ranks: torch puts each matrix together for a step.

    In bfloat16, in which sums of parts are others than sums of the whole: here in float64.
    """
    both = []
    for shards in (True, False):
        stream = torch.Generator().manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, 4, bias=False)
        ).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5, generator=stream)
        if shards:
            fully_shard(model, mesh=mesh["shard"])
        given = {"schedule": every(2), "algorithm": DiLoCo()}
        side = Side(mesh, "muon", shards, given, model)
        begun = whole(model)
        with patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            side.train(range(T))
        side.sync.finish()
        both.append(whole(model))
        assert (both[-1] - begun).abs().max() > 0.05
    close(*both)
    same_everywhere(both[0])


def mixed_precision(mesh: DeviceMesh) -> None:
    """Computed in bfloat16 by a policy of `fully_shard`, kept and exchanged in float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for schedule in (every(1), every(2)):
        model = net().float()
        fully_shard(model, mesh=mesh["shard"], mp_policy=policy)
        side = Side(mesh, "sgd", True, {"schedule": schedule}, model)
        side.train(range(5))
        own = sum(p.to_local().numel() for p in model.parameters())
        if schedule == every(2):
            assert side.sync.ledger.payload_bytes == 2 * 4 * own
        side.sync.finish()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        same_everywhere(whole(model))


def compiled_layers(mesh: DeviceMesh) -> None:
    """Layers that are compiled before they are sharded, as torch advises."""
    both = []
    for shards in (True, False):
        model = Model("plain")
        if shards:
            model.one.compile(backend="eager")
            fully_shard(model.one, mesh=mesh["shard"])
            fully_shard(model, mesh=mesh["shard"])
        schedule = post_local(switch=2, every=2)
        side = Side(mesh, "sgd", shards, {"schedule": schedule}, model)
        side.train(range(5))
        side.sync.finish()
        both.append(whole(side.model))
    close(*both)


def running_statistics(mesh: DeviceMesh) -> None:
    """Those of the mean model are estimated through `fully_shard`'s own forward pass."""
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    fully_shard(model, mesh=mesh["shard"])
    side = Side(mesh, "sgd", True, {"schedule": every(2)}, model)
    side.train(range(3))
    own, before = whole(model), model[1].running_mean.clone()
    given = [batch(side.worker, t)[0][side.mine] for t in range(4)]
    with side.sync.averaged(batches=given):
        rows = [torch.empty(5, dtype=torch.float64) for _ in range(WORKERS)]
        dist.all_gather(rows, model[1].running_mean, group=mesh["replicate"].get_group())
        assert torch.equal(*rows) and not torch.equal(rows[0], before)
    assert torch.equal(whole(model), own) and torch.equal(model[1].running_mean, before)
    side.train(range(3, 4))
    side.sync.finish(batches=given)
    same_everywhere(whole(model))


CLAIMS: list[Callable[[DeviceMesh], None]] = [
    rounds_as_if_it_were_whole,
    methods_as_if_it_were_whole,
    other_methods_as_if_it_were_whole,
    the_ledger_has_the_bytes_of_the_shards,
    resumed_in_mid_round,
    wrong_meshes_are_refused,
    what_one_shard_finds_is_known_to_all,
    whole_parameters_beside_shards,
    tensors_cut_by_hand,
    models_that_people_have,
    muon_of_even_shards,
    mixed_precision,
    compiled_layers,
    running_statistics,
]


def main() -> None:
    warnings.simplefilter("error", UserWarning)
    mesh = init_device_mesh("cpu", (WORKERS, SHARDS), mesh_dim_names=("replicate", "shard"))
    for claim in CLAIMS:
        claim(mesh)
        if dist.get_rank() == 0:
            print(f"{claim.__name__} holds", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    garbage.leave_at_exit()
    main()
