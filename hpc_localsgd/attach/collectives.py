"""The collective operations of one `attach`, in which ranks detect that they are out of step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.rollcall import of_world
from hpc_localsgd.run.rollcall.protocol import REMEDY, At, failed

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

ATTACH = "attach()"
RATE = "the first step of a round"
GRADIENTS = "the exchange of gradients"
STEP = "the exchange within a round"
ROUND = "the end of a round"
AVERAGED = "averaged()"
LOAD = "load_state_dict()"
_OPERATIONS = (ATTACH, RATE, GRADIENTS, STEP, ROUND, AVERAGED, LOAD)


@dataclass(frozen=True)
class RankState:
    """What ranks compare when they meet.

    Attributes:
        what: The operation, one of those above.
        t: Steps taken.
        begin: First step of the round.
        rate: Learning rate of that step.
        used: Whether this rank's optimiser took that step.
        finite: Whether this rank's parameters are finite.
        digest: Of the parameters where workers should differ; ranks may differ in it. 0: not asked.
    """

    what: str
    t: int
    begin: int = 0
    rate: float = 0.0
    used: bool = False
    finite: bool = True
    digest: int = 0


@dataclass(frozen=True)
class Comparison:
    """What ranks know of each other when they have compared their places.

    Attributes:
        rate: Learning rate of the round's first step.
        non_finite: Which ranks' parameters are not finite, bool [n].
        alike: Whether several ranks were asked for a digest, and all have the same.
    """

    rate: float
    non_finite: np.ndarray
    alike: bool = False


class Collectives:
    """The operations of one `attach` on all ranks."""

    def __init__(
        self, world: World, patience_s: float, alike: Callable[[np.ndarray], bool] | None = None
    ) -> None:
        """Call the ranks together, a collective the first time in a world.

        Args:
            world: Who meets.
            patience_s: How long a rank may wait for others that are busy.
            alike: Tells of digests [n] whether those that could be the same are; all by default.
        """
        self._world, self._call = world, of_world(world, patience_s)
        self._alike = alike or (lambda digests: len(digests) > 1 and np.ptp(digests) == 0)
        self._number = self._call.number()
        self._said = False

    @contextmanager
    def attaching(self) -> Iterator[None]:
        """Run `attach` itself; where it fails, there is no run."""
        try:
            with self.at(ATTACH, 0):
                yield
        except BaseException as error:
            self.over(failed(error))
            raise

    def at(self, what: str, t: int) -> AbstractContextManager[None]:
        """Return the context of an operation in which all ranks meet after t steps."""
        return self._call.at(self._number, what, t)

    def over(self, how: str = "has ended its run") -> None:
        """Note that this rank meets no other any more in this run."""
        self._call.ended(self._number, how)

    def compare(self, place: RankState, strict: bool = False, tolerant: bool = False) -> Comparison:
        """Check that all ranks are at the same place. Inside `at`, a collective.

        The rows are of one length in all operations, so that ranks which come to this from
        different ones understand each other.

        Raises:
            ConfigurationError: They are not, or differ in the rate of the round's first step and
                `strict` asks for more; on all ranks alike.
            RuntimeError: The parameters of one are not finite, or of all where some may be
                (`tolerant`); on all ranks alike.
        """
        rows = self._world.gather(self._row(place))
        rows, digests = rows[:, :7], rows[:, 7]
        places, rates, used, finite = rows[:, :4], rows[:, 4], rows[:, 5], rows[:, 6]
        alike = bool(digests.all() and self._alike(digests))
        bad = finite == 0
        if (rows == rows[0]).all() and place.finite:
            return Comparison(place.rate, bad, alike)
        other = np.flatnonzero((places != places[0]).any(1))
        if len(other):
            self._call.settle()
            raise ConfigurationError(_out_of_step(rows[0], rows[other[0]], int(other[0])))
        if bad.all() or (bad.any() and not tolerant):
            self._call.settle()
            raise RuntimeError(_not_finite(finite, place.t))
        self._check_rates(_rates_differ(rates, used, place.begin), strict)
        return Comparison(float(rates[int(np.argmax(used))]), bad, alike)

    def _row(self, place: RankState) -> np.ndarray:
        """Return what this rank sends: operation, run, t, begin, rate, used, finite, digest."""
        what = float(_OPERATIONS.index(place.what))
        own = [what, self._number, place.t, place.begin, place.rate, float(place.used)]
        own += [float(place.finite), float(place.digest % 2**52)]
        return np.array([own], dtype=np.float64)

    def _check_rates(self, differ: str, strict: bool) -> None:
        """Refuse rates that differ where the schedule depends on them; elsewhere warn once."""
        if differ and strict:
            raise ConfigurationError(
                f"{differ}: the schedule depends on it, so all ranks need the same (a scheduler "
                "stepped more often on one of them?)"
            )
        if differ and self._world.rank == 0 and not self._said:
            warnings.warn(
                f"{differ}: if that is not meant, give a scheduler that follows the loss "
                "(ReduceLROnPlateau) the average of all ranks' losses, and step it equally often",
                stacklevel=3,
            )
        self._said = self._said or bool(differ)


def _out_of_step(own: np.ndarray, others: np.ndarray, other: int) -> str:
    for rank, row in ((0, own), (other, others)):
        if not _is_place(row):
            return (
                f"the ranks are out of step: what rank {rank} sent is of another operation than a "
                f"comparison, the exchange of gradients say; {REMEDY}"
            )
    here, there = own.astype(int), others.astype(int)
    if here[0] == there[0] == _OPERATIONS.index(ROUND) and here[1] == there[1]:
        return (
            f"the ranks are out of step: rank 0 ends a round of steps {here[3]} to {here[2] - 1}, "
            f"rank {other} one of {there[3]} to {there[2] - 1}; every rank must take the same "
            "number of steps (as many batches on each: drop_last=True) with the same schedule"
        )
    places = [At(int(row[1]), _OPERATIONS[int(row[0])], int(row[2])) for row in (here, there)]
    return (
        f"the ranks are out of step: rank 0 is in {places[0]}, rank {other} in {places[1]}; "
        f"{REMEDY}"
    )


def _is_place(row: np.ndarray) -> bool:
    """Return whether a row is one of `compare`: a library may pass what another call sent."""
    return bool(np.isfinite(row).all()) and row[0] in range(len(_OPERATIONS))


def _not_finite(finite: np.ndarray, t: int) -> str:
    """Name the first rank whose numbers must not enter an average."""
    left, first = int((finite == 0).sum()), int(np.argmin(finite))
    return (
        f"the parameters or statistics of rank {first} ({left} of {len(finite)} ranks) are not "
        f"finite after step {t - 1}, and would make those of all ranks so: nothing was exchanged; "
        "take a smaller learning rate, clip gradients, resume from a checkpoint, or leave such "
        'ranks out by attach(on_nan="quarantine")'
    )


def _rates_differ(rates: np.ndarray, used: np.ndarray, t: int) -> str:
    """Name two ranks that took the step at different rates; return "" if there are none."""
    first = int(np.argmax(used))
    other = np.flatnonzero((used > 0) & (rates != rates[first]))
    if not len(other):
        return ""
    return (
        f"the learning rate of step {t} is {rates[first]:.9g} on rank {first} and "
        f"{rates[other[0]]:.9g} on rank {other[0]}"
    )
