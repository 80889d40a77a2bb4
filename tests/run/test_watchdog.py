"""When a rank is taken for hung, and whom the message names."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import small_run

from hpc_localsgd.run import watchdog
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints
from hpc_localsgd.run.stopping import HUNG, StopListener
from hpc_localsgd.run.watchdog import Watchdog


class Ranks:
    """The watchdogs of three ranks on one clock."""

    def __init__(self, out: Path, longest: int = 100, least_s: float = 60.0) -> None:
        self.now = 0.0
        self.keepers = [
            SimpleNamespace(begun=True, t=0, passed_s=0.0, mean_step_s=lambda: 0.5)
            for _ in range(3)
        ]
        self.stoppings = [StopListener() for _ in range(3)]
        for stopping in self.stoppings:
            stopping.look_at(out)
        self.dogs = [
            Watchdog(
                self.keepers[r],  # type: ignore[arg-type]
                SimpleNamespace(rank=r, n=3),  # type: ignore[arg-type]
                self.stoppings[r],
                out,
                longest,
                least_s,
                clock=lambda: self.now,
            )
            for r in range(3)
        ]

    def pass_s(self, seconds: int, steps: Any = (), alive: Any = (0, 1, 2)) -> None:
        """So many seconds pass; some ranks take steps, some are alive."""
        for _ in range(seconds):
            self.now += 1
            for r in steps:
                self.keepers[r].t += 2
                self.keepers[r].passed_s = self.now
            for r in alive:
                self.dogs[r].look()

    def asked(self) -> list[int]:
        return [r for r in range(3) if self.stoppings[r].asked == "a hang"]


def test_the_bound_grows_with_the_longest_round_at_the_pace_of_the_run(tmp_path: Path) -> None:
    assert Ranks(tmp_path).dogs[0].bound_s() == 60 + 3 * 100 * 0.5
    assert Ranks(tmp_path, longest=100_000).dogs[0].bound_s() > 40 * 3600


def test_a_rank_that_waits_for_a_slow_one_waits(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    ranks.pass_s(10, steps=(0, 1, 2))
    ranks.pass_s(200, steps=(2,))
    assert ranks.asked() == []


def test_a_rank_that_says_nothing_any_more_is_named_by_one_rank(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = Ranks(tmp_path)
    ranks.pass_s(10, steps=(0, 1, 2))
    ranks.pass_s(240, alive=(0, 2))  # rank 1 is frozen
    assert ranks.asked() == [0, 2]
    assert ranks.stoppings[0].status == HUNG
    said = capfd.readouterr().err
    assert said.count("the job hangs") == 1
    assert "These no longer report: rank 1 (step 1" in said and "rank 0 has waited" in said


def test_a_rank_that_lives_and_does_not_get_on_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = Ranks(tmp_path)
    ranks.pass_s(10, steps=(0, 1, 2))
    ranks.pass_s(10, steps=(0, 1))
    ranks.pass_s(260)
    assert ranks.asked()
    assert "are the furthest behind: rank 2 (step 20" in capfd.readouterr().err


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    off = Ranks(tmp_path, least_s=0.0)
    off.pass_s(1000)
    assert off.asked() == []


def test_it_looks_before_the_first_step_and_the_thread_lives(tmp_path: Path) -> None:
    """A slow start takes longer than the second after which the thread looks for the first time."""
    run = small_run()
    keeper = CheckpointManager(run, Checkpoints(tmp_path, run.world))
    two: Any = SimpleNamespace(n=2, rank=0)
    Watchdog(keeper, two, StopListener(), tmp_path, longest=16, least_s=60).look()
    assert not keeper.begun


def test_a_start_may_take_three_times_as_long(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    for keeper in ranks.keepers:
        keeper.begun = False
    assert ranks.dogs[0].bound_s() == 180
    ranks.pass_s(175)
    assert ranks.asked() == []
    ranks.pass_s(30)
    assert ranks.asked() == [0, 1, 2]


@pytest.mark.parametrize(("least_s", "ended"), [(60.0, [False, True]), (0.0, [False, False])])
def test_ranks_that_do_not_find_each_other_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    least_s: float,
    ended: list[bool],
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(watchdog, "end", statuses.append)
    now, seen = 0.0, []
    starting = watchdog.Starting(3, least_s, clock=lambda: now)
    for now in (179.0, 181.0):  # noqa: B007 - the clock reads it
        starting.look()
        seen.append(bool(statuses))
    assert seen == ended
    if statuses:
        assert statuses == [HUNG]
        said = capsys.readouterr().err
        assert "rank 3 on" in said and "waiting for the other ranks to start after 3.02 min" in said


def test_a_start_that_no_thread_can_watch_ends_too() -> None:
    """MPI_Init waits with the interpreter's lock held: here, a call of C that does not let go."""
    program = """
import ctypes
from hpc_localsgd.run import alarm, watchdog
watchdog.GRACE_S, alarm.RUNS_WITHIN_S = 0.2, 1
starting = watchdog.Starting(0, 0.1)
with starting.joining():
    pass
ctypes.PyDLL(None).usleep(1_000_000)  # the timer is off outside
print("joined", flush=True)
with starting.joining():
    ctypes.PyDLL(None).sleep(30)
"""
    began_s = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGALRM and ended.stdout == "joined\n"
    assert "in <module>" in ended.stderr and time.monotonic() - began_s < 20
    assert "rank 0 on" in ended.stderr and "the job hangs and is ended" in ended.stderr


def test_a_rank_in_which_python_does_not_run_any_more_ends_with_the_way_to_go_on(
    tmp_path: Path,
) -> None:
    """A library waits with the interpreter locked, as Horovod did: no thread of ours can look."""
    program = f"""
import ctypes, time
from pathlib import Path
from types import SimpleNamespace
from hpc_localsgd.run import alarm, watchdog
watchdog.GRACE_S, alarm.RUNS_WITHIN_S = 0.2, 1
keeper = SimpleNamespace(begun=True, t=3, passed_s=time.monotonic(), mean_step_s=lambda: 0.0)
stopping, out = watchdog.StopListener(), Path({str(tmp_path)!r})
bell, two = watchdog.stuck(1, out), SimpleNamespace(n=2, rank=1)
dog = watchdog.Watchdog(keeper, two, stopping, out, 4, 0.5, alarm=bell)
for _ in range(3):
    dog.look()
    time.sleep(0.5)  # longer than that in all
dog.over()
time.sleep(1.5)
print("over", flush=True)
stopping.asked = "STOP"  # it may get stuck on its way out, too
dog.look()
ctypes.PyDLL(None).sleep(30)
"""
    began_s = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGALRM and ended.stdout == "over\n", ended.stderr
    assert time.monotonic() - began_s < 20
    assert "rank 1 on" in ended.stderr and "Python has not run for long" in ended.stderr
    assert "in <module>" in ended.stderr  # where it is
    assert f"hpc_localsgd.train --config {tmp_path / 'config.yaml'}" in ended.stderr


def test_where_the_kernel_has_no_such_timers_it_ends_all_the_same() -> None:
    program = """
import ctypes
from hpc_localsgd.run import alarm
alarm.Alarm._made = lambda self, function, value: getattr(None, function)
with alarm.Alarm("unsaid").within(0.3):
    ctypes.PyDLL(None).sleep(30)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1 and "Timeout" in ended.stderr and "unsaid" not in ended.stderr


def test_a_process_that_was_suspended_goes_on() -> None:
    """By a batch system, say, for longer than any bound: the kernel's timers have run out then."""
    program = """
import time
from hpc_localsgd.run.alarm import Alarm
bell = Alarm("said")
for i in range(4):
    bell.put_off(2.0)
    print(i, flush=True)
    time.sleep(0.6)
    time.sleep(0.6)  # not over by then: newer kernels forget what ran out when it is put off again
bell.cancel()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.readline()
        run.send_signal(signal.SIGSTOP)
        time.sleep(3.0)  # longer than the alarm
        run.send_signal(signal.SIGCONT)
        said = run.stderr.read()
        assert run.wait(240) == 0 and said.endswith("said\n") and said.count("\n") == 1
