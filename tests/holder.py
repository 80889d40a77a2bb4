"""Other processes that take the folder of a run, on this host or on another."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpc_localsgd import lease

ROOT = Path(__file__).parent.parent
HOLD = """
import sys, threading, time
from pathlib import Path
from hpc_localsgd import presence
from hpc_localsgd.presence import Presence
from hpc_localsgd.types import ConfigurationError
held = None
def renew():
    while True:
        time.sleep(0.1)
        if held is not None:
            held.renew()
for setting in sys.argv[1:]:
    name, _, value = setting.partition("=")
    setattr(presence, name, float(value))
threading.Thread(target=renew, daemon=True).start()
for line in sys.stdin:  # a folder to take, or nothing: give back what was taken
    try:
        if line.strip():
            held = Presence(Path(line.strip()))
        else:
            gone, held = held, None
            gone.end()
        print("ran", flush=True)
    except ConfigurationError as error:
        print(error, flush=True)
"""


class Holder:
    """Another process that takes folders and gives them back.

    Args:
        before: What to put before its command.
        settings: Numbers of `presence` for it, as NAME=VALUE.
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

    def begin(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def take(self, out: Path) -> str:
        self.begin(str(out))
        return self.said()

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


def race(both: list[Holder], out: Path) -> None:
    """Two starts in one folder; fails the test unless one runs and the other names it."""
    for each in both:
        each.begin(str(out))
    said = [each.said() for each in both]
    assert Counter(words == "ran" for words in said) == {True: 1, False: 1}, said
    winner = both[said.index("ran")]
    refused = said[1 - said.index("ran")]
    claim = lease.read(out / "RUNNING")[1]
    assert claim is not None
    assert f"a run is going on in {out} (process {claim.process} on {claim.host})" in refused
    winner.begin("")
    assert winner.said() == "ran" and not list(out.iterdir())
