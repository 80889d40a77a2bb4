"""Everything that needs real ranks, in one start of a launcher: python attached_ranks.py WORLD ...

A WORLD is what `attach` must find by itself: "horovod" (the script initialises Horovod), "torch"
(it starts torch.distributed, with torchrun's variables); or "mpi", which is given.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from hpc_localsgd.environment import garbage

if __name__ == "__main__":
    garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    import torch

from all_ranks import close, everyone_equal, same_complaint
from loops import (
    OPTIMIZERS,
    POST_LOCAL_4_3,
    attached,
    batch,
    in_plain_torch,
    loss_of,
    net,
    parameters,
    steps,
)
from spoiled import in_the_trainer, through_attach
from torch import nn
from without_compiler import leave_the_compiler_out

import hpc_localsgd
from hpc_localsgd import CoCoD, DiLoCo, Gossip, GradientTracking, every, post_local, qsr
from hpc_localsgd.worlds.base import World

POST_LOCAL = post_local(switch=4, every=3)


def found(kind: str) -> World:
    """The world `attach` finds in this process."""
    given: World | None = None
    if kind == "horovod":
        import horovod.torch as hvd

        hvd.init()
    elif kind == "mpi":
        from hpc_localsgd.worlds.mpi import Mpi

        given = Mpi()
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    world = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=given).world
    assert repr(world).startswith(kind), repr(world)
    assert world.n == 2
    return world


def post_local_sgd_equals_a_plain_loop(world: World) -> None:
    for optimizer in OPTIMIZERS:
        model, made, sync = attached(None, optimizer, world, schedule=POST_LOCAL, bucket_bytes=64)
        steps(model, made, sync, range(11), world.rank)
        sync.finish()
        everyone_equal(world, parameters(model))
        plain = in_plain_torch(2, 11, POST_LOCAL_4_3, optimizer)
        close(parameters(model), plain, rtol=1e-4, atol=1e-5)
        sent = sum(p.numel() for p in model.parameters())
        flags = len(list(model.parameters()))
        assert sync.ledger.payload_bytes == 4 * (4 * (sent + flags) + 3 * sent)
        assert sync.ledger.seconds > 0


def parameters_unused_on_a_rank(world: World) -> None:
    for schedule in (every(1), every(2)):
        torch.manual_seed(0)
        model = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        _, optimizer, sync = attached(model, world=world, schedule=schedule)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            model[world.rank](torch.ones(1, 2)).square().sum().backward()
            optimizer.step()
            sync.step()
        assert model[2].weight.grad is None
        everyone_equal(world, parameters(model))


def skipped_steps_and_accumulation(world: World) -> None:
    model, optimizer, sync = attached(world=world, schedule=post_local(switch=2, every=2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for t in range(6):
        optimizer.zero_grad()
        with sync.no_sync():
            scaler.scale(loss_of(model, world.rank, t)).backward()
        overflow = float("inf") if (world.rank, t) in ((1, 1), (1, 4)) else 1.0
        scaler.scale(loss_of(model, world.rank, t) * overflow).backward()
        scaler.step(optimizer)
        scaler.update()
        sync.step()
    everyone_equal(world, parameters(model))
    assert parameters(model).isfinite().all()


def disagreements_are_errors_on_all(world: World) -> None:
    def other_model() -> None:
        model = nn.Linear(3, 2 + world.rank)
        attached(model, world=world)

    def other_rate() -> None:
        model, optimizer, sync = attached(world=world, schedule=qsr(alpha=0.1, at_least=2))
        for t in range(9):
            steps(model, optimizer, sync, [t], world.rank)
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + world.rank)

    def fewer_batches() -> None:
        model, optimizer, sync = attached(world=world, schedule=every(5))
        steps(model, optimizer, sync, range(9 + 2 * world.rank), world.rank)
        sync.finish()

    def still_wrapped() -> None:
        model = net()
        wrapped = hvd.DistributedOptimizer(OPTIMIZERS["sgd"](model.parameters()))
        hpc_localsgd.attach(model, wrapped, schedule=every(2), world=world)

    if hvd := sys.modules.get("horovod.torch"):
        same_complaint(world, still_wrapped, "leave that line out")
    same_complaint(world, other_model, "rank 0 has parameter weight [2, 3]")
    same_complaint(world, other_rate, "the learning rate of step 4 is 0.05 on rank 0 and 0.025")
    same_complaint(world, fewer_batches, "rank 0 ends a round of steps 5 to 8, rank 1 one of 5")


def the_mean_model_is_shown_and_ones_own_given_back(world: World) -> None:
    model, optimizer, sync = attached(net(norm=True), world=world, schedule=every(4))
    steps(model, optimizer, sync, range(6), world.rank)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with sync.averaged(batches=[batch(world.rank, t) for t in range(3)]):
        everyone_equal(world, torch.cat([parameters(model), model[1].running_var]))
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())
    sync.finish(batches=[batch(world.rank, 0)])
    everyone_equal(world, torch.cat([parameters(model), model[1].running_var]))


def resumed_in_mid_round_bitwise(world: World) -> None:
    for algorithm in (None, DiLoCo(), CoCoD()):
        options: dict[str, Any] = {"world": world, "schedule": every(4), "algorithm": algorithm}
        model, optimizer, sync = attached(net(), "adam", **options)
        steps(model, optimizer, sync, range(6), world.rank)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (model, optimizer, sync)], file)
        steps(model, optimizer, sync, range(6, 11), world.rank)
        sync.finish()
        file.seek(0)
        again = attached(net(5), "adam", **options)
        for part, state in zip(again, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        steps(*again, range(6, 11), world.rank)
        again[2].finish()
        assert torch.equal(parameters(model), parameters(again[0]))


def other_algorithms_and_dtypes(world: World) -> None:
    for algorithm, H in ((Gossip(), 2), (GradientTracking(), 1), (CoCoD(), 2)):
        model, optimizer, sync = attached(world=world, schedule=every(H), algorithm=algorithm)
        steps(model, optimizer, sync, range(5), world.rank)
        sync.finish()
        everyone_equal(world, parameters(model))
    for H in (1, 2):
        mixed = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16), nn.Linear(4, 2).double())
        _, optimizer, sync = attached(mixed, world=world, schedule=every(H), bucket_bytes=8)
        for _ in range(2):
            optimizer.zero_grad()
            x = torch.full((3, 4), 1.0 + world.rank, dtype=torch.bfloat16)
            mixed[1](mixed[0](x).double()).square().sum().backward()
            optimizer.step()
            sync.step()
        everyone_equal(
            world, torch.cat([p.detach().double().flatten() for p in mixed.parameters()])
        )


def rank_0_gives_model_and_optimizer(world: World) -> None:
    model = net(world.rank, norm=True)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    if world.rank == 0:
        steps(model, optimizer, None, range(3))
    hpc_localsgd.attach(
        model, optimizer, schedule=every(2), world=world, broadcast_optimizer=True
    ).detach()
    steps(model, optimizer, None, range(1))
    everyone_equal(world, torch.cat([parameters(model), model[1].running_var]))


def a_rank_astray_goes_on_as_in_the_trainer(world: World) -> None:
    x = through_attach(world)
    everyone_equal(world, x)
    close(x, in_the_trainer(2), rtol=1e-10, atol=1e-12)


def compiled_after_attach(world: World) -> None:
    both = []
    for wrap in (lambda model: torch.compile(model, backend="eager"), lambda model: model):
        model, optimizer, sync = attached(world=world, schedule=post_local(switch=2, every=2))
        steps(wrap(model), optimizer, sync, range(6), world.rank)
        everyone_equal(world, parameters(model))
        both.append(parameters(model))
    close(*both, rtol=1e-6, atol=1e-5)


CLAIMS = (
    post_local_sgd_equals_a_plain_loop,
    parameters_unused_on_a_rank,
    skipped_steps_and_accumulation,
    disagreements_are_errors_on_all,
    the_mean_model_is_shown_and_ones_own_given_back,
    resumed_in_mid_round_bitwise,
    other_algorithms_and_dtypes,
    rank_0_gives_model_and_optimizer,
    a_rank_astray_goes_on_as_in_the_trainer,
)
OF_TORCH = ("compiled_after_attach", "distributed_checkpoints")


def claims_in(kind: str) -> tuple[Callable[[World], None], ...]:
    """Return what must hold in a world.

    What loads torch's compiler or its checkpoints, for seconds, must on torch's own ranks alone.
    """
    if kind != "torch":
        return CLAIMS
    from saved_by_dcp import distributed_checkpoints

    return (*CLAIMS, compiled_after_attach, distributed_checkpoints)


def main() -> None:
    torch.set_num_threads(1)
    if "torch" not in sys.argv:  # which loads it for claims of its own
        leave_the_compiler_out()
    for kind in sys.argv[1:]:
        world = found(kind)
        for claim in claims_in(kind):
            claim(world)
            if world.rank == 0:
                print(f"holds in {world}: {claim.__name__}", flush=True)


if __name__ == "__main__":
    main()
