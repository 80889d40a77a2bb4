"""Each launcher puts ranks where it is told, on two and three hosts, and they train as on one.

Ranks know where they are: which they are on their host, and how many workers each host has. Two
hosts have a bridge of one address, as Docker makes them: see `test_bridges_of_hosts`, too. Where
hosts have unequal numbers of ranks, one launcher's train; those of the others say where they are,
which needs no library.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import Hosts
from launches import Layout, bridged, run_on
from launching import forked, run
from test_bridges_of_hosts import BEFORE_RUNS, WARNED, check_left_out, check_table

from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
# What ranks on one host import before they are forked.
FIRST = "import hpc_localsgd.commands.assembly.job, hpc_localsgd.commands.configuration.config"
COMMON = ("--task.hidden=8", "--steps=16", "--schedule=every", "--schedule.steps=4")
COMMON += ("--snapshot-every=8", "--evaluate-every=0", "--spread-every=0", "--figures=false")
COMMON += ("--replicas=loop",)  # on one host and on several alike
BY_HOST = ("--workers=4", "--algorithm=hierarchical", "--algorithm.rounds=[2]")
BY_TWO = (*BY_HOST, "--algorithm.blocks=[2]")
WORLDS = {"mpirun": "mpi", "horovodrun": "horovod", "gloo": "horovod", "torchrun": "torch"}
WORLDS |= {"srun": "horovod"}

pytestmark = pytest.mark.timeout(900)  # a bound, not a speed


@dataclass(frozen=True)
class Case:
    """Ranks on hosts, and what they train.

    Attributes:
        layout: Ranks on each host.
        runs: The options of each run, beside those that all have.
        shown: The four workers on their hosts, as a run says it.
        per_host: Workers on each host, or a part of the sentence that says why there is none.
    """

    layout: Layout
    runs: tuple[tuple[str, ...], ...]
    shown: str
    per_host: int | str


CASES = {
    # Two ranks: sums of two have no order, so the bits are those of one host.
    "1+1": Case({"a": 1, "b": 1}, (("--workers=4",), BY_HOST), "a x 2, b x 2", 2),
    "2+1": Case(
        {"a": 2, "b": 1}, ((*BY_TWO, "--dtype=float64"),), "a x 3, b x 1", "[3, 1] workers"
    ),
}
TRAINED = [*((launcher, "1+1") for launcher in WORLDS), ("horovodrun", "2+1")]
# Three hosts for the daemons of MPI and Slurm.
PLACED: list[tuple[str, Layout]] = [
    *((launcher, {"a": 1, "b": 2, "c": 1}) for launcher in ("mpirun", "srun")),
    *((launcher, {"a": 2, "b": 1}) for launcher in ("gloo", "torchrun")),
]


def written(folder: Path, runs: tuple[tuple[str, ...], ...], world: str) -> list[str]:
    """The files of the options of runs; run i goes to `folder/i`."""
    files = []
    for i, options in enumerate(runs):
        lines = [*COMMON, *options, f"--world={world}", f"--out={folder / str(i)}"]
        (folder / f"{i}.txt").write_text("\n".join(lines))
        files.append(str(folder / f"{i}.txt"))
    return files


@pytest.fixture(scope="module")
def on_one_host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Trajectory]]:
    """The runs of each case on this machine: two ranks where bits are compared, else one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    files = written(two, (CASES["1+1"].runs[0], BY_TWO), "torch")
    program = ["--first", FIRST, str(HERE / "placed_runs.py"), str(two)]
    run(forked(2), [*program, *files], 250).succeeded()
    assert main([*COMMON, *CASES["2+1"].runs[0], f"--out={one / '0'}"]) == 0
    return {"1+1": [Trajectory(two / "0"), Trajectory(two / "1")], "2+1": [Trajectory(one / "0")]}


@pytest.mark.parametrize(("launcher", "name"), TRAINED)
def test_ranks_are_where_they_were_asked_for_and_train_as_on_one_host(
    hosts: Hosts,
    on_one_host: dict[str, list[Trajectory]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    launcher: str,
    name: str,
) -> None:
    if launcher == "srun":
        request.getfixturevalue("slurm")
    case, world = CASES[name], WORLDS[launcher]
    examined = name == "1+1" and launcher in BEFORE_RUNS
    given = [*["doctor"] * examined, *written(tmp_path, case.runs, world)]
    with bridged(hosts, "a", "b") if name == "1+1" else nullcontext():
        program = [str(HERE / "placed_runs.py"), str(tmp_path)]
        ended = run_on(hosts, launcher, case.layout, [*program, *given])
    said = "".join(outcome.succeeded().text for outcome in ended)
    if examined:
        check_table(launcher, said)
    elif name == "1+1" and launcher in WARNED:
        check_left_out(said)
    check_places(tmp_path, case.layout)
    check_world(tmp_path, case, world)
    for i, one in enumerate(on_one_host[name]):
        assert f"workers on {case.shown}\n" in said and "without a rank" not in said
        check_same(Trajectory(tmp_path / str(i)), one, 0.0 if name == "1+1" else 1e-12)


@pytest.mark.parametrize(("launcher", "layout"), PLACED, ids=[name for name, _ in PLACED])
def test_ranks_in_unequal_numbers_are_where_they_were_asked_for(
    hosts: Hosts, request: pytest.FixtureRequest, tmp_path: Path, launcher: str, layout: Layout
) -> None:
    if launcher == "srun":
        request.getfixturevalue("slurm")
    for outcome in run_on(hosts, launcher, layout, [str(HERE / "placed.py"), str(tmp_path)]):
        outcome.succeeded()
    check_places(tmp_path, layout)


def ranks_of(case: Case) -> int:
    return sum(case.layout.values())


def places(folder: Path, n: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"place-{rank}").read_text()) for rank in range(n)]


def check_places(folder: Path, layout: Layout) -> None:
    """Each rank is on its host, knows which it is there, and of which hosts the job is."""
    n = sum(layout.values())
    expected = [(host, i) for host, ranks in layout.items() for i in range(ranks)]
    for rank, place in enumerate(places(folder, n)):
        assert (place["host"], place["local"]) == expected[rank], rank
        assert (place["rank"], place["size"]) == (rank, n)
        assert place["allocated"] in ([], [*layout])  # torchrun's agents do not know


def check_world(folder: Path, case: Case, world: str) -> None:
    """The library counts ranks as the launcher does, and blocks are the workers of a host."""
    for rank, place in enumerate(places(folder, ranks_of(case))):
        assert place["joined"] == rank and place["world"].startswith(f"{world}(")
        found, wanted = place["per_host"], case.per_host
        assert found == wanted if isinstance(wanted, int) else wanted in found, found


def check_same(ours: Trajectory, one: Trajectory, tolerance: float) -> None:
    start, *later = (ours.snapshot(t).mean for t in (0, 8, 16))
    assert ours.status == "complete" and np.linalg.norm(later[-1] - start) > 0.1
    for step, x in zip((8, 16), later, strict=True):
        y = one.snapshot(step).mean
        assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y), step
