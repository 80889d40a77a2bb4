"""A fault of the request under a launcher: one message for all ranks, and nothing hangs.

Faults that all ranks meet are met one after another in a launch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ends_of_several import commands, statuses
from launching import Outcome, gloo, horovodrun, mpirun, run, train
from small_runs import files_below

from hpc_localsgd.commands.exit_codes import DIVERGED, FAULT

SHORT = ["--steps=200", "--batch-per-worker=4", "--task.hidden=8", "--figures=false"]
DIVERGING = ["--rate.lr=1e9", "--rate.warmup=0"]
BROKEN = "cannot --resume: "  # a record that only rank 0 has seen
# Name -> options, what is said, and the status.
Faults = dict[str, tuple[list[str], str, int]]
# Before ranks communicate: behind the last of them the launcher ends the ranks that are left.
AT_ONCE: Faults = {
    "name": (["--world=mpi", "--algorithm=locl_sgd"], "did you mean 'local_sgd'?", FAULT),
    "world": (["--world=simulated"], "mpirun started 2 processes", FAULT),
}
OF_MPI: Faults = {
    "diverges": (["--world=mpi", *DIVERGING], "is not finite in round", DIVERGED),
    "broken": (["--world=mpi", "--resume"], BROKEN, FAULT),
}
OF_HOROVOD: Faults = {
    "diverges": (["--world=horovod", *DIVERGING], "is not finite in round", DIVERGED),
    "batch": (["--batch-per-worker=800"], "--batch-per-worker 718 or less", FAULT),
}
LAUNCHES = {
    "mpirun, at once": (mpirun, AT_ONCE),
    "mpirun": (mpirun, OF_MPI),
    "horovodrun": (horovodrun, OF_HOROVOD),
}


def one_message_each(outcome: Outcome, *said: str) -> None:
    assert outcome.status != 0
    for words in said:
        assert outcome.text.count(words) == 1, outcome.text[-3000:]
    assert outcome.text.count("hpc_localsgd.train: ") == len(said), outcome.text[-3000:]
    # horovodrun itself ends with a traceback when a rank fails; ours would show our files.
    assert "/hpc_localsgd/" not in outcome.text, outcome.text[-3000:]


@pytest.mark.parametrize("name", LAUNCHES)
def test_all_ranks_refuse_or_end_with_one_message(name: str, tmp_path: Path) -> None:
    launcher, faults = LAUNCHES[name]
    outs = {fault: tmp_path / fault / "out" for fault in faults}
    before = {out: files_below(out) for out in outs.values()}
    if "broken" in faults:
        outs["broken"].mkdir(parents=True)
        (outs["broken"] / "trajectory.h5").write_bytes(b"precious")
        before[outs["broken"]] = {"trajectory.h5": b"precious"}
    words = {
        fault: ["train", *SHORT, *options, f"--out={outs[fault]}"]
        for fault, (options, _, _) in faults.items()
    }
    outcome = run(launcher(2), commands(tmp_path, words))
    one_message_each(outcome, *(said for _, said, _ in faults.values()))
    for fault, (_, _, status) in faults.items():
        assert set(statuses(outcome.text, tmp_path, fault)) == {status}, outcome.text[-3000:]
        assert status == DIVERGED or files_below(outs[fault]) == before[outs[fault]]


def test_more_ranks_than_workers_are_refused_by_one_message(tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = train(gloo(2), *SHORT, "--workers=1", f"--out={out}")
    one_message_each(outcome, "1 workers cannot be placed on 2 ranks")
    assert files_below(tmp_path) == {}
