"""Loader processes outlive every signal, and never their rank: however that ends, all is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import patient, until
from small_tasks import write_folder

from hpc_localsgd.commands.pack import main as pack_command
from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.vision import reader
from hpc_localsgd.tasks.vision.reader import BatchRequest, Reader, Result

GONE_WITHIN_S = 30

# A rank with two loaders, which end it as its second argument says.
RANK = """
import os, signal, sys

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

def main(data, end):  # imports here: every loader imports this file, and needs none of them
    import numpy as np
    from families import descendants, parents
    from hpc_localsgd.errors import DataError
    from hpc_localsgd.tasks.base import TaskContext
    from hpc_localsgd.tasks.imagenet import imagenet
    from hpc_localsgd.tasks.vision.reader import BatchRequest

    spec = imagenet(data=data, model="resnet8", size=16, classes=4, loaders=2)
    task = spec.build(TaskContext(workers=2, local_workers=(0, 1), batch=5, seed=4))
    task.batch([0, 1], 0)
    mine = descendants(os.getpid())
    print(*mine, flush=True)
    assert len(mine) >= 3, mine  # the fork server and two loaders
    for number in SIGNALS:
        for pid in mine:
            os.kill(pid, number)
    for t in range(1, 12):  # more than were under way
        task.batch([0, 1], t)
    if end == "at once, as on request":
        os._exit(85)
    if end == "by SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "as a loader is killed":
        of = parents()  # a loader's parent is the fork server; numbers may have wrapped around
        os.kill(next(pid for pid in mine if of[pid] != os.getpid()), signal.SIGKILL)
        try:
            for t in range(12, 99):
                task.batch([0, 1], t)
        except DataError:
            os._exit(1)  # as an abort does
    if end == "by a traceback":  # which holds on to the loaders
        task.samples._reader.get(BatchRequest("no split", np.zeros(1, dtype=int), (0, 0, 99)))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""

ENDS = {
    "normally": 0,
    "at once, as on request": 85,
    "by SIGKILL": -signal.SIGKILL,
    "as a loader is killed": 1,
    "by a traceback": 1,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.Popen[str]]:
    """A rank for each way to end, all at the same time."""
    folder = tmp_path_factory.mktemp("loaders")
    write_folder(folder / "images")
    assert pack_command([str(folder / "images"), str(folder / "images.h5")]) == 0
    script = folder / "rank.py"
    script.write_text(RANK)
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.getcwd()]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(here)}
    return {
        end: subprocess.Popen(
            [sys.executable, str(script), str(folder / "images.h5"), end],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for end in ENDS
    }


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_a_rank_and_its_loaders(
    ended: dict[str, subprocess.Popen[str]], end: str
) -> None:
    rank = ended[end]
    assert rank.stdout is not None and rank.stderr is not None
    family = [int(pid) for pid in rank.stdout.readline().split()]
    assert rank.wait(patient(100)) == ENDS[end], rank.stderr.read()[-2000:]
    try:
        gone = f"the loaders of a rank that ended {end} have ended"
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), GONE_WITHIN_S, gone)
    finally:
        for pid in family:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def test_a_loader_that_is_killed_while_it_owes_nothing_is_named_at_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It left no half-sent batch behind whose loss would be noticed: the rank has to look."""
    monkeypatch.setattr(reader, "LOOK_AFTER_S", 0.2)
    batches, pid = one_loader()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match=rf"{pid}.* exited unexpectedly.*--task.loaders 0"):
        batches.get(request(1))


def test_a_loader_that_is_slow_is_waited_for_and_one_that_hangs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "LOOK_AFTER_S", 0.1)
    batches, pid = one_loader()
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(1, os.kill, (pid, signal.SIGCONT))
    timer.start()
    assert batches.get(request(1)).key == (1,)
    timer.join()
    monkeypatch.setattr(reader, "TIMEOUT_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="nothing came for 0.5 s"):
        batches.get(request(2))
    os.kill(pid, signal.SIGKILL)


def one_loader() -> tuple[Reader, int]:
    """Return batches that one process reads, which owes nothing, and its number."""
    batches = Reader(blank, processes=1, pin=False)
    batches.get(request(0))
    (loader,) = batches._running[0]._workers  # type: ignore[attr-defined]
    return batches, loader.pid


def request(number: int) -> BatchRequest:
    """Return a request for no image."""
    return BatchRequest("train", np.zeros(0, dtype=int), (number,))


def blank(request: BatchRequest) -> Result:
    """Return the batch without images that a request for none asks for."""
    return Result(request.key, torch.zeros(0), torch.zeros(0), [])
