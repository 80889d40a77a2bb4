"""A process ends without an abort where nobody ends the process group whose threads are at work."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT

from hpc_localsgd.worlds import gloo_threads

# Two groups of one process, as two ranks would have them. Nothing waits for the exchange, so the
# last to let go of its tensors are Gloo's threads; Python is not handed to them while it spins.
SCRIPT = """
import atexit, sys, time
from datetime import timedelta
from threading import Thread
import torch
import torch.distributed as dist
store, ranks = dist.HashStore(), {}

def join(rank):
    ranks[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60))

joining = [Thread(target=join, args=(rank,)) for rank in (0, 1)]
[thread.start() for thread in joining]
[thread.join() for thread in joining]
sys.setswitchinterval(100)

def spin():
    for group in ranks.values():
        group.allreduce([torch.ones(1000)])
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass

"""
NAMED = """
if True:  # not among the imports at the head: the process that forks must not load it
    import hpc_localsgd.worlds.torch
from importlib import import_module
gloo_threads = import_module("hpc_localsgd.worlds.gloo_threads")
while len(gloo_threads._threads()) != 4:  # two of each group, which name themselves as they begin
    time.sleep(0.01)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


SCRIPTS = ("spin()", NAMED + "spin()", NAMED + "atexit.register(spin)")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> str:
    """How the scripts ended, each a fork of a process that has imported torch alone."""
    folder, words = tmp_path_factory.mktemp("ends"), ["1", sys.executable]
    for i, at_the_end in enumerate(SCRIPTS):
        (folder / f"{i}.py").write_text(SCRIPT + at_the_end)
        words += ["+"] * (i > 0) + [str(folder / f"{i}.py")]
    forked = [sys.executable, str(ROOT / "tests" / "forked_ranks.py"), *words]
    done = subprocess.run(forked, capture_output=True, text=True, timeout=240, check=False)
    return done.stdout + done.stderr


def test_it_aborts_where_nothing_waits_for_the_threads(ended: str) -> None:
    assert f"0.py ended: [-{signal.SIGABRT}]" in ended, (
        f"torch mended it: gloo_threads has lost its object\n{ended}"
    )


@pytest.mark.parametrize("i", [1, 2], ids=["in the script", "at its exit"])
def test_the_threads_are_waited_for(i: int, ended: str) -> None:
    assert f"{i}.py ended: [0]" in ended, ended


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only thread of Gloo a state that can be written; bound the wait to 0.3 s."""
    monkeypatch.setattr(gloo_threads, "_threads", lambda: [tmp_path])
    monkeypatch.setattr(gloo_threads, "WITHIN_S", 0.3)
    return tmp_path / "stat"


@pytest.mark.parametrize(
    ("state", "waits"), [("R", True), ("D", True), ("S", False)], ids=["runs", "disk", "sleeps"]
)
def test_a_thread_at_work_is_waited_for_but_not_for_ever(
    stat: Path, state: str, waits: bool
) -> None:
    stat.write_text(f"7 (pt_gloo_runloop) {state} 1 1")
    begun = time.monotonic()
    gloo_threads.wait_for_gloo()
    assert (time.monotonic() - begun >= 0.3) is waits


def test_a_thread_that_has_ended_is_not_waited_for(stat: Path) -> None:
    assert not stat.exists()
    begun = time.monotonic()
    gloo_threads.wait_for_gloo()
    assert time.monotonic() - begun < 0.3
