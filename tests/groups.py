"""Which tests start ranks: they run one after another, with the machine alone.

`make test` runs all others first, on two cores at once. A test that starts ranks says so with
`@pytest.mark.launched`; `launching` refuses to serve one that does not.
"""

from __future__ import annotations

from pathlib import Path

import launching
import pytest

HERE = Path(__file__).parent
LAUNCHED = ("hosts", "mpi")  # folders all of whose tests start ranks
CLUSTER = "cluster"  # the fixture that is a Slurm


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests of folders that start ranks, and those that ask for a Slurm."""
    for item in items:
        if item.path.relative_to(HERE).parts[0] in LAUNCHED:
            item.add_marker(pytest.mark.launched)
        if CLUSTER in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.launched)
            item.add_marker(pytest.mark.slurm)


def about_to_run(item: pytest.Item) -> None:
    """Tell the launchers whether the test that runs next may start ranks."""
    launching.may_start_ranks = item.get_closest_marker("launched") is not None
