"""Loader processes outlive every signal, and never their rank: however that ends, all is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import until

from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.vision import reader
from hpc_localsgd.tasks.vision.reader import BatchRequest, Reader, Result

GONE_WITHIN_S = 30

# Has imported what a rank does, and for every line it reads forks one: a rank with two loaders,
# which end it as the line says.
RANKS = """
import os, signal, sys

OF_IMAGES = "hpc_localsgd.tasks.vision.fork_server_of_images"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

def main():  # imports here: every loader imports this file, and has torch from the fork server
    from hpc_localsgd.tasks.vision import reader

    reader.LOOK_AFTER_S = 0.5
    for line in sys.stdin:
        if not (pid := os.fork()):
            return rank(line.strip())
        print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

def rank(end):
    from families import descendants, parents
    from hpc_localsgd.errors import DataError
    from hpc_localsgd.tasks.vision.reader import Reader

    signal.alarm(300)  # one that hangs is none that ends
    if end == "signalled from its beginning":
        return from_the_beginning()
    of_images = end == "having decoded images"
    batches = Reader(decoded if of_images else blank, 2, False, *[OF_IMAGES] * of_images)
    for t in range(2):  # one of each loader, so that both have begun
        batches.get(request(t), map(request, range(t + 1, 99)))
    mine = descendants(os.getpid())
    print("family", *mine, flush=True)
    assert len(mine) >= 3, mine  # the fork server and two loaders
    for number in SIGNALS:
        for pid in mine:
            os.kill(pid, number)
    for t in range(2, 12):  # more than were under way
        batches.get(request(t), map(request, range(t + 1, 99)))
    if end == "at once, as on request":
        os._exit(85)
    if end == "by SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "as a loader is killed":
        of = parents()  # a loader's parent is the fork server; numbers may have wrapped around
        os.kill(next(pid for pid in mine if of[pid] != os.getpid()), signal.SIGKILL)
        try:
            for t in range(12, 99):
                batches.get(request(t))
        except DataError:
            os._exit(1)  # as an abort does
    if end == "by a traceback":  # which holds on to the loaders
        batches.get(request(100, "no split"))

def from_the_beginning():
    import threading
    from families import descendants
    from hpc_localsgd.tasks.vision.reader import Reader

    begun, met = threading.Event(), set()

    def ask_to_stop():
        while not begun.is_set():
            for pid in descendants(os.getpid()):
                met.add(pid)
                for number in SIGNALS:
                    os.kill(pid, number)

    asking = threading.Thread(target=ask_to_stop)
    asking.start()
    batches = Reader(blank, processes=2, pin=False)
    try:
        for t in range(4):
            batches.get(request(t), map(request, range(t + 1, 99)))
    finally:
        begun.set()
        asking.join()
        print("family", *met, flush=True)
    got = []
    signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    os.kill(os.getpid(), signal.SIGTERM)
    assert got, "the rank itself does not hear requests any more"

def request(t, split="train"):
    import numpy as np
    from hpc_localsgd.tasks.vision.reader import BatchRequest

    return BatchRequest(split, np.zeros(0, dtype=int), (t,))

def blank(request):
    import gc
    import torch
    from hpc_localsgd.tasks.vision.reader import Result

    if request.split != "train":
        raise KeyError(request.split)
    assert gc.get_freeze_count()  # each loader would look through all that was imported
    return Result(request.key, torch.zeros(4), torch.zeros(4), [])

def decoded(request):
    assert "torchvision.transforms.v2" in sys.modules  # each loader would import it anew
    return blank(request)

if __name__ == "__main__":
    main()
"""

ENDS = {
    "having decoded images": 0,
    "signalled from its beginning": 0,
    "at once, as on request": 85,
    "by SIGKILL": -signal.SIGKILL,
    "as a loader is killed": 1,
    "by a traceback": 1,
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """What makes a rank for every line that it is given."""
    script = tmp_path_factory.mktemp("loaders") / "ranks.py"
    script.write_text(RANKS)
    here = [str(Path(__file__).parent), os.getcwd()]
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(here)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_a_rank_and_its_loaders(ranks: subprocess.Popen[str], end: str) -> None:
    assert ranks.stdin is not None and ranks.stdout is not None
    print(end, file=ranks.stdin, flush=True)
    kind, *family = ranks.stdout.readline().split()
    assert kind == "family" and len(family) >= 3
    assert ranks.stdout.readline().split() == ["status", str(ENDS[end])]
    try:
        gone = f"the loaders of a rank that ended {end} have ended"
        until(lambda: not any(alive(pid) for pid in family), GONE_WITHIN_S, gone)
    finally:
        for pid in filter(alive, family):
            os.kill(int(pid), signal.SIGKILL)


def alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


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
