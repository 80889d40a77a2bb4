"""A method, a schedule, a graph and a task of your own, outside the package.

In the folder of this file, or with it on PYTHONPATH, each with an `--out` of its own:

    python -m hpc_localsgd.train --workers 4 --task mine.Wine --epochs 40 --out runs/mine
    python -m hpc_localsgd.train --workers 4 --algorithm mine.Lookahead --algorithm.alpha 0.8
    python -m hpc_localsgd.train --workers 4 --schedule mine.sawtooth --schedule.most 32
    python -m hpc_localsgd.train --workers 4 --algorithm gossip --algorithm.topology mine.two_rings
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from sklearn.datasets import load_wine
from torch import nn

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.topology import Topology, metropolis

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Lookahead(Algorithm):
    """x <- anchor + alpha (mean_k x_k - anchor).

    Source: Zhang et al., Lookahead optimizer, NeurIPS 2019, with K workers.
    Sends: P numbers per worker and round.

    Attributes:
        alpha: How far the anchor follows the workers' mean, 0 to 1.
    """

    alpha: float = 0.5

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: the anchor [P], where all workers begin."""
        return {"anchor": x[0].clone()}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the anchor, moved towards the mean, on every worker."""
        x = world.mean(x)  # [R, P], in place
        x[:] = state["anchor"].lerp_(x[0], self.alpha)
        return x, state

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one copy of the parameters."""
        return model.nbytes


@dataclass(frozen=True)
class sawtooth(Schedule):
    """Rounds of 1, 2, ... steps up to `most`, then from 1 again.

    A function of the step t alone: every rank computes the same H, and the run can be planned.

    Attributes:
        most: Steps of the longest round.
    """

    most: int = 8

    def __call__(self, t: int, lr: float) -> int:
        """Return the length of the round that starts at step t."""
        left = t % (self.most * (self.most + 1) // 2)
        H = 1
        while left >= H:
            left, H = left - H, H + 1
        return H


@dataclass(frozen=True)
class two_rings(Topology):
    """Two rings of n / 2 workers, in each of which worker 0 knows that of the other."""

    def check(self, n: int) -> None:
        """Refuse numbers of workers that have no two rings.

        Raises:
            ConfigurationError: n is odd or below 4.
        """
        if n < 4 or n % 2:
            raise ConfigurationError(f"two_rings wants an even number of workers, 4 or more: {n}")

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return W [n, n], doubly stochastic, with Metropolis weights."""
        half = n // 2
        graph = nx.disjoint_union(nx.cycle_graph(half), nx.cycle_graph(half))
        graph.add_edge(0, half)
        return metropolis(graph)


@dataclass(frozen=True)
class Wine(TaskSpec):
    """scikit-learn's wines (13 numbers, 3 classes) and a perceptron.

    Attributes:
        hidden: Width of the hidden layer.
    """

    hidden: int = 32

    def build(self, context: TaskContext) -> Classification:
        """Load the data and make the task of this process's workers."""
        x, y = load_wine(return_X_y=True)
        x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")
        test = np.arange(len(x)) % 4 == 0
        return Classification(
            lambda: nn.Sequential(nn.Linear(13, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3)),
            {"train": (x[~test], y[~test]), "test": (x[test], y[test])},
            context,
        )
