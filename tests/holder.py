"""Other processes that take the folder of a run, on this host or on another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpc_localsgd.run import lease

ROOT = Path(__file__).parent.parent
HOLD = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hpc_localsgd.run import run_lock
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.errors import ConfigurationError
held = []
def renew():
    while True:
        time.sleep(0.1)
        for each in list(held):
            each.renew()
def take(out):
    try:
        held.append(RunLock(Path(out)))
        return "ran"
    except ConfigurationError as error:
        return str(error)
for setting in sys.argv[1:]:
    name, _, value = setting.partition("=")
    setattr(run_lock, name, float(value))
threading.Thread(target=renew, daemon=True).start()
with ThreadPoolExecutor(64) as pool:
    for line in sys.stdin:  # folders to take, all at once, or none: give back what was taken
        outs = json.loads(line)
        said = list(pool.map(take, outs))
        while not outs and held:
            held.pop().end()
        print(json.dumps(said), flush=True)
"""


def left_by(out: Path, process: int, reach: str = "", run: str = "0123456789abcdef") -> Path:
    """What a run left that was killed, of this machine and mount unless told otherwise."""
    file = out / "RUNNING"
    with file.open("wb+") as open_file:
        here = lease.reach_of(open_file.fileno())
        lease.Lease("node-12", process, run, reach or here).write(open_file.fileno())
    return file


class Holder:
    """Another process that takes folders and gives them back.

    Args:
        before: What to put before its command.
        settings: Numbers of `run_lock` for it, as NAME=VALUE.
    """

    def __init__(self, *before: str, settings: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*before, sys.executable, "-c", HOLD, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.pid = self._process.pid

    def begin(self, *outs: Path) -> None:
        """Begin to take folders, all at once; without any, to give back what was taken."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([str(out) for out in outs])}\n")
        self._process.stdin.flush()

    def said(self) -> list[str]:
        """Its outcome in each folder: "ran", or why not."""
        assert self._process.stdout is not None
        return list(json.loads(self._process.stdout.readline()))

    def take(self, out: Path) -> str:
        self.begin(out)
        return self.said()[0]

    def kill(self, reap: bool = True) -> None:
        self._process.kill()
        if reap:
            self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def holders(*before: list[str], settings: Sequence[str] = ()) -> Iterator[list[Holder]]:
    made = [Holder(*words, settings=settings) for words in before]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def race(both: list[Holder], outs: list[Path]) -> None:
    """Two starts in each folder; fails the test unless one of them runs and the other names it."""
    for each in both:
        each.begin(*outs)
    for out, *said in zip(outs, *(each.said() for each in both), strict=True):
        assert Counter(words == "ran" for words in said) == {True: 1, False: 1}, said
        claim = lease.read(out / "RUNNING")[1]
        assert claim is not None and claim.process == both[said.index("ran")].pid
        who = f"(process {claim.process} on {claim.host})"
        assert f"a run is in progress in {out} {who}" in said[1 - said.index("ran")]
    for each in both:
        each.begin()
        each.said()
    assert not [file for out in outs for file in out.iterdir()]
