"""Objects of a run made again from its record: those of the package, and no others."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from hpc_localsgd.trajectory import Trajectory, TrajectoryError

if TYPE_CHECKING:
    from hpc_localsgd.topology import Topology

Made = TypeVar("Made")

MOST_WORKERS = 1024  # whose matrix is built: a stranger's record may say any number
# What numbers that are none, or words in their place, raise in an object of the package.
WRONG = (ValueError, OverflowError, TypeError, AttributeError, ZeroDivisionError)


class Unplannable(Exception):
    """Error: the plan cannot be made again; the message is the second half of a sentence."""


def made(where: ModuleType, kind: Callable[..., Made], said: Any, option: str) -> Made:
    """Make an object of the package from its class path and arguments.

    Args:
        where: Module with the classes that may be meant.
        kind: What they are.
        said: Class path, or a mapping of it and the arguments.
        option: What it is called in messages.

    Raises:
        Unplannable: It is not one of the package's.
    """
    path = _path(said)
    name = path.rpartition(".")[2]
    found: Any = getattr(where, name, None)
    ours = path.startswith("hpc_localsgd.") and inspect.isclass(found)
    if not (ours and issubclass(found, kind)):  # type: ignore[arg-type]
        raise Unplannable(f"its {option} is {path}, which this package does not know")
    arguments = (said.get("init_args") or {}) if isinstance(said, dict) else {}
    try:
        return found(**arguments)
    except TypeError as error:
        raise Unplannable(f"its {option} {name} is of another version: {error}") from error


def _path(said: Any) -> str:
    return str(said.get("class_path") if isinstance(said, dict) else said)


def mixing_of(run: Trajectory) -> Topology | None:
    """Return the topology whose matrix alone is what an exchange of the run does, else None.

    That is gossip in the order adapt, then combine; in the other order a gradient is subtracted in
    the same exchange. A matrix of the user's own may be a file, which is not opened: a record leads
    to no other file. None too where networkx is missing: the rest of a page does without.

    Args:
        run: The run.
    """
    try:
        said = run.config.get("algorithm") or {}
        arguments = said.get("init_args") or {}
        if not str(said.get("class_path")).endswith(".Gossip") or arguments.get("order") != "atc":
            return None
        graph = arguments.get("topology")
        if _path(graph).endswith(".custom") or run.K > MOST_WORKERS:
            return None
        from hpc_localsgd import topology

        found = made(topology, topology.Topology, graph, "topology")
        found.matrix(run.K)
    except (Unplannable, TrajectoryError, ImportError, *WRONG):
        return None
    return found
