"""What only one of two hosts has is refused: another folder, other code."""

from __future__ import annotations

import shutil
from pathlib import Path

from hosts import Hosts
from launching import ROOT, Outcome, mpirun, train

SMALL = ("--task.hidden=8", "--world=mpi", "--steps=24", "--schedule=every", "--schedule.steps=4")
SMALL += ("--snapshot-every=12",)
ON_BOTH = ("--host", "a:1,b:1")


def over_mpi(hosts: Hosts, out: Path) -> Outcome:
    """A small job with a rank on each host."""
    asked = [word for word in mpirun(2) if word != "--oversubscribe"]
    return train([*hosts["a"].on, *asked, *ON_BOTH], *SMALL, f"--out={out}")


def refused(outcome: Outcome, *words: str) -> None:
    """One sentence for the whole job, with these words; nothing was trained."""
    assert outcome.status == 2, outcome.text
    said = [line for line in outcome.text.splitlines() if "hpc_localsgd.train: " in line]
    assert len(said) == 1 and "Traceback" not in outcome.text, outcome.text
    for word in words:
        assert word in said[0]


def test_a_folder_that_is_not_shared_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    out = tmp_path / "own" / "run"
    out.parent.mkdir()
    with hosts["b"].own(out.parent):
        outcome = over_mpi(hosts, out)
    refused(outcome, f"--out {out} is not one folder for all ranks: rank 1 on b", "that all hosts")
    assert not list(out.parent.iterdir())


def test_other_code_on_one_host_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    package = ROOT / "hpc_localsgd"
    copy = tmp_path / "package"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "loop.py").open("a") as file:
        file.write("# a line more\n")
    with hosts["b"].other(package, copy):
        outcome = over_mpi(hosts, tmp_path / "run")
    refused(outcome, "rank 1 on b runs other software than rank 0 on a", "one environment")
    assert not (tmp_path / "run").exists()
