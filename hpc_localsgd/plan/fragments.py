"""A model cut into fragments of whole tensors, for methods that exchange it piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from hpc_localsgd.types import ConfigurationError


def cuts(sizes: Sequence[int], fragments: int) -> tuple[int, ...]:
    """Where fragments of about equal length begin and end in the flat vector.

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
        # One tensor at least behind the cut before, and one left for each fragment to come.
        free = [end for end in ends[: len(ends) - fragments + f] if end > at[-1]]
        distances = [abs(end - goal) for end in free]
        at.append(free[distances.index(min(distances))])
    return (*at, ends[-1])
