"""Every rank must see the folder of the run and be able to write there: said with rank and host."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.commands.train import nothing_left
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease, shared_folder
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.run.shared_folder import UNSEEN, check_shared, held
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated


class ThreeRanks(Simulated):
    """One of three ranks of two workers, on hosts n0, n1, n2, where others find what they are told.

    Its `gather` is asked for rank 0's word, then for what each rank finds, then for their hosts.
    """

    def __init__(self, rank: int, word: str = "", found: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__(6)
        self.n, self.rank, self.local_workers = 3, rank, range(2 * rank, 2 * rank + 2)
        self.placement = Placement(6, 3)
        self.word, self.others = word, found

    def gather(self, v: np.ndarray) -> np.ndarray:
        rows = np.concatenate([v] * 3)
        if v.dtype == np.int64:
            codes = np.array(self.others)
            codes[self.rank] = v[0]
            rows = codes.repeat(2)
        elif v.shape[1:] == (shared_folder.WORD_BYTES,) and self.rank:
            rows[:2] = np.frombuffer(self.word.encode().ljust(16, b"\0"), dtype=np.uint8)
        elif v.shape[1:] == (64,):
            rows[:] = [
                np.frombuffer(f"n{r}".encode().ljust(64, b"\0"), np.uint8)
                for r in (0, 0, 1, 1, 2, 2)
            ]
        return rows


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "SEEN_WITHIN_S", 0.0)


@pytest.fixture
def claim(tmp_path: Path) -> RunLock:
    made = RunLock(tmp_path / "shared")
    yield made
    made.end()


def test_one_folder_for_all_is_fine_and_nothing_is_left_in_it(claim: RunLock) -> None:
    out = claim.file.parent
    check_shared(ThreeRanks(0), out, claim.run)
    check_shared(ThreeRanks(2, claim.run), out, "")
    assert [file.name for file in out.iterdir()] == ["RUNNING"]


@pytest.mark.parametrize("stale", [False, True], ids=["empty", "with another run's claim"])
def test_a_rank_with_a_disk_of_its_own_is_named_on_all_ranks_alike(
    claim: RunLock, tmp_path: Path, stale: bool
) -> None:
    own, out = tmp_path / "own", claim.file.parent
    own.mkdir()
    other = RunLock(own) if stale else None
    with pytest.raises(ConfigurationError) as there:
        check_shared(ThreeRanks(1, claim.run), own, "")
    with pytest.raises(ConfigurationError) as here:
        check_shared(ThreeRanks(0, found=(0, UNSEEN, UNSEEN)), out, claim.run)
    assert f"--out {own} is not one folder for all ranks: rank 1 on n1 does not find" in str(
        there.value
    )
    assert f"--out {out} is not one folder for all ranks: rank 1 on n1, rank 2 on n2 does" in str(
        here.value
    )
    assert "what rank 0 on n0 has just written. Give a folder that all hosts share" in str(
        here.value
    )
    assert [file.name for file in own.iterdir()] == (["RUNNING"] if stale else [])
    if other:
        other.end()


@pytest.mark.parametrize(
    ("number", "words", "cure"),
    [
        (errno.EROFS, "read-only", "leave that host out"),
        (errno.EDQUOT, "quota", "make space"),
        (errno.EACCES, "may not write", "give this account the right"),
    ],
)
def test_what_a_disk_refuses_is_said_and_nothing_is_left_of_the_try(
    claim: RunLock, monkeypatch: pytest.MonkeyPatch, number: int, words: str, cure: str
) -> None:
    write, out = Path.write_bytes, claim.file.parent

    def refused(file: Path, data: bytes) -> int:
        write(file, data[:10])
        raise OSError(number, "no")

    def not_even_removed(file: Path, missing_ok: bool = False) -> None:
        remove(file, missing_ok)
        raise OSError(number, "no")

    remove = Path.unlink
    monkeypatch.setattr(Path, "unlink", not_even_removed)
    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(
        ConfigurationError, match=f"rank 1 on n1 cannot write to --out .*{words}.*{cure}"
    ):
        check_shared(ThreeRanks(1, claim.run), out, "")
    assert [file.name for file in out.iterdir()] == ["RUNNING"]


def test_ranks_with_one_trouble_are_named_and_not_too_many(
    claim: RunLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*found: int) -> str:
        with pytest.raises(ConfigurationError) as refused:
            check_shared(ThreeRanks(0, found=found), claim.file.parent, claim.run)
        return str(refused.value)

    both = said(0, errno.EROFS, UNSEEN)
    assert "rank 1 on n1 cannot write" in both and "rank 2" not in both
    monkeypatch.setattr(shared_folder, "NAMED", 1)
    assert "rank 1 on n1 and 1 more does not find" in said(0, UNSEEN, UNSEEN)
    assert "rank 2 on n2 does not find" in said(0, 0, UNSEEN)


def test_that_the_folder_cannot_be_taken_is_said_to_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    class Asked(ThreeRanks):
        def gather(self, v: np.ndarray) -> np.ndarray:
            told.append(v[0].tobytes())
            return super().gather(v)

    def busy(out: Path) -> None:
        raise ConfigurationError("a run is in progress")

    monkeypatch.setattr(shared_folder, "RunLock", busy)
    with pytest.raises(ConfigurationError, match="a run is in progress"), held(Asked(0), tmp_path):
        pass
    assert told and told[0].startswith(b"a run is in progress")


def test_a_claim_that_a_cache_of_the_host_hides_is_looked_for_again(
    claim: RunLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looks = lease.read, []

    def cached(file: Path) -> tuple[bytes, lease.Lease | None]:
        looks.append(file)
        return read(file) if len(looks) > 3 else (b"", None)

    monkeypatch.setattr(shared_folder, "SEEN_WITHIN_S", 20.0)
    monkeypatch.setattr(lease, "read", cached)
    check_shared(ThreeRanks(1, claim.run), claim.file.parent, "")
    assert len(looks) == 4


def test_only_the_first_rank_looks_whether_the_folder_is_there_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS would go on saying to the host that it is not, for a minute."""
    looked = []
    monkeypatch.setattr(Path, "exists", lambda path: looked.append(path))
    with nothing_left(tmp_path / "run", first=False):
        pass
    assert not looked


def test_the_folder_is_given_back_when_the_job_cannot_begin_and_kept_when_it_does(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="rank 2 on n2"):
        with held(ThreeRanks(0, found=(0, 0, errno.EROFS)), tmp_path):
            raise AssertionError("it is not one folder for all")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), held(ThreeRanks(0), tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with held(ThreeRanks(0), tmp_path) as ours:
        pass
    assert ours is not None and ours.file.exists()
    ours.end()
    for rank in (1, 2):  # they have claimed nothing, and give nothing back
        with pytest.raises(ConfigurationError, match="does not find"):
            with held(ThreeRanks(rank, "another"), tmp_path):
                pass
