"""What `slurm/job.sh` makes of the ways a launch can end. Small scripts play Slurm's part."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import ROOT, until

LAUNCHER = """#!/bin/bash
# Ranks: end as told, or when a signal comes.
trap 'echo signalled >>"$TOLD"; kill $!; exit ${ON_USR2:-85}' USR2
echo "$(basename "$0") $*" >>"$TOLD"
at=$OUT/checkpoints/step-1
[[ -z ${CHECKPOINT:-} ]] || { mkdir -p "$at"; touch "$at/rank-0-of-1.pt"; }
[[ -z ${FOREVER:-} ]] || { sleep 60 >/dev/null 2>&1 & wait; }
exit "${ENDS_WITH:-0}"
"""
SCONTROL = """#!/bin/bash
case $1 in
show) echo "n1"; echo "n2" ;;
requeue) echo "requeued $2" >>"$TOLD"; exit "${REFUSES:-0}" ;;
esac
"""
SQUEUE = """#!/bin/bash
echo "${STATE-RUNNING}"
"""
SCRIPT = """#!/bin/bash
set -euo pipefail
source slurm/job.sh
begin "$OUT"
preflight
launch train it
finish
"""


@dataclass
class Ended:
    status: int
    text: str
    told: str

    @property
    def requeued(self) -> bool:
        return "requeued 7" in self.told


class Stage:
    """A job that believes to be Slurm's job 7."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.told = folder, folder / "out", folder / "told"
        scripts = {"srun": LAUNCHER, "mpirun": LAUNCHER, "horovodrun": LAUNCHER}
        for name, text in {**scripts, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "script").write_text(SCRIPT)
        (folder / "site.sh").write_text(
            f"source slurm/sites/default.sh\nPATH={folder}:$PATH PYTHON=true\n"
        )

    def start(self, **variables: str) -> subprocess.Popen[str]:
        self.told.write_text("")
        env = {
            **os.environ,
            "SITE": str(self.folder / "site.sh"),
            "TOLD": str(self.told),
            "OUT": str(self.out),
            "PREFLIGHT": "0",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NTASKS": "4",
            **variables,
        }
        return subprocess.Popen(
            ["bash", str(self.folder / "script")],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **variables: str) -> Ended:
        return self.end(self.start(**variables))

    def end(self, job: subprocess.Popen[str]) -> Ended:
        text, _ = job.communicate(timeout=30)
        return Ended(job.returncode, text, self.told.read_text())

    def is_training(self) -> bool:
        return " train it" in self.told.read_text()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield Stage(tmp_path)


@pytest.mark.parametrize(
    ("ends_with", "requeued", "said"),
    [
        ("0", False, "done"),
        ("2", False, "refused"),
        ("3", False, "diverged"),
        ("85", True, "stopped on request; back into the queue"),
        ("140", True, "stopped on request; back into the queue"),
        ("1", True, "failed with status 1, 1 of 3 times"),
        ("137", True, "failed with status 137, 1 of 3 times"),
    ],
)
def test_what_is_done_about_a_status(
    stage: Stage, ends_with: str, requeued: bool, said: str
) -> None:
    ended = stage.run(ENDS_WITH=ends_with)
    assert ended.requeued is requeued and said in ended.text, ended
    assert ended.status == (0 if requeued else int(ends_with))


def test_failures_without_progress_are_bounded(stage: Stage) -> None:
    assert [stage.run(ENDS_WITH="1").requeued for _ in range(3)] == [True, True, False]


def test_failures_with_progress_between_them_are_not_counted_together(stage: Stage) -> None:
    runs = [
        stage.run(ENDS_WITH="1", CHECKPOINT=written) for written in ("1", "1", "1", "1", "", "")
    ]
    assert [run.requeued for run in runs] == [True] * 5 + [False]


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_stop_signal_is_handed_on(stage: Stage, launcher: str) -> None:
    job = stage.start(FOREVER="1", LAUNCHER=launcher)
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert "signalled" in ended.told and ended.requeued and ended.status == 0, ended


def test_horovodrun_gets_a_file_instead_of_a_signal(stage: Stage) -> None:
    job = stage.start(FOREVER="1", LAUNCHER="horovodrun")
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGUSR2)
    until((stage.out / "STOP").exists, 20, "the file STOP is there")
    assert job.poll() is None and "signalled" not in stage.told.read_text()
    (pid,) = children(job.pid)
    os.kill(pid, signal.SIGUSR2)  # what the ranks would do about the file
    assert stage.end(job).requeued
    assert not stage.run(LAUNCHER="horovodrun").requeued  # the next start is not stopped by it
    assert not (stage.out / "STOP").exists()


def test_a_signal_before_the_training_starts_nothing(stage: Stage) -> None:
    job = stage.start(FOREVER="1", PREFLIGHT="1", ON_USR2="140")
    until(lambda: "doctor" in stage.told.read_text(), 20, "the doctor is at work")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert ended.requeued and " train it" not in ended.told, ended


def test_what_is_cancelled_is_not_requeued(stage: Stage) -> None:
    job = stage.start(FOREVER="1")
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGTERM)
    ended = stage.end(job)
    assert "signalled" in ended.told and not ended.requeued and ended.status == 85, ended
    assert not stage.run(ENDS_WITH="85", STATE="COMPLETING").requeued


def test_a_job_that_must_not_be_requeued_says_how_to_go_on(stage: Stage) -> None:
    ended = stage.run(ENDS_WITH="85", REFUSES="1")
    assert ended.status == 85 and "to go on, submit it again" in ended.text


def test_a_problem_found_by_the_doctor_starts_nothing(stage: Stage) -> None:
    ended = stage.run(ENDS_WITH="1", PREFLIGHT="1")
    assert ended.status == 2 and not ended.requeued and " train it" not in ended.told, ended
    # What was well at the first start is a bad node now.
    assert stage.run(ENDS_WITH="1", PREFLIGHT="1", SLURM_RESTART_COUNT="1").requeued


def test_two_jobs_do_not_write_into_one_folder(stage: Stage) -> None:
    stage.run()
    ended = stage.run(SLURM_JOB_ID="8", STATE="PENDING")
    assert ended.status == 2 and "belongs to job 7 (PENDING)" in ended.text, ended
    assert stage.run(SLURM_JOB_ID="8", STATE="").status == 0


def test_the_script_and_the_environment_are_kept_without_secrets(stage: Stage) -> None:
    stage.run(MY_API_KEY="hush", MY_SETTING="loud")
    kept = {path.name: path.read_text() for path in (stage.out / "slurm").iterdir()}
    assert kept["job-7.sbatch"] == SCRIPT
    assert "MY_SETTING=loud" in kept["environment-7.txt"]
    assert "hush" not in kept["environment-7.txt"]


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "horovodrun"])
def test_every_launcher_is_told_the_ranks(stage: Stage, launcher: str) -> None:
    told = stage.run(LAUNCHER=launcher).told
    ranks = {"srun": "--nodes=2 --ntasks=4", "mpirun": "-np 4", "horovodrun": "-np 4 -H n1:2,n2:2"}
    assert ranks[launcher] in told and told.startswith(launcher), told


def test_an_unknown_launcher_is_refused(stage: Stage) -> None:
    ended = stage.run(LAUNCHER="mpiexec")
    assert ended.status == 2 and "give srun, mpirun or horovodrun" in ended.text


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
