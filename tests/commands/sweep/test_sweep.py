"""`python -m hpc_localsgd sweep`: checked first, kept, gone on with, and what it says of it all."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from hpc_localsgd.commands.summary import status
from hpc_localsgd.commands.sweep import main
from hpc_localsgd.commands.sweep.running import LOGS
from hpc_localsgd.trajectory import Trajectory

FAST = {"task": "quadratic", "workers": 2, "steps": 12, "figures": False, "schedule": "every"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return asked(tmp_path, {"schedule.steps": [1, 3]})


def asked(folder: Path, grid: dict[str, object], seeds: str = "0,1", **options: object) -> Path:
    """A file that asks for a sweep in a folder beside it."""
    said = {"out": str(folder / "out"), "options": FAST | options, "grid": grid, "seeds": seeds}
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


def records(folder: Path) -> dict[str, int]:
    """Every record of a sweep, and when it was written."""
    found = (folder / "out").glob("*/trajectory.h5")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_runs_are_done_once_and_what_is_new_is_added(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--jobs", "2"]) == 0
    said = capfd.readouterr().out
    assert "4 runs in" in said and ": 4 not begun" in said and "[4/4]" in said
    assert said.count("2 seeds") == 2 and "test loss" in said and "communication (modelled)" in said
    before = records(tmp_path)
    assert len(before) == 4
    runs = [Trajectory(tmp_path / "out" / name) for name in before]
    assert sorted((run.attrs["seed"], run.attrs["schedule"]) for run in runs) == [
        (seed, f"every(steps={H})") for seed in (0, 1) for H in (1, 3)
    ]
    # Without anything to do, and with a grid that has changed:
    assert main([str(file)]) == 0
    assert "[1/4]" not in capfd.readouterr().out and records(tmp_path) == before
    asked(tmp_path, {"schedule.steps": [3, 6]}, seeds="0")
    assert main([str(file), "--launch", "env MARK=1"]) == 0  # as a process of its own
    said = capfd.readouterr().out
    after = records(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == 5
    gone = [name for name in before if name.startswith("steps=1_") or "seed-1" in name]
    assert f"not of this grid, and left alone: {', '.join(sorted(gone))}" in said


def test_a_sweep_that_is_stopped_goes_on_with_what_was_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = asked(tmp_path, {"schedule.steps": [5]}, steps=4_000, spread_every=0, evaluate_every=0)
    stopper = threading.Thread(target=_stop_when_one_has_begun, args=(tmp_path / "out",))
    stopper.start()
    assert main([str(file)]) == 85
    stopper.join()
    said = capfd.readouterr().out
    assert "the same command continues with what is left" in said and "FAILED" not in said
    (name,) = records(tmp_path)
    assert status(tmp_path / "out" / name) == "stopped"
    asked(tmp_path, {"schedule.steps": [5]}, "0", steps=4_000, spread_every=0, evaluate_every=0)
    assert main([str(file)]) == 0
    run = Trajectory(tmp_path / "out" / name)
    assert run.status == "complete" and len(run.paths) == 2  # it went on, and did not start over


def test_a_run_hears_requests_that_its_fork_server_was_started_with_blocked(tmp_path: Path) -> None:
    """That server is one for all of a process: loaders may have started it."""
    script = """if True:
        import signal, sys, types
        train = types.ModuleType("hpc_localsgd.commands.train")
        train.main = lambda words: len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        sys.modules[train.__name__] = train
        from hpc_localsgd.commands.sweep.processes import _train
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        _train([], sys.argv[1])
    """
    blocked = subprocess.run([sys.executable, "-c", script, str(tmp_path / "log")], check=False)
    assert blocked.returncode == 0
    assert (tmp_path / "log").read_text() == ""


def _stop_when_one_has_begun(out: Path, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until and not any(out.glob("*/trajectory.h5")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_one_that_fails_leaves_the_others_theirs(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder of the first run should be."""
    assert main([str(file), "--list"]) == 0 and not (tmp_path / "out").exists()
    assert main([str(file), "--slurm=write"]) == 0
    lines = next((tmp_path / "out").glob("array-*.txt")).read_text().splitlines()[1:]
    (out,) = [word[6:] for word in shlex.split(lines[0]) if word.startswith("--out=")]
    Path(out).write_text("")
    assert main([str(file), "--seeds", "0", "--jobs=2"]) == 1
    said = capfd.readouterr().out
    log = tmp_path / "out" / LOGS / f"{Path(out).name}.txt"
    assert f"FAILED with status 2 and no complete record, see {log}" in said
    assert len(records(tmp_path)) == 1 and "not all runs ended: 1 complete, 1 " in said


def test_a_launcher_that_says_all_is_well_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may have started the run in another folder; so the run is told its own from the root."""
    file, launcher = asked(tmp_path, {"schedule.steps": [1]}, "0"), tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert main([str(file), "--out", "here", "--launch", str(launcher)]) == 1
    said = capfd.readouterr().out
    assert "FAILED with status 0 and no complete record" in said and "complete," not in said
    (log,) = (tmp_path / "here" / LOGS).glob("*.txt")
    assert f"--out={tmp_path / 'here' / log.stem}" in log.read_text().splitlines()


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        (
            {"method": {"fine": {"seed_": 1}, "torus": {"algorithm": "gosip"}}},
            {},
            "fine: there is no option --seed-",
        ),
        ({"schedule.steps": [1, 2, "x"]}, {}, "x: "),
        (
            {"algorithm.topology": ["ring", "hypercube"]},
            {"algorithm": "gossip", "workers": 3},
            "hypercube: ",
        ),
        (
            {"method": {"a": {"steps": 9}, "b": {"steps": 9, "schedule.steps": 1}}},
            {},
            "b: it is the same run as a",
        ),
        ({"task.model": ["cnn8"]}, {"task": "mnist", "task.data": "/nowhere"}, "there is no MNIST"),
        (
            {"algorithm.rounds": [[2]]},
            {"algorithm": "hierarchical", "algorithm.blocks": [5]},
            "[2]: ",
        ),
    ],
)
def test_a_bad_member_is_said_in_one_message_before_anything_starts(
    grid: dict[str, object],
    options: dict[str, object],
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([str(asked(tmp_path, grid, **options))]) == 2
    shown = capfd.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and "nothing was started" in shown.err
    assert not shown.out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "0"], "--jobs 0: give at least one"),
        (["--sbatch", "-p x"], "add --slurm"),
        (["--slurm", "--launch", "mpirun"], "the site file launches"),
        (["--launch", "mpirun -np 3"], "workers"),
        (["--launch", "mpirun -np 2", "--", "--world", "simulated"], "leave --launch out"),
        (["--", "steps"], "'steps' behind `--`"),
    ],
)
def test_words_that_do_not_go_together(
    words: list[str], said: str, file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), *words]) == 2
    assert said in capfd.readouterr().err


def test_a_sweep_under_a_launcher_or_beside_another_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hpc_localsgd.commands.sweep.command import _held

    with _held(tmp_path / "out"):
        assert main([str(file)]) == 2
    assert "another sweep is at work in" in capfd.readouterr().err
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert main([str(file)]) == 2
    assert "mpirun started this sweep several times" in capfd.readouterr().err


def test_an_array_has_what_is_left_and_says_how_to_submit_it(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(tmp_path, {"schedule.steps": [1, 3]}, evaluate_every="10 steps")
    assert main([str(file), "--slurm=write", "--jobs", "2", "--sbatch", "-p gpu"]) == 0
    said = capfd.readouterr().out.splitlines()[-1]
    (array,) = (tmp_path / "out").glob("array-*.txt")
    assert said.endswith(f"SWEEP={array} sbatch --array=1-4%2 -p gpu slurm/sweep.sbatch")
    lines = array.read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("# 4 runs")
    words = shlex.split(lines[1])
    assert "--evaluate_every=10 steps" in words and "--resume=auto" not in words
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted $SWEEP with $* in $PWD"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert main([str(file), "--slurm"]) == 0
    told = capfd.readouterr().out.splitlines()[-1]
    assert told.startswith(f"Submitted {array} with --array=1-4 slurm/sweep.sbatch in ")
    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    assert main([str(file), "--slurm"]) == 2
    assert "Slurm refuses the sweep: invalid partition" in capfd.readouterr().err
