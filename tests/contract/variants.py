"""Every algorithm of the folder with its defaults, and the variants worth testing beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from small_runs import sgd, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.edit import EDiT
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum
from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.algorithms.overlap import Overlap
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.compressors import BF16, E3M0, FP16, ChunkedTopK, Int4, Int8, PowerSGD, Sign, TopK
from hpc_localsgd.loop import Run
from hpc_localsgd.schedules.local_steps import Schedule, every, post_local
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.topology import (
    base_graph,
    equi_dynamic,
    equi_static,
    one_peer_exponential,
    random_directed,
    random_pairs,
    star,
)
from hpc_localsgd.worlds.base import World


def _of_the_folder() -> list[Algorithm]:
    made = []
    for path in choices("algorithm").values():
        module, name = path.rsplit(".", 1)
        made.append(getattr(import_module(module), name)())
    return made


DEFAULTS: list[Any] = _of_the_folder()
VARIANTS: list[Any] = [
    *DEFAULTS,
    LocalSGD(average="parameters"),
    *(LocalSGD(compressor=codec) for codec in (FP16(), BF16(), Int8(), Sign(), TopK(fraction=0.1))),
    LocalSGD(compressor=BF16(error_feedback=True)),
    *(
        LocalSGD(compressor=codec)
        for codec in (Int4(), E3M0(), ChunkedTopK(chunk=64, kept_of_chunk=4))
    ),
    LocalSGD(compressor=TopK(fraction=0.1, compressor=Int4(error_feedback=True))),
    LocalSignMomentum(momentum=0.5, nesterov=False, compressor=Sign()),
    AllReduce(compressor=Sign()),
    AllReduce(compressor=PowerSGD(rank=2)),
    LocalSGD(compressor=PowerSGD(rank=1)),
    DiLoCo(compressor=PowerSGD()),
    SlowMo(compressor=PowerSGD(rank=2, error_feedback=False)),
    StreamingDiLoCo(fragments=3, delay=2, keep_local=0.5, compressor=PowerSGD(rank=3)),
    Hierarchical(blocks=(2,), rounds=(2,), compressor=PowerSGD(rank=2)),
    DiLoCo(compressor=Sign()),
    DiLoCo(optimizer="Adam", lr=0.01, momentum=0.0),
    Gossip(order="awc"),
    Gossip(topology=one_peer_exponential()),
    Gossip(topology=star()),
    Gossip(topology=random_pairs()),
    Gossip(topology=base_graph()),
    Gossip(topology=equi_static(shifts=2)),
    Gossip(topology=equi_dynamic(directed=False)),
    PushSum(topology=random_directed()),
    NoLoCo(topology=random_pairs(seed=5), alpha=0.0),
    Choco(gamma=0.5, compressor=Int4()),
    Choco(topology=star(), compressor=None),
    SlowMo(compressor=Int4()),
    SlowMo(compressor=FP16(error_feedback=True)),
    StreamingDiLoCo(compressor=E3M0()),
    StreamingDiLoCo(fragments=3, delay=2, keep_local=0.5, compressor=TopK(fraction=0.1)),
    Hierarchical(blocks=(2,), rounds=(2,), compressor=Sign()),
    Hierarchical(blocks=(2,), rounds=(2,)),
    Hierarchical(blocks=(1, 2), rounds=(2, 2)),
    Hierarchical(blocks=(1,), rounds=(2,), parallel_first=True),
    StreamingDiLoCo(fragments=3, delay=2, keep_local=0.5),
    Overlap(pull=0.5, beta=0.0),
    EDiT(threshold=0.5, clip=0.05, warmup=1, smoothing=0.5),
]
# The algorithms, and what beside them uses another operation of a world, or a graph or a block of
# its own: enough where all variants have been compared on other ranks or over another library.
OPERATIONS: list[Any] = [
    *DEFAULTS,
    LocalSGD(compressor=FP16()),  # each rank averages its share of the numbers
    LocalSGD(compressor=Sign()),  # all ranks get the codes of all
    AllReduce(compressor=PowerSGD(rank=2)),
    Gossip(topology=one_peer_exponential()),  # not symmetric
    Gossip(topology=star()),  # of unequal degrees
    Gossip(topology=random_pairs()),
    Choco(gamma=0.5, compressor=Int4()),
    Hierarchical(blocks=(2,), rounds=(2,)),
    StreamingDiLoCo(fragments=3, delay=2, keep_local=0.5),
]


def name(algorithm: Algorithm) -> str:
    """For the list of tests."""
    return repr(algorithm).replace(" ", "")


def schedule_for(algorithm: Algorithm, H: int = 4) -> Schedule:
    """Parallel rounds, local ones, a short last round; single steps where nothing else goes."""
    return every(1) if isinstance(algorithm, GradientTracking) else post_local(switch=H, every=H)


@dataclass(frozen=True)
class built_once(digits):
    """The digits, of which a process makes one task for the same workers, which begins anew.

    Attributes:
        use: Uses that differ have tasks of their own.
    """

    hidden: int = 16
    use: str = ""

    build = cache(digits.build)


def run_of(
    algorithm: Algorithm, steps: int = 18, world: World | None = None, **options: Any
) -> Run:
    """A short run of the algorithm on the digits, float64, momentum 0.9, K = 4."""
    options = {"H": schedule_for(algorithm), "optimizer": sgd(momentum=0.9), "lr": 0.05} | options
    options.setdefault("dtype", torch.float64)
    return small_run(algorithm=algorithm, steps=steps, world=world, **options)
