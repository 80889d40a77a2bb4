"""From which checkpoint all ranks go on: the newest that is whole for every one of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shards_there import R, Ranks, at, saved, steps, there

from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import (
    all_complete,
    expected,
    is_complete,
    last_complete,
    missing,
)


def test_all_ranks_look_at_rank_0_s_list(tmp_path: Path) -> None:
    """A file system shows this rank 30 already; rank 0 knows of 20 and 10."""
    saved(tmp_path, 10, 20, 30)
    world = Ranks(1)
    real = world.gather
    rows = np.full((R, 64, 2), -1)
    rows[:, 0], rows[:, 1] = (20, 2), (10, 2)
    world.gather = lambda v: np.concatenate([rows, v]) if v.ndim == 3 else real(v)  # type: ignore
    assert at(tmp_path, world).load().t == 21
    assert steps(tmp_path) == [10, 20, 30]  # rank 0 alone removes what is newer


def test_no_more_than_the_newest_are_looked_at(tmp_path: Path) -> None:
    for after in range(1, 71):
        there(tmp_path, after, [0], 1)
    world = Ranks(n=1)
    with pytest.raises(ConfigurationError, match="every checkpoint in .* is damaged: put back"):
        at(tmp_path, world).load()
    assert world.told[0].shape == (R, 64, 2)
    assert world.told[0][0, :, 0].tolist() == [*range(70, 6, -1)] and len(world.told) == 65


def test_a_place_is_of_this_rank_and_what_is_newer_is_put_aside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 10, 20, 30)
    there(tmp_path, 40, [0], 2)
    (there(tmp_path, 30, [], 2) / "rank-1-of-2.pt").write_bytes(b"x" * 99)
    aside = tmp_path / "checkpoints" / "damaged-step-00000030"
    (aside / "of before").mkdir(parents=True)
    world = Ranks(1)
    world.others = lambda v: np.zeros_like(v)
    place_of_1 = at(tmp_path, Ranks(1, others=lambda v: v)).load()
    assert (place_of_1.after, place_of_1.t) == (20, 21) and len(steps(tmp_path)) == 4
    other_says = iter([0, 1, 0, 0])  # of the list, of 30, of 20, and at the end
    world = Ranks(0, others=lambda v: v * 0 + next(other_says))
    place_of_0 = at(tmp_path, world).load()
    assert (place_of_0.after, place_of_0.t, len(world.told)) == (20, 20, 4)
    assert "step-00000030 is damaged (ranks [1]): trying an older one" in capfd.readouterr().err
    assert steps(tmp_path) == [10, 20]
    assert sorted(path.name for path in aside.iterdir()) == ["rank-0-of-2.pt", "rank-1-of-2.pt"]


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (2, ConfigurationError, "is of a run with another configuration: give another --out"),
        (3, ConfigurationError, "is not of 6 workers: .* --resume-from-mean"),
        (4, DataError, "could not be read: (another rank could not|.*Stale file)"),
    ],
)
def test_what_stops_all_ranks(
    tmp_path: Path, monkeypatch: Any, code: int, error: Any, says: str, mine: bool
) -> None:
    """Whether it is this rank's shard or the other's."""
    saved(tmp_path, 10, rows=R + (code == 3 and mine), digest="of another" * (code == 2 and mine))
    if code == 4 and mine:
        stale = OSError(errno.ESTALE, "Stale file handle")
        monkeypatch.setattr(shard, "read", lambda path: (_ for _ in ()).throw(stale))
    world = Ranks(0, others=lambda v: v if mine or v.ndim == 3 else v * 0 + code)
    with pytest.raises(error, match=says):
        at(tmp_path, world).load()
    assert world.told[1].tolist() == [code * mine] * R and steps(tmp_path) == [10]


def test_what_is_there_of_other_numbers_of_ranks(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to resume: no complete checkpoint in"):
        at(tmp_path, Ranks()).load()
    there(tmp_path, 3, [0, 1], 3)
    with pytest.raises(ConfigurationError, match="nothing to resume"):
        at(tmp_path, Ranks()).load()
    there(tmp_path, 4, range(4), 4)
    with pytest.raises(ConfigurationError, match="every checkpoint in .* is damaged"):
        at(tmp_path, Ranks()).load()


def test_shards_of_several_numbers_of_ranks_in_one_folder(tmp_path: Path) -> None:
    """A run of 4 ranks went on with 3, which have not all written yet; then they have."""
    folder = there(tmp_path, 9, range(4), 4)
    there(tmp_path, 9, [0, 2], 3)
    for shard_of_4 in folder.glob("*-of-4.pt"):
        os.utime(shard_of_4, ns=(1000, 1000))
    assert is_complete(folder) and expected(folder) == 4 and missing(folder) == []
    assert all_complete(tmp_path) == [(folder, 4)]
    there(tmp_path, 9, [1], 3)
    assert all_complete(tmp_path) == [(folder, 3), (folder, 4)]
    assert last_complete(tmp_path) == (folder, 3)
    assert at(tmp_path, Ranks()).complete() == [(9, 3), (9, 4)]
    (folder / "rank-3-of-3.pt").touch()  # there is no such rank
    assert all_complete(tmp_path) == [(folder, 4)]
