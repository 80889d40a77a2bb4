"""The training loops that are timed, each as its library's documentation writes it.

    mpirun -np 2 python benchmarks/loops.py LOOP SUBJECT H

is started by the scripts beside it; `Gate` tells when to take steps. All loops do the same work:
4 or 16 samples out of some in memory, cross entropy, SGD with momentum and weight decay.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from models import SUBJECTS, Subject
from side_by_side import Gate, device

FOREVER = 10**9  # steps
LR = 1e-6  # all loops compute on the same numbers from the first turn to the last


def model_of(subject: Subject, on: Any = None) -> Any:
    """Return the model and its optimiser, the same in every contestant."""
    import torch

    torch.manual_seed(0)
    model = subject.make().to(on or device())
    sgd = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    return model, sgd


def _batches(subject: Subject, gate: Gate) -> Iterator[Any]:
    """Yield random batches, as long as the gate is open."""
    import torch

    inputs, labels = (part.to(device()) for part in subject.data())
    order = torch.randperm(len(labels)).to(device()).split(subject.batch)
    t = 0
    while gate.step():
        index = order[t % len(order)]
        yield inputs[index], labels[index]
        t += 1


def bare(subject: Subject, H: int, gate: Gate) -> None:
    """PyTorch alone: what a step costs without any communication."""
    from torch.nn.functional import cross_entropy

    del H
    model, sgd = model_of(subject)
    for x, y in _batches(subject, gate):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        sgd.step()


def attach(subject: Subject, H: int, gate: Gate) -> None:
    """Run `hpc_localsgd.attach` in the same loop, over Horovod."""
    import horovod.torch as hvd
    from torch.nn.functional import cross_entropy

    import hpc_localsgd
    from hpc_localsgd.schedules.local_steps import every

    hvd.init()
    model, sgd = model_of(subject)
    sync = hpc_localsgd.attach(model, sgd, schedule=every(H))
    for x, y in _batches(subject, gate):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        sgd.step()
        sync.step()
    sync.detach()


def trainer(subject: Subject, H: int, gate: Gate) -> None:
    """Run the loop of `python -m hpc_localsgd.train`, with recorder, over Horovod."""
    from hpc_localsgd.worlds.horovod import Horovod

    _train(subject, H, gate, Horovod(device=device()))


def trainer_mpi(subject: Subject, H: int, gate: Gate) -> None:
    """Run the same over MPI without Horovod."""
    from hpc_localsgd.worlds.mpi import Mpi

    _train(subject, H, gate, Mpi())


def _train(subject: Subject, H: int, gate: Gate, world: Any) -> None:
    from hpc_localsgd.loop import train
    from hpc_localsgd.run.recorder import Recorder
    from hpc_localsgd.tasks.classification import Classification

    class Gated(Classification):
        """Asks the gate before every batch."""

        def batch(self, workers: Any, t: int) -> Any:
            if not gate.step():
                raise StopIteration
            return super().batch(workers, t)

    run = run_of(subject, H, world, Gated)
    try:
        train(run, run.beginning(), Recorder(run))
    except StopIteration:
        return


def run_of(subject: Subject, H: int, world: Any, kind: Any) -> Any:
    """Return the trainer's run of a subject.

    Args:
        subject: What is trained.
        H: Steps of a round.
        world: Where its workers live.
        kind: `Classification`, or a class derived from it.
    """
    from functools import partial

    from torch.optim import SGD

    from hpc_localsgd.algorithms.local_sgd import LocalSGD
    from hpc_localsgd.engine.batchnorm import BatchNorm
    from hpc_localsgd.engine.optimizer import LocalOptimizer
    from hpc_localsgd.loop import Run
    from hpc_localsgd.schedules.local_steps import every
    from hpc_localsgd.schedules.rates import constant
    from hpc_localsgd.tasks.base import TaskContext

    context = TaskContext(world.K, world.local_workers, subject.batch, device=world.device)
    data = tuple(part.numpy() for part in subject.data())
    task = kind(subject.make, {"train": data}, context)
    make = partial(SGD, lr=LR, momentum=0.9, weight_decay=1e-4)
    return Run(
        task, LocalSGD(), every(H), constant(LR), LocalOptimizer(make, task),
        BatchNorm("local", 0), world, FOREVER,
    )  # fmt: skip


def horovod(subject: Subject, H: int, gate: Gate) -> None:
    """Run `hvd.DistributedOptimizer`."""
    import horovod.torch as hvd
    from torch.nn.functional import cross_entropy

    del H
    hvd.init()
    model, sgd = model_of(subject)
    sgd = hvd.DistributedOptimizer(sgd, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    for x, y in _batches(subject, gate):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        sgd.step()
    sgd.synchronize()


def start_gloo() -> None:
    """Join torch.distributed over Gloo, in a job that mpirun started."""
    import torch.distributed as dist

    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ["SIDE_BY_SIDE_PORT"]}
    environ |= {"RANK": _rank(), "WORLD_SIZE": os.environ["OMPI_COMM_WORLD_SIZE"]}
    os.environ.update(environ, LOCAL_RANK=_rank(), LOCAL_WORLD_SIZE=environ["WORLD_SIZE"])
    dist.init_process_group("gloo")


def _rank() -> str:
    return os.environ["OMPI_COMM_WORLD_RANK"]


def ddp(subject: Subject, H: int, gate: Gate) -> None:
    """Run `DistributedDataParallel` over Gloo."""
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    del H
    start_gloo()
    plain, sgd = model_of(subject)
    model = DistributedDataParallel(plain)
    for x, y in _batches(subject, gate):
        sgd.zero_grad()
        cross_entropy(model(x), y).backward()
        sgd.step()
    dist.destroy_process_group()


def post_local(subject: Subject, H: int, gate: Gate) -> None:
    """Run `PostLocalSGDOptimizer` in its local phase, every rank a group of its own."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
        PostLocalSGDState,
        post_localSGD_hook,
    )
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    start_gloo()
    plain, sgd = model_of(subject)
    model = DistributedDataParallel(plain)
    alone, _ = dist.new_subgroups(group_size=1)
    state = PostLocalSGDState(process_group=None, subgroup=alone, start_localSGD_iter=1)
    model.register_comm_hook(state, post_localSGD_hook)
    averager = PeriodicModelAverager(period=H, warmup_steps=1)
    optimizer = PostLocalSGDOptimizer(optim=sgd, averager=averager)
    for x, y in _batches(subject, gate):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    dist.destroy_process_group()


def accelerate(subject: Subject, H: int, gate: Gate) -> None:
    """Run accelerate's `LocalSGD`."""
    import torch.distributed as dist
    from accelerate import Accelerator
    from accelerate.local_sgd import LocalSGD
    from torch.nn.functional import cross_entropy

    start_gloo()
    accelerator = Accelerator(cpu=True)
    model, sgd = accelerator.prepare(*model_of(subject))
    with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=H) as local_sgd:
        for x, y in _batches(subject, gate):
            sgd.zero_grad()
            accelerator.backward(cross_entropy(model(x), y))
            sgd.step()
            local_sgd.step()
    dist.destroy_process_group()


LOOPS: dict[str, Callable[[Subject, int, Gate], None]] = {
    "bare": bare,
    "trainer": trainer,
    "trainer_mpi": trainer_mpi,
    "attach": attach,
    "horovod": horovod,
    "ddp": ddp,
    "post_local": post_local,
    "accelerate": accelerate,
}

if __name__ == "__main__":
    loop, subject, H = sys.argv[1:]
    LOOPS[loop](SUBJECTS[subject].on(device()), int(H), Gate())
