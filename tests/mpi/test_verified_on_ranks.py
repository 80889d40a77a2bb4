"""The conformance run on two ranks finds nothing wrong, over each library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends_of_several import commands, ended
from launching import Job, behind_tests, horovodrun, started

WORLDS = ("mpi", "horovod")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Job]]:
    """The command over both libraries, one after the other, in one launch of two ranks."""
    folder = tmp_path_factory.mktemp("launched")
    words = {world: ["verify", f"--world={world}"] for world in WORLDS}
    with started(behind_tests(horovodrun(2)), commands(folder, words)) as job:
        yield folder, job


@pytest.mark.parametrize("world", WORLDS)
def test_every_row_is_ok(launched: tuple[Path, Job], world: str) -> None:
    folder, job = launched

    def found() -> list[str]:
        """What one rank says of this world, in the end."""
        of_worlds = r"(\w+)\(2 x 2 workers.*?(all ok|failed)"
        said = re.findall(of_worlds, job.stdout.read_text(), re.DOTALL)
        return [result for name, result in said if name == world]

    assert ended(job, folder, world) == [0, 0]
    job.until(found, 60, f"what it found over {world} has come through the launcher")
    assert found() == ["all ok"]
