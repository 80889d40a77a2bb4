"""What an algorithm is: the exchange at the end of a round, and what is done with its result.

An algorithm is a frozen dataclass: its fields are hyper-parameters with the paper's defaults, its
`repr` is the legend of a figure. What it remembers between rounds is an explicit state of tensors
and plain values that it returns. It does not know where the workers live. A matrix in that state
has a row for each worker of the process, and moves with them; vectors and numbers are equal on all
ranks.

The rows x and g are the run's own storage: an algorithm works on them in place and returns them,
as the collectives do, so that no method needs a second copy of the model unless its equation has
one. Where an algorithm returns rows of its own, they are copied into that storage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import ModelSize, Now, Rows, State, Vector
    from hpc_localsgd.worlds.base import World


class Algorithm(ABC):
    """A method of distributed training.

    Attributes:
        ends_equal: Whether all workers are equal after every exchange, so that every rank holds
            the model to evaluate.
        ends_at_mean: Whether that model is the mean of the parameters before the exchange: not
            after the step of an outer optimiser, or where a codec rounds.
        may_begin_apart: Whether workers may begin with parameters of their own; read by
            `begins_equal`.
        only_single_steps: Whether every round must have length 1.
        sends_gradients: Whether gradients are exchanged at every step of any round.
        needs_whole_models: Whether the update of a parameter depends on all others (on a norm, for
            example), so that ranks that hold parts of the model cannot compute it.
        last_exchange_differs: Whether the last exchange of a run (`now.last`) does something else
            than it would in the middle of a longer run.
    """

    ends_equal = True
    ends_at_mean = False
    may_begin_apart = False
    only_single_steps = False
    sends_gradients = False
    needs_whole_models = False
    last_exchange_differs = False

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state before the first step.

        Args:
            x: [R, P], equal on all workers.
            world: Who the workers are.
            model: Lengths of the model's tensors.

        Raises:
            ConfigurationError: The algorithm cannot run with these workers; on all ranks alike.
        """
        del x, world, model
        return {}

    def as_begun(self, state: State) -> Algorithm:
        """Return the algorithm of a resumed run, with the settings it derived where the run began.

        Called before `init`, and before the state is checked: unexpected values are ignored.

        Args:
            state: As it was saved.
        """
        del state
        return self

    def smoke(self) -> tuple[Algorithm, int]:
        """Return the algorithm for a short run of few workers, and a factor of their number."""
        return self, 1

    def begins_equal(self, H: int) -> bool:
        """Return whether all workers must begin equal in a run whose first round has H steps.

        If so, a run whose workers begin with parameters of their own is refused: what `init` keeps
        of `x` would differ between ranks, or no exchange would make the workers equal.
        """
        del H
        return not self.may_begin_apart

    def exchanges_gradients(self, H: int) -> bool:
        """Return whether workers exchange gradients in a round of H steps."""
        return H == 1 or self.sends_gradients

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether the exchange that ends this round leaves all workers equal.

        Measurements of the workers' deviations are of the moment before it then, else after it.
        """
        del state, now
        return self.ends_equal

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the gradients [R, P] the local optimiser uses, from those of the batches."""
        del world, now
        return g, state

    def in_backward(self, state: State, world: World, now: Now) -> Begin | None:
        """Return what begins the average of a part of the gradient that backward has finished.

        None where the algorithm wants the gradients themselves: `on_gradient` is called with them.
        Where this gives something, all parts are averaged by it instead, in the trainer and in
        `attach` alike. Parts are cut where the size says, so it does the same to every number.
        """
        del state, world, now
        return None

    def acts_on_gradient(self, state: State, world: World, H: int) -> bool:
        """Return whether a round of H steps that begins now does anything with gradients.

        Asked by `attach`, where collecting gradients is costly. If False, they stay where they are
        and `on_gradient` is called once in the round, with rows of length 0. An algorithm that acts
        in longer rounds must return True for H = 1 too: after False the hooks are removed.
        """
        del state, world, H
        kind = type(self)
        overlaps = kind.in_backward is not Algorithm.in_backward
        return overlaps or kind.on_gradient is not Algorithm.on_gradient

    def acts_on_step(self, state: State, now: Now) -> bool:
        """Return whether `on_step` changes anything now; asked where calling it is costly."""
        del state, now
        return type(self).on_step is not Algorithm.on_step

    def on_step(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the parameters [R, P] after a local step that does not end the round."""
        del world, now
        return x, state

    def acts_on_sync(self, state: State, now: Now) -> bool:
        """Return whether `on_sync` does anything now; asked where calling it is costly."""
        del state, now
        return True

    @abstractmethod
    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the parameters [R, P] that start the next round, after the round's last step."""

    def readout(self, x: Rows, state: State, world: World) -> Vector:
        """Return the model to evaluate, [P], the mean of all workers. A collective, not billed."""
        del state
        with world.ledger.unbilled():
            return world.mean(x.clone())[0]

    def resume(self, state: State, world: World) -> State:
        """Return a saved state completed: exchanges that were under way are begun again."""
        del world
        return state

    @abstractmethod
    def payload(self, model: ModelSize, K: int, now: Now) -> int | np.ndarray:
        """Return the bytes a worker sends in the round that `now` ends; [K] if workers differ.

        Compared with the ledger by the contract test.
        """


def overlapped_mean(world: World) -> Begin | None:
    """Return a function that averages in place during backward; None if not possible here."""
    if world.n == 1 or world.K > world.n:  # on all ranks alike: some may have one worker
        return None
    return partial(world.begin_mean, keep=False)


def nesterov_step(anchor: Vector, u: Vector, delta: Vector, lr: float, momentum: float) -> None:
    """Take DiLoCo's outer step, of torch's SGD with Nesterov momentum u [n], in place.

    u <- momentum u + delta        anchor <- anchor - lr (delta + momentum u)
    """
    u.mul_(momentum).add_(delta)
    anchor.sub_(delta + momentum * u, alpha=lr)
