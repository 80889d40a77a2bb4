"""Every algorithm in this world against itself in one process, and against what it must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import compressed_mean
from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.commands.verify.harness import Harness, relative
from hpc_localsgd.commands.verify.problem import SEED
from hpc_localsgd.commands.verify.trial import Trial, finished
from hpc_localsgd.compressors import TopK
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import Schedule, every
from hpc_localsgd.topology import complete, random_pairs, ring
from hpc_localsgd.worlds.simulated import Simulated

SAME = "Here as in one process, one worker after the other: relative difference of parameters"
BYTES = "Bytes sent, as the algorithm declares them: rounds that differ"
EQUAL = "Equal by their equations: relative difference of parameters"
FULL = "Compression that keeps everything: relative difference of parameters"
SUMMATION = 1e-12  # float64 sums in another order, over a short run
ONE_SUM = 1e-14  # the same in a single average
AS_FLOAT32 = 1e-6  # what is sent is rounded to float32, and the rounding is fed back

parameters = LocalSGD(average="parameters")


def same_numbers(bench: Harness) -> dict[str, Algorithm]:
    """Check every algorithm and codec of the folders and their bytes; return the algorithms."""
    found = {}
    for label, algorithm in tried(bench.world.K):
        refusal = refused(bench, algorithm)
        if refusal:
            bench.skip(SAME, label, f"not with these workers: {refusal}")
            continue
        found[label] = algorithm
        bench.check(SAME, label, SUMMATION, partial(apart_from_one_process, bench, algorithm))
    bench.check(BYTES, "all of the above", 0, partial(faults, bench, found))
    return found


def refused(bench: Harness, algorithm: Algorithm) -> str:
    """Return why the algorithm cannot run with these workers, such as unequal hosts; or ""."""
    task = bench.problem.task(bench.world)
    try:
        algorithm.init(task.x, bench.world, task.model_size)
    except ConfigurationError as error:  # on all ranks alike
        return str(error)
    return ""


def tried(K: int) -> Iterator[tuple[str, Algorithm]]:
    """Yield names and algorithms: all with defaults, two levels of averaging, every codec."""
    for name, path in sorted(choices("algorithm").items()):
        yield name, _made(path)
    if K % 2 == 0:
        yield "hierarchical, blocks of 2", Hierarchical(blocks=(2,), rounds=(2,))
    for name, path in sorted(choices("compressor").items()):
        yield f"local_sgd, {name}", LocalSGD(compressor=_made(path))


def must_be_equal(bench: Harness) -> None:
    """Check pairs that have the same equations, each in this world."""
    for check, one, other, schedule in pairs(bench.world.K):
        bench.check(EQUAL, check, SUMMATION, partial(_between, bench, one, other, schedule))


def pairs(K: int) -> Iterator[tuple[str, Algorithm, Algorithm, Schedule | None]]:
    """Yield pairs that are equal, with their schedule (None: parallel and local rounds)."""
    block = 2 if K % 2 == 0 else 1
    yield "H = 1: local_sgd = allreduce", LocalSGD(), AllReduce(), every(1)
    yield "H = 1: parameters averaged = gradients averaged", parameters, AllReduce(), every(1)
    yield "H = 1: gossip, complete graph = allreduce", Gossip(complete()), AllReduce(), every(1)
    tracking = GradientTracking(complete())
    yield "H = 1: gradient_tracking, complete graph = allreduce", tracking, AllReduce(), every(1)
    yield "gossip, complete graph = local_sgd", Gossip(complete()), parameters, None
    yield "d2, complete graph = local_sgd", D2(complete()), parameters, None
    pushed = PushSum(ring())
    yield "push_sum = gossip, where rows sum to one", pushed, Gossip(ring()), None
    alike = NoLoCo(alpha=0.0, beta=1.0, gamma=1.0)
    yield "noloco, averages alone = gossip of pairs", alike, Gossip(random_pairs()), None
    hierarchical = Hierarchical(blocks=(block,), rounds=(1,))
    yield "hierarchical, every round global = local_sgd", hierarchical, parameters, None
    yield "slowmo, beta 0, alpha 1 = local_sgd", SlowMo(alpha=1.0, beta=0.0), parameters, None
    yield "diloco, lr 1, momentum 0 = local_sgd", DiLoCo(lr=1.0, momentum=0.0), parameters, None
    yield "streaming_diloco, 1 fragment = diloco", StreamingDiLoCo(fragments=1), DiLoCo(), None


def full_rank(bench: Harness) -> None:
    """Check a codec that keeps every entry against none."""
    whole = TopK(fraction=1.0)
    bench.check(FULL, "one average of float32 numbers, top_k of all", ONE_SUM, partial(_one, bench))
    one, other = LocalSGD(compressor=whole), LocalSGD()
    bench.check(
        FULL,
        "local_sgd, top_k of all, sent as float32",
        AS_FLOAT32,
        partial(_between, bench, one, other, None),
    )


def apart_from_one_process(
    bench: Harness, algorithm: Algorithm, schedule: Schedule | None = None
) -> float:
    """Return the distance of workers and mean model from K workers computed in this process."""
    here = bench.outcome(algorithm, schedule)
    world = Simulated(bench.world.K, bench.world.device)
    task = bench.problem.task(bench.world)
    begun = algorithm.as_begun(algorithm.init(task.x, bench.world, task.model_size))
    trial = Trial(bench.problem, begun, schedule)  # with the blocks of this world's hosts
    there = finished(trial, world, vmapped=False)
    workers = slice(bench.world.local_workers.start, bench.world.local_workers.stop)
    return max(relative(here.x, there.x[workers]), relative(here.mean, there.mean))


def faults(bench: Harness, algorithms: Mapping[str, Algorithm]) -> tuple[float, str]:
    """Return the rounds whose bytes differ from the declared ones, and the first in words."""
    found = [f"{name}, {f}" for name, one in algorithms.items() for f in bench.outcome(one).faults]
    return len(found), "; ".join(found[:3])


def _between(bench: Harness, one: Algorithm, other: Algorithm, schedule: Schedule | None) -> float:
    return relative(bench.outcome(one, schedule).mean, bench.outcome(other, schedule).mean)


def _one(bench: Harness) -> float:
    """Exchange numbers that float32 holds exactly, with and without the codec."""
    world, P = bench.world, 173
    stream = torch.Generator().manual_seed(SEED)
    rows = torch.randn(world.K, P, generator=stream, dtype=torch.float32).double()
    mine = rows[world.local_workers.start : world.local_workers.stop].to(world.device)
    coded, _ = compressed_mean(mine.clone(), TopK(fraction=1.0), None, (P,), world)
    return relative(coded, world.mean(mine.clone()))


def _made(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    make: Callable[[], Any] = getattr(import_module(module), name)
    return make()
