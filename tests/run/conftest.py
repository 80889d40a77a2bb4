"""Another process that holds the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from holder import Holder, holders


@pytest.fixture
def other() -> Iterator[Holder]:
    with holders([]) as (made,):
        yield made
