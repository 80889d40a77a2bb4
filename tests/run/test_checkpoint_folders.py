"""Which folders of checkpoints count, which stay, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shards_there import Ranks, at, place, saved, steps, there

from hpc_localsgd.run.checkpoint import Checkpoints, shard
from hpc_localsgd.run.checkpoint.folder import PARTIAL
from hpc_localsgd.run.checkpoint.listing import (
    all_complete,
    all_folders,
    expected,
    is_complete,
    last_complete,
    missing,
    never_there,
)


def test_folders_are_those_with_a_step_in_their_name_oldest_first(tmp_path: Path) -> None:
    assert all_folders(tmp_path / "checkpoints") == []
    for after in (12, 3, 100_000_000):
        there(tmp_path, after, [], 1)
    for name in ("notes", "step-", "step-1x", "damaged-step-00000003", f"step-{10**18}"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert steps(tmp_path) == [3, 12, 100_000_000]


def test_a_folder_says_how_many_shards_it_has_and_lacks(tmp_path: Path) -> None:
    empty, half = there(tmp_path, 1, [], 4), there(tmp_path, 2, [0, 2], 4)
    whole, strange = there(tmp_path, 3, range(12), 12), there(tmp_path, 4, [0], "x")  # type: ignore[arg-type]
    assert [expected(f) for f in (empty, half, whole, strange)] == [-1, 4, 12, -1]
    assert [missing(f) for f in (empty, half, whole)] == [[], [1, 3], []]
    assert [is_complete(f) for f in (empty, half, whole, strange)] == [False, False, True, False]
    assert all_complete(tmp_path) == [(whole, 12)] and last_complete(tmp_path) == (whole, 12)
    newest = there(tmp_path, 5, [0], 1)
    assert all_complete(tmp_path) == [(newest, 1), (whole, 12)]
    assert last_complete(tmp_path / "none") is None
    assert at(tmp_path, Ranks(n=2)).complete() == [(5, 1), (3, 12)]


def test_the_ranks_that_never_wrote(tmp_path: Path) -> None:
    in_turns = [there(tmp_path, 1, [0, 2], 4), there(tmp_path, 2, [0, 1], 4)]
    assert never_there(in_turns) == [3]
    assert never_there([*in_turns, there(tmp_path, 3, [3], 4)]) == []
    assert never_there([there(tmp_path, 4, [], 4)]) == [] == never_there([])
    assert never_there([there(tmp_path, 5, [0], 1)]) == []


def test_the_last_complete_ones_stay_and_what_is_behind_them(tmp_path: Path) -> None:
    for after in (10, 20, 30, 40):
        there(tmp_path, after, range(2), 2)
    for after in (5, 15, 25, 35, 45):
        there(tmp_path, after, [1], 2)
    at(tmp_path, Ranks(1), keep=2).tidy()  # rank 1 removes nothing
    assert len(steps(tmp_path)) == 9
    at(tmp_path, Ranks(), keep=5).tidy()
    assert len(steps(tmp_path)) == 9
    at(tmp_path, Ranks(), keep=4).tidy()
    assert steps(tmp_path) == [5, 10, 15, 20, 25, 30, 35, 40, 45]
    at(tmp_path, Ranks(), keep=2).tidy()
    assert steps(tmp_path) == [30, 35, 40, 45]
    at(tmp_path, Ranks(), keep=1).tidy()
    assert steps(tmp_path) == [40, 45]


def test_one_that_cannot_be_removed_stays_and_ends_nothing(tmp_path: Path) -> None:
    """Somebody moved an old one to another disk, and put a link in its place."""
    for after in (10, 20, 30):
        there(tmp_path, after, range(2), 2)
    oldest = tmp_path / "checkpoints" / "step-00000010"
    oldest.rename(tmp_path / "elsewhere")
    oldest.symlink_to(tmp_path / "elsewhere")
    at(tmp_path, Ranks(), keep=1).tidy()
    assert steps(tmp_path) == [10, 30] and len([*(tmp_path / "elsewhere").iterdir()]) == 2


def test_the_end_of_a_finished_run_stays_as_it_was(tmp_path: Path) -> None:
    """Once, by rank 0, whatever is written under its name later; half of a copy counts for none."""
    saved(tmp_path, 10, 20)
    at(tmp_path, Ranks()).preserve(20)  # where no job was killed before
    top = tmp_path / "checkpoints"
    assert (top / "finished-step-00000020").is_dir()
    ended, making = top / "finished-step-00000010", top / "making-step-00000010"
    making.mkdir()
    (making / "rank-9-of-10.pt").touch()  # of a job that was killed meanwhile
    worlds = [Ranks(1), Ranks(0), Ranks(0)]
    at(tmp_path, worlds[0]).preserve(10)
    assert not ended.exists()
    at(tmp_path, worlds[1]).preserve(10)
    assert sorted(one.name for one in ended.iterdir()) == ["rank-0-of-2.pt", "rank-1-of-2.pt"]
    assert not making.exists() and steps(tmp_path) == [10, 20]
    for rank in (0, 1):
        at(tmp_path, Ranks(rank)).save(place(10, 99))
    at(tmp_path, worlds[2]).preserve(10)
    was = [shard.read(ended / f"rank-{rank}-of-2.pt")["place"]["t"] for rank in (0, 1)]
    assert was == [10, 11] and not making.exists()
    assert [len(world.told) for world in worlds] == [1, 1, 1]  # all ranks wait for rank 0


@pytest.mark.parametrize("whole", [0, 7])
def test_of_checkpoints_that_never_become_complete_a_few_stay_and_it_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: int
) -> None:
    if whole:
        there(tmp_path, whole, range(12), 12)
    behind = range(10, 10 + PARTIAL)
    for after in behind:
        there(tmp_path, after, [0, 11], 12)
    checkpoints = at(tmp_path, Ranks(n=12))
    checkpoints.tidy()
    assert capfd.readouterr().err == "" and steps(tmp_path)[-PARTIAL:] == [*behind]
    there(tmp_path, 10 + PARTIAL, [0], 12)
    checkpoints.tidy()
    said = capfd.readouterr().err
    assert f"no checkpoint has become complete since step {whole}: the shards of rank 1, 2" in said
    assert said.count("\n") == 1 and "6, 7, 8 are missing in" in said and "9" not in said[:110]
    assert steps(tmp_path) == [*([7] if whole else []), *range(11, 11 + PARTIAL)]
    there(tmp_path, 90, [0], 12)
    checkpoints.tidy()
    assert capfd.readouterr().err == ""


def test_where_ranks_write_in_turns_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for after in range(PARTIAL + 2):
        there(tmp_path, after, [after % 2], 2)
    at(tmp_path, Ranks()).tidy()
    assert capfd.readouterr().err == "" and len(steps(tmp_path)) == PARTIAL


def test_whole_since_a_moment(tmp_path: Path) -> None:
    checkpoints, folder = at(tmp_path, Ranks()), there(tmp_path, 5, range(2), 2)
    for rank, ns in ((0, 2000), (1, 1000)):
        os.utime(folder / f"rank-{rank}-of-2.pt", ns=(ns, ns))
    assert [checkpoints.is_whole(5, ns) for ns in (0, 1000, 1001)] == [True, True, False]
    assert checkpoints.is_whole(5)
    (folder / "rank-1-of-2.pt").unlink()
    assert not checkpoints.is_whole(5) and not checkpoints.is_whole(6)


def test_the_same_checkpoints_in_another_folder(tmp_path: Path) -> None:
    like = at(tmp_path, Ranks(1), keep=7, digest="d")
    made = Checkpoints.in_folder(tmp_path / "elsewhere", like)
    assert made.folder == tmp_path / "elsewhere"
    assert (made.world, made.keep, made.digest) == (like.world, 7, "d")
    path = made.save(place(5, 6))
    assert path == tmp_path / "elsewhere" / "step-00000005" / "rank-1-of-2.pt"
    assert shard.read(path)["digest"] == "d" and shard.read(path)["after"] == 5


def test_the_newest_is_that_of_the_largest_step(tmp_path: Path) -> None:
    """By their text, step-99999999 would come after step-100000000."""
    for step in (99_999_999, 100_000_000, 5):
        there(tmp_path, step, [], 1)
    assert steps(tmp_path) == [5, 99_999_999, 100_000_000]
