"""What a gradient method is: a rule that takes the gradient at another point than x.

A method is a frozen dataclass whose fields are hyper-parameters. It makes a task out of a task, so
it combines with every algorithm, schedule and optimiser, and none of them knows about it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import ModelSize
    from hpc_localsgd.worlds.base import World


class GradientAt(ABC):
    """Where the gradient is taken.

    A method of strength 0 returns the task itself: it is plain, bit for bit and second for second.
    """

    @abstractmethod
    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the same task with its gradient taken elsewhere.

        Args:
            task: The task. Its storage (x, gradients, buffers) stays the storage.
            world: For the methods that ask the other workers where they are.
            seed: Of the random draws.
        """

    def payload(self, model: ModelSize, K: int) -> int:
        """Return the bytes a worker sends each step to find the point, besides the algorithm's."""
        del model, K
        return 0


def check_not_negative(method: str, **given: float) -> None:
    """Check that a method's strength is a finite number of at least 0.

    Raises:
        ConfigurationError: It is not.
    """
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise ConfigurationError(
                f"--gradient.{name} {value}: --gradient {method} takes a finite number, 0 or more"
            )
