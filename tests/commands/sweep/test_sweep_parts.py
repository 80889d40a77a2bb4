"""How a sweep counts: what is left, how long it takes, whose folders, who starts a run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from hpc_localsgd.commands.sweep import running
from hpc_localsgd.commands.sweep.members import MOST, Member, members
from hpc_localsgd.commands.sweep.progress import ProgressLine
from hpc_localsgd.commands.sweep.running import PATIENCE_S, Crew
from hpc_localsgd.commands.sweep.status import UNREADABLE, Standing, standing
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.errors import ConfigurationError

GRID = {"steps": {"10": {"steps": "10"}, "20": {"steps": "20"}}}


@pytest.mark.parametrize(
    ("total", "done", "jobs", "left_s"), [(10, 2, 3, 60 * 7 / 3), (4, 2, 3, 60), (3, 2, 3, 0)]
)
def test_the_rest_takes_as_long_as_the_runs_so_far_and_fewer_at_its_end(
    total: int, done: int, jobs: int, left_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    (member, _) = members({}, GRID, [0])
    ProgressLine(total, done, jobs, terminal=False).ended(member, "complete", 60.0)
    left = f"; about {human_seconds(left_s)} left" if left_s else ""
    said = f"[{done + 1}/{total}] {member.title}: complete, {human_seconds(60.0)}{left}\n"
    assert capsys.readouterr().out == said


def test_folders_of_a_sweep_and_of_strangers(tmp_path: Path) -> None:
    first, second = members({}, GRID, [0])
    for name in (first.name, "old", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trajectory.h5").write_text("no HDF5")
    found = standing([first, second], tmp_path)
    assert found.of == {first.name: UNREADABLE, second.name: "none"}
    assert found.strangers == ("another", "old")
    assert found.counted() == "1 not begun, 1 unreadable"


def test_what_has_ended_is_not_done_again() -> None:
    runs = members({}, GRID, [0, 1])
    words = ("complete", "stopped", "diverged", "running")
    found = Standing({run.name: word for run, word in zip(runs, words, strict=True)}, ())
    assert found.pending(runs) == [runs[1], runs[3]]


def test_as_many_runs_as_there_may_be_and_none_more() -> None:
    assert len(members({}, {}, range(MOST))) == MOST
    with pytest.raises(ConfigurationError, match="10,001 runs"):
        members({}, {}, range(MOST + 1))


def test_a_run_without_a_grid_is_called_all_and_long_names_are_cut() -> None:
    (plain,) = members({}, {}, [3])
    assert plain.title == "all, seed 3" and plain.name.startswith("seed-3-")
    (named,) = members({}, {"method": {200 * "long": {"steps": "1"}}}, [3])
    assert len(named.name) == 100 + 9


def crew(monkeypatch: pytest.MonkeyPatch, out: Path, launch: tuple[str, ...] = ()) -> Crew:
    """One whose runs are not started: who would start them is all there is of them."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(running, "Forked", lambda words, log: "forked")
    monkeypatch.setattr(running, "launched", lambda launch, words, log: launch)
    return Crew(out, 1, launch)


def test_a_run_whose_loaders_fork_is_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def started(launch: tuple[str, ...], **options: str) -> object:
        member = Member({}, 0, dict(options), "run")
        return crew(monkeypatch, tmp_path, launch)._start(member).process

    assert started(()) == "forked"
    assert started((), **{"task.loaders": "2"}) == ()
    assert started(("mpirun",)) == ("mpirun",)


def test_a_second_request_to_stop_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = crew(monkeypatch, tmp_path)
    monkeypatch.setattr(running.time, "monotonic", lambda: 100.0)
    asked._stop(signal.SIGUSR1, None)
    assert asked.asked and asked._kill_at_s == 100.0 + PATIENCE_S
    monkeypatch.setattr(running.time, "monotonic", lambda: 110.0)
    asked._stop(signal.SIGUSR2, None)  # Slurm's, which comes by itself
    assert asked._kill_at_s == 100.0 + PATIENCE_S
    asked._stop(signal.SIGINT, None)
    assert asked._kill_at_s == 110.0


def test_no_more_runs_at_a_time_than_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ended:
        def poll(self) -> int:
            return 0

    one, begun, most = crew(monkeypatch, tmp_path), [], []
    monkeypatch.setattr(running, "Forked", lambda words, log: begun.append(log) or Ended())
    ended: list[str] = []

    def noted(member: Member, status: int, seconds: float) -> None:
        ended.append(member.name)
        most.append(len(begun) - len(ended) + 1)

    one.run(members({}, GRID, [0, 1]), noted)
    assert len(ended) == 4 and max(most) == 1


@pytest.mark.usefixtures("signals_of_a_login")
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_reaches_the_run_that_is_just_being_started(
    by: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(words: object, log: Path) -> running.Process:
        begun = subprocess.Popen(["sleep", "50"])
        os.kill(os.getpid(), by)
        return begun

    monkeypatch.setattr(running, "Forked", start)
    ends: list[int] = []
    Crew(tmp_path, 1).run(members({}, GRID, [0]), lambda member, status, s: ends.append(status))
    assert ends == [-signal.SIGUSR2]  # told, and not killed a minute later; the second never began
