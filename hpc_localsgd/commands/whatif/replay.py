"""A network whose exchanges SimGrid replays, each kind and size once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from hpc_localsgd.cost import simgrid
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.errors import ConfigurationError

Replay = Callable[[simgrid.Collective], float]


@dataclass(frozen=True)
class Replayed(Network):
    """A network that asks a simulator for the seconds of an exchange.

    What was measured is not used: the simulator has the network's links alone. Averages that are
    decoded and coded again on their way are replayed as averages of what is sent.

    Attributes:
        replay: Collective -> seconds.
        scale: Bytes that each byte of a smaller model stands for.
    """

    replay: Replay = lambda exchange: 0.0
    scale: float = 1.0

    def mean_s(self, n: int, payload_bytes: int, *, workers: int = 0, coded: bool = False) -> float:
        """Return the seconds of an average over n workers, see `Network.mean_s`."""
        del coded
        nbytes = round(payload_bytes * self.scale)
        K = max(n, workers)
        return self.replay(simgrid.Collective("mean", K, nbytes, n)) if n > 1 else 0.0

    def mix_s(self, W: np.ndarray, nbytes: int) -> float:
        """Return the seconds of a mix, see `Network.mix_s`."""
        return self.replay(simgrid.mix(W, round(nbytes * self.scale)))

    def gather_s(self, n: int, nbytes: int) -> float:
        """Return the seconds of a gather, see `Network.gather_s`."""
        exchange = simgrid.Collective("gather", n, round(nbytes * self.scale))
        return self.replay(exchange) if n > 1 else 0.0

    def dearer(self, factor: float) -> Network:
        """Return the network of a model whose every byte stands for so many."""
        return replace(self, scale=self.scale * factor)


def replayed(network: Network, folder: Path) -> Network:
    """Return a network by SimGrid, which leaves its files in numbered folders.

    Args:
        network: Its links.
        folder: Of all files.

    Raises:
        ConfigurationError: Several workers were measured behind each cable, without its rate being
            told apart from theirs.
    """
    if network.workers_per_host > 1:
        raise ConfigurationError(
            f"network {network.name}: SimGrid needs the links that {network.workers_per_host} "
            "workers of a host share: type alpha, beta, and trunk=RATE/WORKERS"
        )
    known: dict[simgrid.Collective, float] = {}
    numbers = count()

    def replay(exchange: simgrid.Collective) -> float:
        if exchange not in known:
            known[exchange] = simgrid.seconds(network, exchange, folder / f"{next(numbers)}")
        return known[exchange]

    return Replayed(
        name=f"{network.name}, SimGrid",
        latency_s=network.latency_s,
        bytes_per_s=network.bytes_per_s,
        shared=network.shared,
        allreduce=network.allreduce,
        replay=replay,
    )
