"""Two hosts for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import Hosts, missing


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Hosts a and b; nothing of them is left behind."""
    if why := missing():
        pytest.skip(why)
    with Hosts("a", "b") as made:
        yield made
