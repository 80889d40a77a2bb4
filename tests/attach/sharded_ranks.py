"""Local steps across, shards inside, in one start of four ranks: torchrun sharded_ranks.py

The example of that first.

Two workers of two ranks each: every claim trains a model that `fully_shard` cuts in two, and beside
it the same model whole, on the same two workers (each of the two columns of the mesh does that for
itself, with the whole batch of its worker). All in float64.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from attached_ranks import dcp_parts, folder_of_all
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

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
from hpc_localsgd.attach import Sync
from hpc_localsgd.compressors import BF16, PowerSGD
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import spread_triggered
from hpc_localsgd.worlds.torch import Torch

WORKERS, SHARDS, T = 2, 2, 8
SAMPLES = 4  # of a worker at a step; its ranks share them
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "muon": lambda p: torch.optim.Muon(p, lr=0.05, weight_decay=0.1),
}


def net(seed: int = 0) -> nn.Sequential:
    """3 -> 5 -> 4 -> 1: two ranks have 3 and 2 of 5 rows, and of one row the second has none."""
    layers = nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)
    ).double()
    stream = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.5, generator=stream)
    return layers


def sharded(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    fully_shard(model[2], mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    return model


def batch(worker: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(1000 * worker + t)
    x = torch.randn(SAMPLES, 3, generator=stream, dtype=torch.float64) + worker
    return x, x.sum(1, keepdim=True).sin()


def whole(model: nn.Module) -> torch.Tensor:
    """All parameters, gathered from a worker's ranks."""
    gathered = [p.detach() for p in model.parameters()]
    return torch.cat([getattr(p, "full_tensor", lambda p=p: p)().reshape(-1) for p in gathered])


def column(mesh: DeviceMesh) -> Torch:
    """The two workers, as ranks that are one worker each."""
    return Torch(group=mesh["replicate"].get_group())


class Side:
    """A model, its optimiser and its attach, and this rank's part of its worker's batch."""

    def __init__(
        self,
        mesh: DeviceMesh,
        optimizer: str,
        shards: bool,
        given: dict[str, Any],
        model: nn.Module | None = None,
    ) -> None:
        self.worker = mesh.get_local_rank("replicate")
        place = mesh.get_local_rank("shard")
        part = SAMPLES // SHARDS
        self.mine = slice(part * place, part * (place + 1)) if shards else slice(None)
        self.model: Any = model or (sharded(net(), mesh) if shards else net())
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        company = {"mesh": mesh["replicate"]} if shards else {"world": column(mesh)}
        self.sync: Sync = hpc_localsgd.attach(self.model, self.optimizer, **company, **given)

    def loss(self, t: int) -> torch.Tensor:
        kept = next(iter(self.model.parameters())).dtype
        x, y = (each[self.mine].to(kept) for each in batch(self.worker, t))
        return (self.model(x) - y).square().mean()

    def train(self, ts: range, clips: bool = True) -> None:
        for t in ts:
            self.optimizer.zero_grad()
            self.loss(t).backward()
            if clips:  # the norm of the whole model's
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.8)
            self.optimizer.step()
            self.sync.step()


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def same_everywhere(x: torch.Tensor) -> None:
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, x.contiguous())
    assert all(torch.equal(rows[0], row) for row in rows)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("Local SGD", "sgd", {"schedule": every(3)}),
    ("Local AdamW", "adamw", {"schedule": every(3)}),
    ("Post-local SGD", "sgd", {"schedule": post_local(switch=3, every=2), "bucket_bytes": 64}),
    ("Post-local AdamW", "adamw", {"schedule": post_local(switch=3, every=2)}),
    ("H = 1", "sgd", {"schedule": every(1), "bucket_bytes": 64}),
    ("H = 1, AdamW", "adamw", {"schedule": every(1)}),
    ("parallel", "sgd", {"schedule": every(1), "algorithm": AllReduce()}),
    ("SlowMo", "sgd", {"schedule": every(3), "algorithm": SlowMo()}),
    ("DiLoCo", "adamw", {"schedule": every(3), "algorithm": DiLoCo()}),
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
    ("coded", "sgd", {"schedule": every(3), "algorithm": LocalSGD(compressor=BF16())}),
    ("by the spread", "sgd", {"schedule": spread_triggered(target=1e-3)}),
]


def as_if_it_were_whole(mesh: DeviceMesh) -> None:
    for name, optimizer, given in CASES:
        one, other = (Side(mesh, optimizer, shards, given) for shards in (True, False))
        for side in (one, other):
            side.train(range(T - 1))
        with one.sync.averaged(), other.sync.averaged():
            close(whole(one.model), whole(other.model))
            with torch.no_grad():  # gathers the mean parameters
                assert one.loss(0).isfinite()
        for side in (one, other):
            side.train(range(T - 1, T))  # with one's own again
            side.sync.finish()
        try:
            close(whole(one.model), whole(other.model))
            same_everywhere(whole(one.model))
            assert one.sync._run.place.s == other.sync._run.place.s
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def the_ledger_has_the_bytes_of_the_shards(mesh: DeviceMesh) -> None:
    side = Side(mesh, "sgd", True, {"schedule": every(4)})
    side.train(range(T))
    own = sum(p.to_local().numel() for p in side.model.parameters())
    assert side.sync.ledger.payload_bytes == 2 * 8 * own
    P = torch.tensor(float(own))
    dist.all_reduce(P)
    assert P == WORKERS * sum(p.numel() for p in net().parameters())


def resumed_in_mid_round(mesh: DeviceMesh) -> None:
    """By torch.distributed.checkpoint, an entry a worker; what attach remembers, a file a rank."""
    for algorithm in (LocalSGD(), DiLoCo(), CoCoD()):
        given = {"schedule": every(4), "algorithm": algorithm}
        side = Side(mesh, "adamw", True, given)
        side.train(range(6))
        folder = folder_of_all()
        own = f"{folder}/sync-{dist.get_rank()}.pt"
        dcp.save(entry(side), checkpoint_id=folder)
        torch.save(side.sync.state_dict(), own)
        side.train(range(6, 11))
        side.sync.finish()

        again = Side(mesh, "adamw", True, given)
        saved = entry(again)
        dcp.load(saved, checkpoint_id=folder)
        parts = saved[f"worker-{again.worker}"]
        set_model_state_dict(again.model, parts["model"])
        set_optimizer_state_dict(again.model, again.optimizer, parts["optimizer"])
        again.sync.load_state_dict(torch.load(own, weights_only=True))
        again.train(range(6, 11))
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


class Scaled(nn.Module):
    """A model that is sharded but for a vector."""

    def __init__(self, mesh: DeviceMesh, shards: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))
        self.net = net()
        if shards:
            fully_shard(self, mesh=mesh["shard"], ignored_params={self.scale})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(x * self.scale)
        return made


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
    for schedule in (every(1), every(2)):
        both = [train_scaled(mesh, schedule, shards, 6) for shards in (True, False)]
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


class Model(nn.Module):
    """A model of two equal layers in the middle, in the forms that people have."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.begin, self.one, self.two, self.end = (
            nn.Linear(*size, dtype=torch.float64) for size in ((3, 5), (5, 5), (5, 5), (5, 1))
        )
        stream = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=stream)
        if form == "tied":
            self.two.weight = self.one.weight
        if form == "frozen":  # as a base model is, beside the adapters that are trained
            for layer in (self.begin, self.one):
                layer.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.begin(x).tanh()
        if self.form == "checkpointed":
            middle: torch.Tensor = checkpoint(self._middle, x, use_reentrant=False)
            made: torch.Tensor = self.end(middle)
            return made
        return self.end(self._middle(x))

    def _middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).tanh()).tanh()


def models_that_people_have(mesh: DeviceMesh) -> None:
    for form in ("tied", "checkpointed", "frozen"):
        for schedule in (every(1), every(2)):
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
        given = {"schedule": every(3), "algorithm": DiLoCo()}
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
        side.train(range(6))
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
    as_if_it_were_whole,
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


def run_the_example() -> None:
    """As torchrun starts it, but for its end: the claims go on in its processes."""
    script = str(Path(__file__).parents[2] / "examples" / "fsdp_local_sgd.py")
    with patch.object(sys, "argv", [script, "--steps", "40"]):
        with patch.object(dist, "destroy_process_group"):
            runpy.run_path(script, run_name="__main__")


def main() -> None:
    run_the_example()
    warnings.simplefilter("error", UserWarning)
    mesh = init_device_mesh("cpu", (WORKERS, SHARDS), mesh_dim_names=("replicate", "shard"))
    for claim in CLAIMS:
        claim(mesh)
        if dist.get_rank() == 0:
            print(f"{claim.__name__} holds", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
