"""Ranks that run other code than rank 0 are named before they exchange anything."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds import version_check
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated


class TwoRanks(Simulated):
    """Rank 0 of two, where rank 1 says something else."""

    def __init__(self, **other: str) -> None:
        super().__init__(2)
        self.n, self.other, self.placement = 2, other, Placement(2, 2)
        self.local_workers = range(1)

    def gather(self, v: np.ndarray) -> np.ndarray:
        theirs = json.loads(v[0].tobytes()) | {"host": "node-2"} | self.other
        raw = json.dumps(theirs).encode().ljust(version_check.SAID_BYTES)
        return np.stack([v[0], np.frombuffer(raw, dtype=np.uint8)])


def test_the_same_software_is_fine() -> None:
    version_check.check_same_software(TwoRanks(where="/elsewhere"))


@pytest.mark.parametrize("name", ["package", "python", "torch", "horovod", "mpi", "numpy"])
def test_what_differs_is_named_with_the_host(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"rank 1 on node-2 .* is 0\.1 \(/elsewhere\)"):
        version_check.check_same_software(TwoRanks(where="/elsewhere", **{name: "0.1"}))


def test_ranks_of_several_workers_are_counted_as_ranks() -> None:
    world = TwoRanks(torch="0.1")
    two, world.local_workers, world.placement = world.gather, range(2), Placement(4, 2)
    world.gather = lambda v: two(v).repeat(2, 0)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="rank 1 on node-2"):
        version_check.check_same_software(world)


def test_the_digest_is_of_every_line_and_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("x = 1\n")
    digests = {version_check.source_digest(tmp_path)}
    (tmp_path / "a" / "b.py").write_text("x = 2\n")
    digests.add(version_check.source_digest(tmp_path))
    (tmp_path / "a" / "b.py").rename(tmp_path / "a" / "c.py")
    digests.add(version_check.source_digest(tmp_path))
    assert len(digests) == 3
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "c.py").write_text("")
    assert version_check.source_digest(tmp_path) in digests


def test_the_package_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version_check.package_digest() == version_check.source_digest(version_check.PACKAGE)
    monkeypatch.setattr(version_check, "source_digest", None)  # not called again
    assert len(version_check.package_digest()) == 12


def test_a_path_of_any_length_and_script_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/" + "ü" * 300, "/a" * 2000):
        monkeypatch.setattr(version_check, "PACKAGE", Path(path))
        raw = version_check.said()
        said = json.loads(raw)
        assert (
            len(raw) == version_check.SAID_BYTES and path.endswith(said["where"]) and said["where"]
        )
        assert said["package"] == version_check.package_digest()


def test_it_is_cheap() -> None:
    began = time.process_time()
    version_check.software()
    assert time.process_time() - began < 0.5  # of the processor: a loaded machine takes no more
