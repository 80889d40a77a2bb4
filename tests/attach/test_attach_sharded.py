"""`attach` on models that torch shards: all by two workers of two ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launching import ROOT, forked, run
from sharded_ranks import CLAIMS

pytestmark = pytest.mark.launched


@pytest.fixture(scope="module")
def said() -> str:
    """What the ranks said."""
    example = [str(ROOT / "examples" / "fsdp_local_sgd.py"), "--steps", "40"]
    script = str(Path(__file__).with_name("sharded_ranks.py"))
    return run(forked(4), [*example, "+", script], timeout_s=120).succeeded().text


@pytest.mark.parametrize("claim", [claim.__name__ for claim in CLAIMS])
def test_what_is_claimed_of_shards_holds(claim: str, said: str) -> None:
    assert f"{claim} holds" in said, said[-3000:]


def test_the_example_loses_nothing_and_resumes_in_mid_round(said: str) -> None:
    assert "resumed after 19 steps, in the middle of a round" in said
    in_shards, whole = map(float, re.findall(r"accuracy: (\S+) in shards, (\S+) whole", said)[0])
    assert in_shards == whole > 0.5
    assert float(re.findall(r"difference of a parameter: (\S+)", said)[0]) < 1e-12
    own, all_of_it = map(int, re.findall(r"sent (\d+) bytes of its shards \((\d+) of", said)[0])
    assert own * 2 == all_of_it == 5 * 8 * (64 * 128 + 128 + 128 * 10 + 10)
