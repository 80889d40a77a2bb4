"""What `slurm/job.sh` makes of the ways a launch can end. Small scripts play Slurm's part."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from launching import until
from stage import SCRIPT, SILENT, Stage

OF_A_JOB = "WORKERS TASKS_PER_NODE LEAST CRASHES STOPS ANSWER PAUSE CONFIG BATCH STEPS".split()


@pytest.mark.parametrize(
    ("ends_with", "requeued", "said"),
    [
        ("0", False, "done"),
        ("2", False, "refused"),
        ("3", False, "diverged"),
        ("87", False, "its folder or record is gone"),
        ("85", True, "stopped on request; back into the queue"),
        ("140", True, "stopped on request; back into the queue"),
        ("1", True, "failed with status 1; back into the queue"),
        ("137", True, "failed with status 137; back into the queue"),
    ],
)
def test_what_is_done_about_a_status(
    stage: Stage, ends_with: str, requeued: bool, said: str
) -> None:
    ended = stage.run(ENDS_WITH=ends_with)
    assert ended.requeued is requeued and said in ended.text, ended
    assert ended.status == (0 if requeued else int(ends_with))


def test_failures_without_progress_are_bounded(stage: Stage) -> None:
    ends = [stage.run(ENDS_WITH="1") for _ in range(3)]
    assert [ended.requeued for ended in ends] == [True, True, False]
    assert "failed with status 1, 2 of 3 times without progress" in ends[1].text
    assert "failed 3 times without progress: giving up" in ends[2].text


def test_progress_is_a_start_that_begins_further_and_not_what_one_leaves(stage: Stage) -> None:
    """Failing at one step after another, then always at the same one."""
    runs = [
        stage.run(ENDS_WITH="1", BEGAN=step) for step in ("0", "50", "90", "90", "40", "", "120")
    ]
    assert [run.requeued for run in runs] == [True, True, True, True, False, False, True]


def test_a_node_that_cannot_say_where_a_start_began_is_no_progress(stage: Stage) -> None:
    runs = [stage.run(ENDS_WITH="1", BEGAN=step, BROKEN="1") for step in ("0", "50", "90")]
    assert [run.requeued for run in runs] == [True, True, False]


def test_stops_without_progress_are_bounded_too(stage: Stage) -> None:
    """A time limit that is too short for the start and a first checkpoint."""
    runs = [stage.run(ENDS_WITH=status, STOPS="3") for status in ("140", "85", "85")]
    assert [run.requeued for run in runs] == [True, True, False] and runs[-1].status == 85
    assert "stopped 3 times without progress: giving up" in runs[-1].text


def test_a_folder_that_is_an_option_is_refused(stage: Stage) -> None:
    ended = stage.run("sharpness.sbatch", "--samples", "64", str(stage.out))
    assert ended.status == 2 and "--samples: give the folder of the run first" in ended.text


def test_stops_with_progress_are_not(stage: Stage) -> None:
    runs = [stage.run(ENDS_WITH="85", STOPS="2", BEGAN=str(step)) for step in range(4)]
    assert all(run.requeued for run in runs)


@pytest.mark.parametrize("options", [(), ("--out={}/curvature.h5",), ("--out", "{}/two words.h5")])
def test_progress_of_sharpness_is_the_growth_of_its_file(
    stage: Stage, options: tuple[str, ...]
) -> None:
    options = tuple(option.format(stage.folder) for option in options)
    file = Path(options[-1].removeprefix("--out=")) if options else stage.out / "sharpness.h5"
    requeued = []
    for text in ("", "a", "ab", "ab", "ab"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        run = stage.run("sharpness.sbatch", str(stage.out), *options, ENDS_WITH="140", STOPS="3")
        requeued.append(run.requeued)
    assert requeued == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("launcher", "number"), [("srun", signal.SIGUSR2), ("mpirun", signal.SIGUSR1)]
)
def test_a_stop_signal_is_handed_on(stage: Stage, launcher: str, number: int) -> None:
    """Slurm's, by --signal=B:USR2@120 as in the templates, or USR1 as with other programs."""
    job = stage.start(FOREVER="1", LAUNCHER=launcher)
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(number)
    ended = stage.end(job)
    assert "signalled" in ended.told and ended.requeued and ended.status == 0, ended


def test_horovodrun_gets_a_file_instead_of_a_signal(stage: Stage) -> None:
    job = stage.start(FOREVER="1", LAUNCHER="horovodrun")
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGUSR2)
    until((stage.out / "STOP").exists, 20, "the file STOP is there")
    assert job.poll() is None and "signalled" not in stage.told.read_text()
    (pid,) = children(job.pid, "horovodrun")
    os.kill(pid, signal.SIGUSR2)  # what the ranks would do about the file
    assert stage.end(job).requeued
    assert not stage.run(LAUNCHER="horovodrun").requeued  # the next start is not stopped by it
    assert not (stage.out / "STOP").exists()


def test_horovodrun_is_asked_again_when_its_ranks_were_just_beginning(stage: Stage) -> None:
    job = stage.start(STARTING="1", LAUNCHER="horovodrun", ENDS_WITH="1", PAUSE="1")
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert ended.requeued and "stopped on request; back into the queue" in ended.text, ended


@pytest.mark.parametrize("preflight", ["0", "1"])
def test_horovodrun_is_ended_where_nobody_looks_for_the_file(stage: Stage, preflight: str) -> None:
    stage.out.mkdir()
    job = stage.start(
        "sharpness.sbatch", str(stage.out), FOREVER="1", LAUNCHER="horovodrun", PREFLIGHT=preflight
    )
    until(lambda: "horovodrun" in stage.told.read_text(), 20, "it measures, or the doctor looks")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert ended.requeued and "stopped on request; back into the queue" in ended.text, ended


def test_a_signal_before_the_training_starts_nothing(stage: Stage) -> None:
    job = stage.start(FOREVER="1", PREFLIGHT="1", ON_USR2="140")
    until(lambda: "doctor" in stage.told.read_text(), 20, "the doctor is at work")
    job.send_signal(signal.SIGUSR2)
    ended = stage.end(job)
    assert ended.requeued and "train it" not in ended.told, ended


def test_what_is_cancelled_is_not_requeued(stage: Stage) -> None:
    job = stage.start(FOREVER="1")
    until(stage.is_training, 20, "the ranks train")
    job.send_signal(signal.SIGTERM)
    ended = stage.end(job)
    assert "signalled" in ended.told and not ended.requeued and ended.status == 85, ended
    assert not stage.run(ENDS_WITH="85", STATE="COMPLETING").requeued


def test_a_job_that_must_not_be_requeued_says_how_to_go_on(stage: Stage) -> None:
    ended = stage.run(ENDS_WITH="85", REFUSES="99", PAUSE="0.1")
    assert ended.status == 85 and "to continue, submit it again" in ended.text


def test_slurm_may_be_silent_for_a_while_when_a_job_wants_back_into_the_queue(stage: Stage) -> None:
    assert stage.run(ENDS_WITH="85", REFUSES="2", PAUSE="0.1").status == 0
    ended = stage.run(ENDS_WITH="85", **SILENT)
    assert ended.requeued and ended.status == 0, ended


def test_an_element_of_an_array_requeues_itself_and_not_the_array(stage: Stage) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert "requeued 7_3\n" in stage.run(ENDS_WITH="85", **array).told
    unheard_of = {"SQUEUE_FAILS": "Invalid job id specified"}
    assert "requeued 7_3\n" in stage.run(ENDS_WITH="85", **array, **unheard_of).told


def test_a_job_that_an_element_of_an_array_submitted_is_not_that_element(stage: Stage) -> None:
    """Its environment has the variables of that one, which would be requeued in its place."""
    outer = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1", "NAMED": "7"}
    ended = stage.run(ENDS_WITH="85", **outer)
    assert ended.told.endswith("requeued 7\n") and "[job 7.0 " in ended.text, ended
    assert (stage.out / "slurm" / "owner").read_text() == "7\n"


def test_a_problem_found_by_the_doctor_starts_nothing(stage: Stage) -> None:
    ended = stage.run(ENDS_WITH="1", PREFLIGHT="1")
    assert ended.status == 2 and not ended.requeued and "train it" not in ended.told, ended
    # What was well at the first start is a bad node now.
    assert stage.run(ENDS_WITH="1", PREFLIGHT="1", SLURM_RESTART_COUNT="1").requeued


def test_a_doctor_that_crashes_is_asked_once_more(stage: Stage) -> None:
    ended = stage.run(ENDS_WITH="139", PREFLIGHT="1")
    assert ended.told.count("hpc_localsgd doctor") == 2 and "train it" not in ended.told, ended
    assert ended.status == 2 and "crashed, with status 139: once more" in ended.text, ended
    # What it does say is not asked twice.
    assert stage.run(ENDS_WITH="1", PREFLIGHT="1").told.count("hpc_localsgd doctor") == 1


def test_a_doctor_that_crashed_once_holds_up_nothing(stage: Stage) -> None:
    ended = stage.run(CRASHES_FIRST="1", PREFLIGHT="1")
    assert ended.told.count("hpc_localsgd doctor") == 2 and ended.status == 0, ended
    assert ended.told.count("train it") == 1, ended


def test_two_jobs_do_not_write_into_one_folder(stage: Stage) -> None:
    stage.run()
    ended = stage.run(SLURM_JOB_ID="8", STATE="PENDING")
    assert ended.status == 2 and "belongs to job 7 (PENDING)" in ended.text, ended
    assert stage.run(SLURM_JOB_ID="8", STATE="").status == 0


def test_an_owner_that_slurm_does_not_tell_of_is_still_there(stage: Stage) -> None:
    stage.run()
    ended = stage.run(SLURM_JOB_ID="8", **SILENT)
    assert ended.status == 2 and "belongs to job 7 (unknown)" in ended.text, ended
    unheard_of = "Invalid job id specified"
    assert stage.run(SLURM_JOB_ID="8", SQUEUE_FAILS=unheard_of).status == 0


def test_of_two_jobs_that_come_at_the_same_moment_one_gets_the_folder(stage: Stage) -> None:
    stage.run()
    jobs = [stage.start(SLURM_JOB_ID=number, GONE="7") for number in ("8", "9")]
    ends = [stage.end(job) for job in jobs]
    assert sorted(ended.status for ended in ends) == [0, 2], ends


def test_an_owner_without_a_name_and_a_lock_without_a_job_are_no_hindrance(stage: Stage) -> None:
    kept = stage.out / "slurm"
    (kept / "owner.lock").mkdir(parents=True)
    (kept / "owner").touch()
    stage.sleeps_for(0.02)
    ended = stage.run()
    assert ended.status == 0 and (kept / "owner").read_text() == "7\n", ended


def test_the_script_and_the_settings_are_kept_without_secrets(stage: Stage) -> None:
    secrets = {
        "MY_API_KEY": "hush",
        "X_PRIVATE_KEY": "-----BEGIN-----\nhush\nSLURM_HUSH=hush\n-----END-----",
        "HTTPS_PROXY": "http://user:hush@proxy",
        "NCCL_PROXY": "http://user:hush@proxy",
        "MYSQL_PWD": "hush",
        "PGPASS": "hush",
        "GITHUB_PAT": "hush",
        "SLURM_JWT": "hush",
        "HOROVOD_SECRET_KEY": "hush",
    }
    of_the_job = {name: str(i) for i, name in enumerate(OF_A_JOB, 1)}
    stage.run(NCCL_DEBUG="INFO", OMPI_MCA_btl="self,\ntcp", XWORKERS="1", **of_the_job, **secrets)
    kept = {path.name: path.read_text() for path in (stage.out / "slurm").iterdir()}
    assert kept["job-7.sbatch"] == SCRIPT
    lines = kept["environment-7.txt"].splitlines()
    assert {"NCCL_DEBUG=INFO", "SLURM_JOB_ID=7", "OMPI_MCA_btl=$'self,\\ntcp'"} <= set(lines)
    assert {f"{name}={value}" for name, value in of_the_job.items()} <= set(lines)
    assert "hush" not in kept["environment-7.txt"].lower()
    assert "XWORKERS" not in kept["environment-7.txt"]
    assert (stage.out / "slurm" / "environment-7.txt").stat().st_mode & 0o077 == 0


def children(pid: int, program: str) -> list[int]:
    """Child processes that run a program; a fork that has not begun one has its parent's name."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-x", program], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]
