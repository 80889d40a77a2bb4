"""The gradient at x: what everything does unless asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.gradients.base import GradientAt

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class plain(GradientAt):
    """The gradient of the loss at the worker's own parameters.

        g_k = grad L_k(x_k)

    Sends: nothing.
    """

    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the task itself."""
        del world, seed
        return task
