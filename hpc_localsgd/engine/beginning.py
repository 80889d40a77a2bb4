"""What an algorithm says of workers that begin with parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import legend

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm


def check_beginning(algorithm: Algorithm, H: int, remedy: str) -> None:
    """Check that an algorithm can begin with workers that differ.

    Args:
        algorithm: Which.
        H: Length of the first round.
        remedy: How all begin alike.

    Raises:
        ConfigurationError: It cannot.
    """
    if algorithm.begins_equal(H):
        raise ConfigurationError(
            f"the workers begin with different parameters, and {legend(algorithm)} goes from where "
            f"all are equal: they would stay different, or go to another model each; {remedy}"
        )
