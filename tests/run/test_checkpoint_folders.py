"""Which folders of checkpoints count, which stay, and what is said of the others."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint, shard
from hpc_localsgd.run.checkpoint.folder import PARTIAL
from hpc_localsgd.run.checkpoint.listing import (
    all_complete,
    all_folders,
    expected,
    is_complete,
    last_complete,
    missing,
    never_there,
    number,
)
from hpc_localsgd.worlds.placement import Placement

R = 3


@dataclass
class Ranks:
    """One of n ranks of R workers; what the others tell is made of what this one tells.

    Attributes:
        others: The rows of the next rank from those of this one.
        told: What this one told, in order.
    """

    rank: int = 0
    n: int = 2
    others: Callable[[np.ndarray], np.ndarray] = lambda v: v

    def __post_init__(self) -> None:
        self.K, self.R = R * self.n, R
        self.local_workers = range(R * self.rank, R * (self.rank + 1))
        self.placement, self.device = Placement(self.K, self.n), torch.device("cpu")
        self.told: list[np.ndarray] = []

    def gather(self, v: np.ndarray) -> np.ndarray:
        assert len(v) == R
        self.told.append(v)
        return np.concatenate([v, *[self.others(v)] * (self.n - 1)])


def at(out: Path, world: Any, **given: Any) -> Checkpoints:
    return Checkpoints(out, world, **given)


def there(out: Path, after: int, ranks: Any, n: int) -> Path:
    """A checkpoint's folder with the (empty) shards of some of n ranks."""
    folder = out / "checkpoints" / f"step-{after:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        (folder / f"rank-{rank}-of-{n}.pt").touch()
    return folder


def steps(out: Path) -> list[int]:
    return [number(folder) for folder in all_folders(out / "checkpoints")]


def place(after: int, t: int, rows: int = R) -> RankCheckpoint:
    return RankCheckpoint(
        after, t, {"place": {"t": t}, "after": after, "x": torch.full((rows, 2), float(t))}
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


def saved(out: Path, *afters: int, n: int = 2, rows: int = R, digest: str = "") -> None:
    for after in afters:
        for rank in range(n):
            at(out, Ranks(rank, n), digest=digest).save(place(after, after + rank, rows))


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
