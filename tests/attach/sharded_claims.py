"""What holds of a sharded model as of a whole one: numbers, bytes, checkpoints, refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from all_ranks import folder_of_all
from saved_by_dcp import dcp_parts
from sharded_models import (
    OPTIMIZERS,
    SHARDS,
    WORKERS,
    Side,
    T,
    close,
    column,
    net,
    same_everywhere,
    sharded,
    whole,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

import hpc_localsgd
from hpc_localsgd import (
    D2,
    AllReduce,
    Choco,
    CoCoD,
    DiLoCo,
    Gossip,
    GradientTracking,
    Hierarchical,
    LocalSGD,
    Overlap,
    SlowMo,
    StreamingDiLoCo,
    every,
    post_local,
)
from hpc_localsgd.compressors import BF16, PowerSGD
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import spread_triggered

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("Local SGD", "sgd", {"schedule": every(2)}),
    ("Local AdamW", "adamw", {"schedule": every(2)}),
    ("Post-local SGD", "sgd", {"schedule": post_local(switch=2, every=2), "bucket_bytes": 64}),
    ("Post-local AdamW", "adamw", {"schedule": post_local(switch=2, every=2)}),
    ("H = 1", "sgd", {"schedule": every(1), "bucket_bytes": 64}),
    ("H = 1, AdamW", "adamw", {"schedule": every(1)}),
    ("parallel", "sgd", {"schedule": every(1), "algorithm": AllReduce()}),
    ("SlowMo", "sgd", {"schedule": every(2), "algorithm": SlowMo()}),
    ("DiLoCo", "adamw", {"schedule": every(2), "algorithm": DiLoCo()}),
    ("streaming", "adamw", {"schedule": every(2), "algorithm": StreamingDiLoCo(1, delay=1)}),
    ("gossip", "sgd", {"schedule": every(2), "algorithm": Gossip()}),
    ("D2", "sgd", {"schedule": every(2), "algorithm": D2()}),
    ("tracking", "sgd", {"schedule": every(1), "algorithm": GradientTracking()}),
    ("hierarchical", "sgd", {"schedule": every(2), "algorithm": Hierarchical((2,), (2,))}),
    ("CoCoD", "sgd", {"schedule": every(2), "algorithm": CoCoD()}),
    ("push-sum", "sgd", {"schedule": every(2), "algorithm": "push_sum"}),
    ("CHOCO", "sgd", {"schedule": every(2), "algorithm": Choco(compressor=BF16())}),
    ("NoLoCo", "sgd", {"schedule": every(2), "algorithm": "noloco"}),
    ("overlap", "sgd", {"schedule": every(2), "algorithm": Overlap()}),
    ("coded", "sgd", {"schedule": every(2), "algorithm": LocalSGD(compressor=BF16())}),
    ("by the spread", "sgd", {"schedule": spread_triggered(target=1e-3)}),
]


def rounds_as_if_it_were_whole(mesh: DeviceMesh) -> None:
    as_if_it_were_whole(mesh, CASES[:7])


def methods_as_if_it_were_whole(mesh: DeviceMesh) -> None:
    as_if_it_were_whole(mesh, CASES[7:14])


def other_methods_as_if_it_were_whole(mesh: DeviceMesh) -> None:
    as_if_it_were_whole(mesh, CASES[14:])


def as_if_it_were_whole(mesh: DeviceMesh, cases: list[tuple[str, str, dict[str, Any]]]) -> None:
    for name, optimizer, given in cases:
        one, other = (Side(mesh, optimizer, shards, given) for shards in (True, False))
        for side in (one, other):
            side.train(range(T - 1))
        with one.sync.averaged(), other.sync.averaged():
            close(whole(one.model), whole(other.model))
            with torch.no_grad():  # gathers the mean parameters
                assert one.loss(0).isfinite()
        for side in (one, other):
            side.train(range(T - 1, T))  # with one's own again
        try:
            close(whole(one.model), whole(other.model))  # this worker's
            for side in (one, other):
                side.sync.finish()
            close(whole(one.model), whole(other.model))
            same_everywhere(whole(one.model))
            assert one.sync._run.place.s == other.sync._run.place.s
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def the_ledger_has_the_bytes_of_the_shards(mesh: DeviceMesh) -> None:
    side = Side(mesh, "sgd", True, {"schedule": every(2)})
    side.train(range(T))
    own = sum(p.to_local().numel() for p in side.model.parameters())
    assert side.sync.ledger.payload_bytes == 2 * 8 * own
    P = torch.tensor(float(own))
    dist.all_reduce(P)
    assert P == WORKERS * sum(p.numel() for p in net().parameters())


def resumed_in_mid_round(mesh: DeviceMesh) -> None:
    """By torch.distributed.checkpoint, an entry a worker; what attach remembers, a file a rank."""
    for algorithm in (LocalSGD(), DiLoCo(), CoCoD()):
        given = {"schedule": every(2), "algorithm": algorithm}
        side = Side(mesh, "adamw", True, given)
        side.train(range(3))
        folder = folder_of_all()
        own = f"{folder}/sync-{dist.get_rank()}.pt"
        dcp.save(entry(side), checkpoint_id=folder)
        torch.save(side.sync.state_dict(), own)
        side.train(range(3, 5))
        side.sync.finish()

        again = Side(mesh, "adamw", True, given)
        saved = entry(again)
        dcp.load(saved, checkpoint_id=folder)
        parts = saved[f"worker-{again.worker}"]
        set_model_state_dict(again.model, parts["model"])
        set_optimizer_state_dict(again.model, again.optimizer, parts["optimizer"])
        again.sync.load_state_dict(torch.load(own, weights_only=True))
        again.train(range(3, 5))
        again.sync.finish()
        assert torch.equal(whole(side.model), whole(again.model))


def entry(side: Side) -> dict[str, Any]:
    parts = dcp_parts(side.model, side.optimizer, side.sync)
    return {f"worker-{side.worker}": {name: parts[name] for name in ("model", "optimizer")}}


def complaint(work: Callable[[], object]) -> str:
    """What all ranks complain of, alike."""
    try:
        work()
    except (ConfigurationError, RuntimeError) as error:
        said: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(said, str(error))
        assert len(set(said)) == 1, said
        return str(error)
    raise AssertionError("nothing was wrong")


def wrong_meshes_are_refused(mesh: DeviceMesh) -> None:
    def attach(model: nn.Module, **given: Any) -> None:
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        hpc_localsgd.attach(model, optimizer, schedule=every(2), **given).detach()

    model = sharded(net(), mesh)
    world = column(mesh)
    assert "mesh=mesh[" in complaint(lambda: attach(model))
    assert "not both" in complaint(lambda: attach(model, world=world, mesh=mesh["replicate"]))
    assert "the mesh has 2 dimensions" in complaint(lambda: attach(model, mesh=mesh))
    assert "is not a DeviceMesh" in complaint(lambda: attach(model, mesh="replicate"))
    assert "0.weight along the mesh" in complaint(lambda: attach(model, mesh=mesh["shard"]))
    assert "the model is not sharded" in complaint(lambda: attach(net(), mesh=mesh["replicate"]))
    hybrid = net()
    fully_shard(hybrid, mesh=mesh)
    said = complaint(lambda: attach(hybrid, mesh=mesh["replicate"]))
    assert "torch itself shards or averages 0.weight along" in said
    with_rank_0s = {"mesh": mesh["replicate"], "broadcast_optimizer": True}
    assert "the optimizer's state is sharded" in complaint(lambda: attach(model, **with_rank_0s))
    narrow = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    fully_shard(narrow, mesh=mesh["shard"])
    assert "needs whole matrices" in complaint(lambda: attach(narrow, mesh=mesh["replicate"]))
    matrices = torch.optim.Muon([p for p in model.parameters() if p.ndim == 2])
    given = {"schedule": every(2), "mesh": mesh["replicate"]}
    said = complaint(lambda: hpc_localsgd.attach(model, matrices, **given))
    assert "Muon needs whole matrices" in said
    lengths = {"mesh": mesh["replicate"], "algorithm": "edit"}
    assert "EDiT" in complaint(lambda: attach(model, **lengths))
    factors = {"mesh": mesh["replicate"], "algorithm": DiLoCo(compressor=PowerSGD())}
    assert "PowerSGD(" in complaint(lambda: attach(model, **factors))
    attach(model, mesh=mesh["replicate"])  # nothing of all this was begun


def what_one_shard_finds_is_known_to_all(mesh: DeviceMesh) -> None:
    """A number that is not finite on one rank stops all, or its worker is left out whole."""
    side = Side(mesh, "sgd", True, {"schedule": every(2)})
    side.train(range(1))
    spoil(side)
    assert "are not finite after step" in complaint(lambda: side.train(range(1, 2)))
    side = Side(mesh, "sgd", True, {"schedule": every(2), "on_nan": "quarantine"})
    side.train(range(1))
    healthy = whole(side.model)
    rows = [torch.empty_like(healthy) for _ in range(dist.get_world_size())]
    spoil(side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side.sync._run.place.t = 2  # the round ends without another step
        side.sync._run.end_round(last=False)
    dist.all_gather(rows, healthy)
    close(whole(side.model), rows[0])


def spoil(side: Side) -> None:
    """Make a number of worker 1 that only its first rank has not finite."""
    if dist.get_rank() == SHARDS:
        next(iter(side.model.parameters())).detach().to_local()[0, 0] = torch.nan
