"""The plan made again from a record: against the run itself, and where it cannot be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.analysis.planned import Unplannable, planned, steps_per_epoch
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Header, Trajectory, Writer

SMALL = ["--task.hidden=2", "--workers=2", "--figures=false", "--evaluate-every=0"]
SCHEDULES = {
    "every": ["--schedule.steps=7"],
    "post_local": ["--schedule.switch=40%", "--schedule.every=5"],
    "phases": [],
    "qsr": ["--schedule.alpha=0.2"],
    "doubling": ["--schedule.every=20%"],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_plan_is_what_a_run_did(tmp_path: Path, name: str) -> None:
    options = ["--epochs=0.8", f"--schedule={name}", *SCHEDULES[name], f"--out={tmp_path}"]
    assert train([*SMALL, *options]) == 0
    run = Trajectory(tmp_path)
    plan = planned(run)
    np.testing.assert_array_equal(plan.begins, run.rounds.step_begin)
    np.testing.assert_array_equal(plan.ends, run.rounds.step_end)
    np.testing.assert_allclose(plan.lr, run.rounds.lr, rtol=1e-12)
    assert plan.steps == 36 and steps_per_epoch(run) == 1437 / 32


def test_of_a_killed_run_the_plan_goes_on_where_the_record_ends(tmp_path: Path) -> None:
    run = recorded(tmp_path, steps=100, ended_at=30)
    plan = planned(run)
    assert plan.steps == 100 and plan.ends[-1] == 100
    assert plan.until(30) == 7 and len(plan.ends) == 25


def test_a_plan_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    spread = "schedule: {class_path: hpc_localsgd.schedules.local_steps.spread_triggered}"
    users_own = "schedule: {class_path: my_package.my_schedule}"
    later = "schedule: {class_path: hpc_localsgd.every, init_args: {steps: 4, then: 5}}"
    cases = [
        (recorded(tmp_path / "a", config=spread), "measured spread"),
        (recorded(tmp_path / "b", config=users_own), "my_package.my_schedule"),
        (recorded(tmp_path / "c", config=later), "another version"),
        (recorded(tmp_path / "d", steps=0, ended_at=4), "how long it was to be"),
        (recorded(tmp_path / "e", config="a: ["), "not YAML"),
    ]
    for run, why in cases:
        with pytest.raises(Unplannable, match=why):
            planned(run)


def test_records_of_before_there_was_a_length_tell_it_when_complete(tmp_path: Path) -> None:
    run = recorded(tmp_path, steps=0, ended_at=40, status="complete", config="epochs: 8")
    assert planned(run).steps == 40
    assert steps_per_epoch(run) == 5


def recorded(
    folder: Path, steps: int = 100, ended_at: int = 8, status: str = "", config: str = ""
) -> Trajectory:
    """A record of rounds of four steps at a constant rate."""
    text = "rate: {class_path: hpc_localsgd.schedules.rates.constant}\n"
    if "schedule" not in config:
        text += "schedule: {class_path: hpc_localsgd.every, init_args: {steps: 4}}\n"
    names = {"task": "t", "algorithm": "LocalSGD", "schedule": "every(4)", "world": "mpi"}
    header = Header(text + config, **names, K=2, P=3, seed=0, steps=steps)
    writer = Writer(folder, header, mode="overwrite")
    for t in range(0, ended_at - 3, 4):
        row = {"compute_s": 1.0, "wait_s": 0.5, "transfer_s": 0.1, "payload_bytes": 12}
        writer.round(step_begin=t, step_end=t + 4, lr=0.1, **row)
    writer.close(status) if status else writer.flush()
    return Trajectory(folder)
