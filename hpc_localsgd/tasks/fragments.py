"""A model cut into runs of whole tensors, to be exchanged piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import Shape, lengths

T = TypeVar("T", int, Shape)


def cuts(sizes: Sequence[int], fragments: int) -> tuple[int, ...]:
    """Return the bounds of fragments of about equal length in the flat vector.

    Args:
        sizes: Lengths of the model's tensors, in order.
        fragments: How many; every fragment is a run of at least one whole tensor.

    Returns:
        fragments + 1 positions, from 0 to sum(sizes).

    Raises:
        ConfigurationError: There are more fragments than tensors.
    """
    if fragments > len(sizes):
        raise ConfigurationError(
            f"{fragments} fragments of a model of {len(sizes)} tensors: a fragment is made of "
            f"whole tensors, so give at most {len(sizes)}"
        )
    ends = list(accumulate(sizes))
    at = [0]
    for f in range(1, fragments):
        goal = ends[-1] * f / fragments
        # At least one tensor after the previous cut, and one for each later fragment.
        free = [end for end in ends[: len(ends) - fragments + f] if end > at[-1]]
        distances = [abs(end - goal) for end in free]
        at.append(free[distances.index(min(distances))])
    return (*at, ends[-1])


def fragment(tensors: Sequence[T], fragments: int, f: int) -> tuple[slice, tuple[T, ...]]:
    """Return where a fragment of `cuts` lies in the flat vector, and its tensors.

    These are lengths or shapes, as they are given.

    >>> fragment((4, 3, 1, 4), fragments=2, f=1)
    (slice(7, 12, None), (1, 4))
    >>> fragment(((2, 2), (3,), (), (4,)), fragments=2, f=1)
    (slice(7, 12, None), ((), (4,)))
    """
    sizes = lengths(tensors)
    begin, end = cuts(sizes, fragments)[f : f + 2]
    within = zip(tensors, sizes, accumulate(sizes), strict=True)
    return slice(begin, end), tuple(t for t, n, after in within if begin < after <= end and n)


def cuts_from_the_end(begins: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Return runs of tensors, last first, of at least `least` numbers each but the last run.

    Args:
        begins: Where each tensor begins, and where the last ends.
        least: Numbers at which a run is closed.
    """
    runs: list[tuple[int, int]] = []
    after = len(begins) - 1
    for first in reversed(range(1, after)):
        if begins[after] - begins[first] >= least:
            runs.append((first, after))
            after = first
    return [*runs, (0, after)] if after else runs
