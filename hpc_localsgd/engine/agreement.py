"""What ranks must agree on before they train, so that no rank waits for one that refused."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from hpc_localsgd.errors import ConfigurationError, of_file
from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.types import legend
from hpc_localsgd.worlds.gather_texts import gather_texts

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.worlds.base import World

T = TypeVar("T")
SAID_BYTES = 2000  # of a message that travels between ranks
SAME_START = "start all ranks with the same command line and files"


def agree(world: World, check: Callable[[], T]) -> T:
    """Return what a check gives here; if it fails on any rank, all raise its message together.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    found: Any = None
    said, where = "", f" (on rank {world.rank})" if world.rank else ""
    try:
        found = check()
    except (ConfigurationError, TrajectoryError) as error:
        said = f"{error}{where}"
    except OSError as error:
        said = f"{of_file(error)}{where}"
    for text in gather_texts(world, said, SAID_BYTES):
        if text:
            raise ConfigurationError(text)
    return cast(T, found)


def check_same(world: World, lines: Sequence[str], remedy: str = SAME_START) -> None:
    """Check that all ranks hold the same lines, or they would wait for each other. Not billed.

    Args:
        world: Who the workers are.
        lines: Of this rank; their number may differ between ranks.
        remedy: What to do where they differ.

    Raises:
        ConfigurationError: Names the first line that differs, and two ranks that differ in it; on
            all ranks alike.
    """
    R = world.R
    count = int(world.gather(np.full(R, float(len(lines)))).max())
    padded = [*lines, *["nothing more"] * (count - len(lines))]
    digests = b"".join(hashlib.sha256(line.encode()).digest()[:8] for line in padded)
    rows = world.gather(np.tile(np.frombuffer(digests, dtype=np.uint64), (R, 1)))
    others = rows != rows[0]
    if not others.any():
        return
    first = int(np.argmax(others.any(0)))
    other = int(np.argmax(others[:, first]))
    said = gather_texts(world, padded[first], SAID_BYTES)
    raise ConfigurationError(
        f"the ranks differ: rank 0 has {said[0]}, rank {world.placement.rank_of(other)} has "
        f"{said[other]}; {remedy}"
    )


def check_equal_start(algorithm: Algorithm, H: int, remedy: str) -> None:
    """Check that an algorithm can start with workers that hold different parameters.

    Args:
        algorithm: Which.
        H: Length of the first round.
        remedy: How to start with equal ones.

    Raises:
        ConfigurationError: It cannot.
    """
    if algorithm.begins_equal(H):
        raise ConfigurationError(
            f"the workers begin with different parameters, and {legend(algorithm)} needs them to "
            f"begin equal: they would stay different, or each go to another model; {remedy}"
        )


def of_rank_0(world: World, number: int) -> int:
    """Return a number of rank 0, on all ranks."""
    return int(world.gather(np.full(world.R, number))[0])


def hosts_of(world: World) -> list[str]:
    """Return the host of each of the K workers."""
    return gather_texts(world, socket.gethostname(), 64)


def digest(text: str) -> str:
    """Return the SHA-256 of a configuration."""
    return hashlib.sha256(text.encode()).hexdigest()
