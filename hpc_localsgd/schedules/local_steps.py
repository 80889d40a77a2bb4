"""Schedules: how long is the round that starts now?

A schedule is a pure function `(t, lr) -> H` of the global step and the learning rate, so every
rank computes the same H, no rank can deadlock, and a run can be planned before it starts. They
are spelled like the functions they are: `post_local(switch=30_000, every=16)`.

One convention for all: a round that starts at step t with length H ends after exactly H optimiser
steps, and the loop shortens the last round so that the run ends with an exchange. (PyTorch's
averager starts with a round of length 1, Lin's code tests `t mod H`, Gu's counts from the last
decay: four conventions are in use.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule as Schedule
from hpc_localsgd.schedules.base import check_bounds, check_length
from hpc_localsgd.schedules.by_distance import spread_triggered as spread_triggered
from hpc_localsgd.schedules.by_loss import adacomm as adacomm
from hpc_localsgd.schedules.duration import Duration, Units


@dataclass(frozen=True)
class every(Schedule):
    """A constant number of local steps: Local SGD. `every(1)` is parallel SGD.

    Source: Stich, Local SGD converges fast and communicates little, ICLR 2019.

    Example:
        >>> from hpc_localsgd.schedules.base import rounds
        >>> from hpc_localsgd.schedules.rates import constant
        >>> [r.H for r in rounds(every(4), constant(lr=0.1), steps=10)]
        [4, 4, 2]

    Attributes:
        steps: H, local steps in a round.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        check_length(self.steps, "every.steps")

    def __call__(self, t: int, lr: float) -> int:
        """Return H, always the same."""
        del t, lr
        return self.steps


@dataclass(frozen=True)
class post_local(Schedule):
    """Rounds of a single step before `switch`, of `every` local steps from it on.

    The first are parallel SGD with the algorithms whose exchange is an average over all workers,
    and with `hierarchical` if its `parallel_first` is set.

    Source: Lin et al., Don't use large mini-batches, use Local SGD, ICLR 2020. The papers switch
    at the first (Lin) or second (Gu, ImageNet) decay of the learning rate.

    Example:
        >>> from hpc_localsgd.schedules.base import rounds
        >>> from hpc_localsgd.schedules.rates import constant
        >>> schedule = post_local(switch=4, every=3)
        >>> [r.H for r in rounds(schedule, constant(lr=0.1), steps=12)]
        [1, 1, 1, 1, 3, 3, 2]

    Attributes:
        switch: When local steps begin, in any unit.
        every: H after the switch.
    """

    switch: Duration = "50%"
    every: int = 16

    def __post_init__(self) -> None:
        check_length(self.every, "post_local.every")

    def __call__(self, t: int, lr: float) -> int:
        """Return 1 before the switch, `every` from it on."""
        del lr
        return 1 if t < int(self.switch) else self.every

    def in_steps(self, units: Units, warmup: int = 0) -> post_local:
        """Return the same schedule with `switch` in steps."""
        del warmup
        return replace(self, switch=units.steps(self.switch, "post_local.switch"))


@dataclass(frozen=True)
class phases(Schedule):
    """One H per phase, as in Gu et al.'s scripts, where each decay has its own H.

    A round never runs across the beginning of a phase: it is shortened to end there, so that a
    decay of the learning rate at the same step takes effect on equal workers.

    Example:
        >>> from hpc_localsgd.schedules.base import rounds
        >>> from hpc_localsgd.schedules.rates import constant
        >>> schedule = phases(at=[4, 10], every=[1, 4, 8])
        >>> [r.H for r in rounds(schedule, constant(lr=0.1), steps=20)]
        [1, 1, 1, 1, 4, 2, 8, 2]

    Attributes:
        at: When the second and later phases begin, in any unit.
        every: H of each phase, one more than `at`.
    """

    at: Sequence[Duration] = ("50%", "75%")
    every: Sequence[int] = (1, 16, 64)

    def __post_init__(self) -> None:
        if len(self.every) != len(self.at) + 1:
            raise ConfigurationError(
                f"phases: {len(self.at)} beginnings (at) need {len(self.at) + 1} lengths (every), "
                f"got {list(self.every)}: the first length holds from step 0"
            )
        for H in self.every:
            check_length(H, "phases.every")

    def __call__(self, t: int, lr: float) -> int:
        """Return H of the phase of step t, shortened at the end of the phase."""
        del lr
        phase = sum(t >= int(begin) for begin in self.at)
        H = self.every[phase]
        return min(H, int(self.at[phase]) - t) if phase < len(self.at) else H

    def in_steps(self, units: Units, warmup: int = 0) -> phases:
        """Return the same schedule with `at` in steps.

        Raises:
            ConfigurationError: They are not in increasing order.
        """
        del warmup
        at = tuple(units.steps(begin, "phases.at") for begin in self.at)
        if any(b <= a for a, b in pairwise(at)):
            raise ConfigurationError(f"phases.at must be in increasing order, got {at} steps")
        return replace(self, at=at)


@dataclass(frozen=True)
class qsr(Schedule):
    """Quadratic synchronisation rule: H = max(at_least, floor((alpha / lr)^power)).

    Source: Gu et al., A quadratic synchronization rule for distributed deep learning, ICLR 2024.
    The value is floored with a margin of 1e-9, since (0.3 / 0.1)^2 is 8.999... in floating point.
    With a decaying rate the last rounds are very long (26 epochs in the paper's ViT run): plan the
    run before you start it.

    Example:
        >>> schedule = qsr(alpha=0.2, at_least=4)
        >>> [schedule(t=0, lr=lr) for lr in (0.2, 0.1, 0.05, 0.02)]
        [4, 4, 16, 100]

    Attributes:
        alpha: Growth coefficient, in units of the learning rate. 0 means constant `at_least`.
        at_least: H_base, the shortest round.
        power: 2 is the paper's rule; 1 and 3 are its ablations.
        warmup: While t is below it, H is `at_least`, since a small rate would ask for a huge H.
            None is the warm-up of the learning rate.
    """

    alpha: float = 0.0175
    at_least: int = 4
    power: float = 2.0
    warmup: Duration | None = None

    def __post_init__(self) -> None:
        check_length(self.at_least, "qsr.at_least")
        if self.alpha < 0:
            raise ConfigurationError(f"qsr.alpha must not be negative, got {self.alpha}")
        if not self.power > 0:  # or H would grow with the rate
            raise ConfigurationError(f"qsr.power must be positive, got {self.power}")

    def __call__(self, t: int, lr: float) -> int:
        """Return H of the round that starts at step t with rate lr; 2^31 where the rate is 0."""
        if t < int(self.warmup or 0) or self.alpha == 0:
            return self.at_least
        if lr <= 0:
            return 2**31
        try:
            asked = (self.alpha / lr) ** self.power + 1e-9
        except OverflowError:  # a rate next to 0, or a large power
            return 2**31
        return max(self.at_least, int(min(2**31, asked)))

    def in_steps(self, units: Units, warmup: int = 0) -> qsr:
        """Return the same schedule with `warmup` in steps, by default that of the learning rate."""
        if self.warmup is not None:
            warmup = units.steps(self.warmup, "qsr.warmup")
        return replace(self, warmup=warmup)


@dataclass(frozen=True)
class doubling(Schedule):
    """H that doubles every so many steps: `at_least` 2^(t // every), up to `at_most`.

    Source: Lu et al., Maximizing communication efficiency for large-scale training via 0/1 Adam,
    ICLR 2023, whose local interval doubles up to 16.

    Example:
        >>> from hpc_localsgd.schedules.base import rounds
        >>> from hpc_localsgd.schedules.rates import constant
        >>> schedule = doubling(every=4, at_most=4)
        >>> [r.H for r in rounds(schedule, constant(lr=0.1), steps=16)]
        [1, 1, 1, 1, 2, 2, 4, 4]

    Attributes:
        at_least: H at the beginning.
        every: Time between two doublings, in any unit.
        at_most: The longest round.
    """

    at_least: int = 1
    every: Duration = "20%"
    at_most: int = 16

    def __post_init__(self) -> None:
        check_bounds(self.at_least, self.at_most, "doubling")

    def __call__(self, t: int, lr: float) -> int:
        """Return H of the round that starts at step t."""
        del lr
        doublings = min(t // max(1, int(self.every)), 31)
        return min(self.at_most, self.at_least * 2**doublings)

    def in_steps(self, units: Units, warmup: int = 0) -> doubling:
        """Return the same schedule with `every` in steps."""
        del warmup
        steps = units.steps(self.every, "doubling.every")
        check_length(steps, "doubling.every")
        return replace(self, every=steps)
