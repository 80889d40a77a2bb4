"""Several trainings in one job, each in a part of its ranks."""

from __future__ import annotations

import re
from pathlib import Path

import launching
import pytest

pytestmark = pytest.mark.launched

SCRIPT = str(Path(__file__).with_name("halves_of_a_job.py"))


HOW = ("mpi", "hvd", "set")


@pytest.fixture(scope="module")
def said() -> str:
    """What four ranks say that train in every way, one after another."""
    return launching.run(launching.mpirun(4), [SCRIPT, "found", *HOW]).succeeded().text


def test_horovod_is_found_under_mpirun(said: str) -> None:
    found = re.findall(r"found: half .: rank (\d) of 4 in horovod\(.*, (-?\d\.\d+)\n", said)
    assert sorted(rank for rank, _ in found) == ["0", "1", "2", "3"], said
    assert len({weight for _, weight in found}) == 1


@pytest.mark.parametrize("how", HOW)
def test_two_halves_train_side_by_side(said: str, how: str) -> None:
    found = re.findall(rf"{how}: half (\d): rank (\d) of 2 in .*, (-?\d\.\d+)\n", said)
    assert sorted((half, rank) for half, rank, _ in found) == [
        ("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"),
    ]  # fmt: skip
    weights = {half: {w for h, _, w in found if h == half} for half in "01"}
    assert len(weights["0"]) == len(weights["1"]) == 1 and weights["0"] != weights["1"]
