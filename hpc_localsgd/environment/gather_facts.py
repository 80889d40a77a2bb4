"""Gather the facts of all ranks of a launch.

The one part of the doctor that communicates. It looks for trouble before it calls a library:
Gloo, for one, ends in a segmentation fault when the host's name does not resolve.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from hpc_localsgd.engine.finding import PROBLEM, WARNING, Finding
from hpc_localsgd.engine.reachability import leave_out_bridges, network_here
from hpc_localsgd.environment.facts import Facts, collect

PATIENCE_S = 120.0
GLOO = "horovodrun --gloo"
_THREAD_LEVELS = {0: "single", 1: "funneled", 2: "serialized", 3: "multiple"}


def gather_facts(environ: MutableMapping[str, str] = os.environ) -> tuple[list[Facts], int]:
    """Return the facts of every rank that can be reached, in order, and our own rank.

    Processes that do not find each other each return one row; the launcher's rank tells them apart.
    """
    facts, errors = collect(environ), dict[str, str]()
    watchdog = threading.Timer(PATIENCE_S, _give_up)
    watchdog.daemon = True
    watchdog.start()
    environ.setdefault("HOME", os.path.expanduser("~"))  # Open MPI would end this process
    if facts["network"].level == WARNING:
        leave_out_bridges(environ, network_here())
    try:
        _look(facts, errors, "Horovod", _horovod)
        table = [facts] if _is_cut_off(facts) else _gather(facts)(facts, errors)
    finally:
        watchdog.cancel()
    return [Facts(**row) for row in table], facts["rank"]


def _is_cut_off(facts: Mapping[str, Any]) -> bool:
    """Return whether connecting would crash without a reason; each host says so at once."""
    finding: Finding = facts["network"]
    if finding.level != PROBLEM:
        return False
    if facts["launch"].local_rank in (0, None):
        sys.stderr.write(f"{finding.level}: {finding.text} -> {finding.fix}\n")
        sys.stderr.flush()
    return True


def _gather(facts: Mapping[str, Any]) -> Callable[..., list[dict[str, Any]]]:
    launcher = facts["launch"].launcher
    if launcher == "torchrun":
        return _gather_by_torch
    by_horovod = launcher == GLOO or facts["mpi4py"] is None
    return _gather_by_horovod if by_horovod else _gather_by_mpi


def _gather_by_torch(facts: dict[str, Any], errors: dict[str, str]) -> list[dict[str, Any]]:
    _look(facts, errors, "PyTorch", _torch_world)
    if facts.get("started") is None:
        return [facts]
    import torch.distributed as dist

    table: list[Any] = [None] * facts["started"]
    dist.all_gather_object(table, facts)
    dist.barrier()
    dist.destroy_process_group()
    return table


def _torch_world(facts: Mapping[str, Any]) -> dict[str, Any]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    return {"started": dist.get_world_size(), "rank": dist.get_rank()}


def _look(
    facts: dict[str, Any], errors: dict[str, str], name: str, look: Callable[..., dict[str, Any]]
) -> None:
    try:
        facts.update(look(facts))
    except Exception as error:  # whatever a broken installation raises is a finding, not a crash
        errors[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    facts["errors"] = errors


def _horovod(facts: Mapping[str, Any]) -> dict[str, Any]:
    if facts["horovod"] is None:
        return {}
    built_for = horovod_built_for()
    if built_for not in (None, facts["torch"]):
        return {"horovod_torch": built_for}  # importing it would fail, or crash
    import horovod.torch as hvd

    built = {
        "MPI": hvd.mpi_built(),
        "Gloo": hvd.gloo_built(),
        "CUDA": hvd.cuda_built(),
        "NCCL": hvd.nccl_built(),
    }
    names = tuple(name for name, there in built.items() if there)
    rests = hasattr(hvd.mpi_ops.mpi_lib, "rests_when_idle")
    lets_go = hasattr(hvd.mpi_ops.mpi_lib, "lets_go")
    return {
        "horovod_torch": built_for,
        "horovod_with": names,
        "horovod_rests": rests,
        "horovod_lets_go": lets_go,
    }


def horovod_built_for() -> str | None:
    """Return the torch version Horovod was compiled for, read without importing it."""
    for folder in sys.path:
        path = Path(folder, "horovod", "metadata.json")
        if path.is_file():
            return str(json.loads(path.read_text(encoding="utf-8")).get("pytorch")) or None
    return None


def _gather_by_horovod(facts: dict[str, Any], errors: dict[str, str]) -> list[dict[str, Any]]:
    # Gloo ends in a segmentation fault when the host's name does not resolve.
    if not facts["host_resolves"] or not facts.get("horovod_with"):
        return [facts]
    _look(facts, errors, "Horovod", _horovod_world)
    if facts.get("started") is None:
        return [facts]
    import horovod.torch as hvd

    return list(hvd.allgather_object(facts, name="doctor"))


def _horovod_world(facts: Mapping[str, Any]) -> dict[str, Any]:
    import horovod.torch as hvd

    hvd.init()
    rank = hvd.rank() if hvd.size() > 1 else facts["rank"]  # a singleton believes to be rank 0
    return {"started": hvd.size(), "rank": rank}


def _gather_by_mpi(facts: dict[str, Any], errors: dict[str, str]) -> list[dict[str, Any]]:
    _look(facts, errors, "MPI", _mpi)
    if facts.get("started") is None:
        return [facts]
    from mpi4py import MPI

    return list(MPI.COMM_WORLD.allgather(facts))


def _mpi(facts: Mapping[str, Any]) -> dict[str, Any]:
    if facts["mpi4py"] is None:
        return {}
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    library = MPI.Get_library_version().replace("\x00", "").split(",")[0].splitlines()[0].strip()
    rank = world.rank if world.size > 1 else facts["rank"]
    threads = _THREAD_LEVELS.get(MPI.Query_thread(), "unknown")
    return {"mpi_library": library, "mpi_threads": threads, "started": world.size, "rank": rank}


def _give_up() -> None:
    print(
        f"problem: the ranks did not all answer within {PATIENCE_S:.0f} s; one of them is missing, "
        "or they cannot reach each other. Try fewer hosts, then look at the network interface.",
        flush=True,
    )
    os._exit(1)
