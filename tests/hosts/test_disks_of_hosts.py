"""What the disk of one host refuses is said with its name, and what to do."""

from __future__ import annotations

from pathlib import Path

from hosts import Hosts
from test_ranks_on_hosts import over_mpi, refused


def test_a_folder_that_is_read_only_on_one_host_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    out = tmp_path / "mounted" / "run"
    out.parent.mkdir()
    with hosts["b"].read_only(out.parent):
        outcome = over_mpi(hosts, out)
    refused(outcome, f"rank 1 on b cannot write to --out {out}", "read-only", "leave that host out")
    assert not list(out.parent.iterdir())


def test_a_full_disk_of_one_host_is_named_and_the_others_keep_theirs(
    hosts: Hosts, tmp_path: Path
) -> None:
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    with hosts["b"].own(kept, "size=8k"):
        outcome = over_mpi(hosts, tmp_path / "run")
    assert outcome.status == 1
    assert f"rank 1 on b: no checkpoint of step 24 in {kept}: the disk is full" in outcome.text
    assert "not all of it is on disk: make space" in outcome.text
    assert "rank 0 on a: no checkpoint" not in outcome.text and list(kept.rglob("rank-0-of-2.pt"))
