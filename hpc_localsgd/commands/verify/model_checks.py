"""Checks of a user's own model: one step of it by itself, and short runs with the others."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.commands.verify.algorithms import (
    BYTES,
    apart_from_one_process,
    faults,
    parameters,
)
from hpc_localsgd.commands.verify.harness import Harness, anywhere, different, relative
from hpc_localsgd.commands.verify.model_features import stays
from hpc_localsgd.commands.verify.problem import SEED
from hpc_localsgd.commands.verify.resuming import check_resume
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.tasks.flat import has_running_statistics
from hpc_localsgd.worlds.simulated import Simulated

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task

STEP = "One step of the model by itself"
RUNS = "Short runs of the model in this world: relative difference of parameters"
FIXED = "What is never sent: ranks that differ from rank 0"
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-3}  # rounding, amplified by a deep network
COMPARED = 5_000_000  # parameters of all workers together that one process is asked to hold
AT_ONCE = 2  # workers computed together
ALONE = "simulated"
RANDOM = "not compared: the model draws random numbers"

Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # losses, gradients, buffers


def alone(bench: Harness) -> None:
    """Check the same step twice, and several workers at once."""
    twice = "taken twice: numbers that differ in any bit"
    bench.check(STEP, twice, 0, partial(_repeated, bench), where=ALONE)
    vmap = "two workers at once (vmap) = one after the other"
    why_not = _why_not_vmap(bench)
    if why_not:
        bench.skip(STEP, vmap, why_not, where=ALONE)
        return
    limit = LIMITS[bench.problem.dtype]
    bench.check(STEP, vmap, limit, partial(_vmap_apart, bench), where=ALONE)


def with_others(bench: Harness) -> None:
    """Check what all ranks do together."""
    limit = LIMITS[bench.problem.dtype]
    local = LocalSGD()
    label = "local_sgd, here as in one process"
    if is_random(bench):
        bench.skip(RUNS, label, RANDOM)
    elif bench.problem.parameters * bench.world.K > COMPARED:
        bench.skip(RUNS, label, "not compared: all workers of this model do not fit one process")
    else:
        bench.check(RUNS, label, limit, lambda: apart_from_one_process(bench, local))
    bench.check(
        RUNS,
        "H = 1: parameters averaged = gradients averaged",
        limit,
        lambda: relative(
            bench.outcome(parameters, every(1)).mean, bench.outcome(AllReduce(), every(1)).mean
        ),
    )
    bench.check(BYTES, "local_sgd", 0, lambda: faults(bench, {"local_sgd": local}))
    check_resume(bench, "local_sgd", {"local_sgd": local})
    if any(True for _ in stays(bench.problem.module)):
        bench.check(FIXED, "frozen parameters and integer buffers", 0, lambda: unequal(bench))


def is_random(bench: Harness) -> bool:
    """Return whether the model draws random numbers in training, as dropout does."""
    task = _two_workers(bench)
    first, second = _stepped(task)[:2], _stepped(task)[:2]  # each worker draws on from its stream
    return anywhere(bench.world, any(map(different, first, second)))


def _step(bench: Harness, vmapped: bool = False) -> Step:
    """Return losses, gradients and buffers of two new workers that differ a little."""
    task = _two_workers(bench, vmapped)
    torch.manual_seed(SEED)
    return _stepped(task)


def _two_workers(bench: Harness, vmapped: bool = False) -> Task:
    task = bench.problem.task(Simulated(AT_ONCE, bench.world.device), vmapped)
    task.x[1] *= 1.01
    return task


def _stepped(task: Task) -> Step:
    losses, g = task.loss_and_grad(task.x, task.batch(range(AT_ONCE), 0))
    return losses.clone(), g.clone(), task.buffers.clone()


def _repeated(bench: Harness) -> tuple[float, str]:
    count = sum(map(different, _step(bench), _step(bench)))
    hint = "torch.use_deterministic_algorithms(True) names the operation; runs will not repeat"
    return count, hint


def _vmap_apart(bench: Harness) -> float:
    return relative(_step(bench, vmapped=True)[1], _step(bench)[1])


def _why_not_vmap(bench: Harness) -> str:
    """Say why workers cannot be computed together and compared; return "" if they can."""
    if has_running_statistics(bench.problem.module):
        return "not possible with running statistics: workers of one process take turns"
    why = ""
    try:
        _step(bench, vmapped=True)
    except Exception as error:
        first = str(error).strip().split("\n")[0].split(". ")[0]
        why = f"not possible ({first}): build the task with vmapped=False"
    if anywhere(bench.world, bool(why)):
        return why or "not possible on another rank"
    return RANDOM if is_random(bench) else ""


def unequal(bench: Harness) -> tuple[float, str]:
    """Return the ranks whose model has other fixed numbers than rank 0's."""
    digest = hashlib.sha256()
    for tensor in stays(bench.problem.module):
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    row = np.frombuffer(digest.digest(), dtype=np.uint8)
    rows = bench.world.gather(np.tile(row, (bench.world.R, 1)))
    others = (rows != rows[0]).any(1)[bench.world.placement.leaders]
    return int(others.sum()), "the factory must make the same model on every rank"
