"""`attach` on models that torch shards: all by two workers of two ranks, each claim waited for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import ROOT, Job, forked, started

pytestmark = pytest.mark.launched

CLAIMS = (  # by name: their modules load much of torch
    *("rounds_as_if_it_were_whole", "methods_as_if_it_were_whole"),
    *("other_methods_as_if_it_were_whole", "the_ledger_has_the_bytes_of_the_shards"),
    *("resumed_in_mid_round", "wrong_meshes_are_refused", "what_one_shard_finds_is_known_to_all"),
    *("whole_parameters_beside_shards", "tensors_cut_by_hand", "models_that_people_have"),
    *("muon_of_even_shards", "mixed_precision", "compiled_layers", "running_statistics"),
)


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """The example, and then all claims, in the ranks of one process."""
    example = [str(ROOT / "examples" / "fsdp_local_sgd.py"), "--steps", "24"]
    script = str(Path(__file__).with_name("sharded_ranks.py"))
    with started(forked(4), [*example, "+", script]) as job:
        yield job


def test_the_example_loses_nothing_and_resumes_in_mid_round(job: Job) -> None:
    said = said_until(job, "fsdp_local_sgd.py ended: [0, 0, 0, 0]")
    assert "resumed after 11 steps, in the middle of a round" in said
    in_shards, whole = map(float, re.findall(r"accuracy: (\S+) in shards, (\S+) whole", said)[0])
    assert in_shards == whole > 0.5
    assert float(re.findall(r"difference of a parameter: (\S+)", said)[0]) < 1e-12
    own, all_of_it = map(int, re.findall(r"sent (\d+) bytes of its shards \((\d+) of", said)[0])
    assert own * 2 == all_of_it == 3 * 8 * (64 * 128 + 128 + 128 * 10 + 10)


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_shards_holds(claim: str, job: Job) -> None:
    said_until(job, f"{claim} holds")


def test_nothing_else_was_claimed(job: Job) -> None:
    said = job.wait().succeeded().stdout
    assert re.findall(r"(\w+) holds", said) == list(CLAIMS)


def said_until(job: Job, line: str) -> str:
    """Return what the ranks have said when they have said a line; fails if they end before."""
    job.until(lambda: line in job.stdout.read_text(), 120, line)
    return job.stdout.read_text()
