"""Local SGD and its family for Horovod, MPI and one process: parameters averaged in rounds.

    import hpc_localsgd
    from hpc_localsgd import LocalSGD, post_local

    sync = hpc_localsgd.attach(model, optimizer, schedule=post_local(switch=30_000, every=16))

Nothing heavy is imported before it is asked for: reading the version, planning a run and building
the environment need neither torch nor MPI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpc_localsgd.worlds.horovod_cycle_time import shorten_cycles

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.allreduce import AllReduce as AllReduce
    from hpc_localsgd.algorithms.choco import Choco as Choco
    from hpc_localsgd.algorithms.cocod import CoCoD as CoCoD
    from hpc_localsgd.algorithms.d2 import D2 as D2
    from hpc_localsgd.algorithms.diloco import DiLoCo as DiLoCo
    from hpc_localsgd.algorithms.edit import EDiT as EDiT
    from hpc_localsgd.algorithms.gossip import Gossip as Gossip
    from hpc_localsgd.algorithms.gradient_tracking import GradientTracking as GradientTracking
    from hpc_localsgd.algorithms.hierarchical import Hierarchical as Hierarchical
    from hpc_localsgd.algorithms.local_sgd import LocalSGD as LocalSGD
    from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum as LocalSignMomentum
    from hpc_localsgd.algorithms.noloco import NoLoCo as NoLoCo
    from hpc_localsgd.algorithms.overlap import Overlap as Overlap
    from hpc_localsgd.algorithms.push_sum import PushSum as PushSum
    from hpc_localsgd.algorithms.slowmo import SlowMo as SlowMo
    from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo as StreamingDiLoCo
    from hpc_localsgd.attach import attach as attach
    from hpc_localsgd.schedules.local_steps import every as every
    from hpc_localsgd.schedules.local_steps import phases as phases
    from hpc_localsgd.schedules.local_steps import post_local as post_local
    from hpc_localsgd.schedules.local_steps import qsr as qsr

__version__ = "0.2.0"
shorten_cycles()  # a script calls hvd.init() after its imports, and before `attach`

_ALGORITHMS = {
    "AllReduce": "allreduce",
    "Choco": "choco",
    "CoCoD": "cocod",
    "D2": "d2",
    "DiLoCo": "diloco",
    "EDiT": "edit",
    "Gossip": "gossip",
    "GradientTracking": "gradient_tracking",
    "Hierarchical": "hierarchical",
    "LocalSGD": "local_sgd",
    "LocalSignMomentum": "local_sign_momentum",
    "NoLoCo": "noloco",
    "Overlap": "overlap",
    "PushSum": "push_sum",
    "SlowMo": "slowmo",
    "StreamingDiLoCo": "streaming_diloco",
}
_FOUND_IN = {
    **{name: f"hpc_localsgd.algorithms.{file}" for name, file in _ALGORITHMS.items()},
    **dict.fromkeys(("every", "phases", "post_local", "qsr"), "hpc_localsgd.schedules.local_steps"),
}
# What `from hpc_localsgd import *` gives, which imports all of it, torch included.
__all__ = ["attach", *_FOUND_IN]


def __getattr__(name: str) -> Any:
    """Import a name of the public interface the first time it is used."""
    if name == "attach":  # the folder, which can be called: see there
        return import_module("hpc_localsgd.attach")
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FOUND_IN[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
