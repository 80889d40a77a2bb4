"""A command line done in this process, in bounded time, and what must hold of its end."""

from __future__ import annotations

import contextlib
import io
import signal
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fuzzed import PARSERS
from small_runs import files_below

from hpc_localsgd.__main__ import main

TINY = {
    "workers": "2",
    "steps": "2",
    "batch_per_worker": "4",
    "task.hidden": "4",
    "world": "simulated",
    "figures": "false",
    "batchnorm_batches": "2",
    "out": "out",
}
SECONDS = 20  # of this process, for one command line


@contextlib.contextmanager
def in_a_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        (Path(name) / "precious").write_text("precious")
        yield Path(name)


def too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s of computing")


def outcome(command: str, argv: Sequence[str]) -> tuple[int, str, str]:
    """Status, output and messages of a command, in this process and in bounded time."""
    out, said = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            status = main([command, *argv])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return status, out.getvalue(), said.getvalue()


def check(
    command: str, argv: Sequence[str], folder: Path, done: tuple[int, ...] = (0,)
) -> tuple[int, str]:
    """The rule, for one command line; its status, and its messages."""
    begin = f"python -m hpc_localsgd{'.' if command == 'train' else ' '}{command}: "
    before, folders = files_below(folder), sorted(folder.rglob("*"))
    status, _, said = outcome(command, argv)
    assert "Traceback" not in said
    assert status in (*done, 2), said
    if status == 2:
        assert said.startswith(begin) and said.count(begin) == 1 and said.strip() != begin, said
        assert files_below(folder) == before
        assert sorted(folder.rglob("*")) == folders
    return status, said


@cache
def parsed(command: str) -> Any:
    """The parser of a command, which is made where a test needs it."""
    return PARSERS[command]()
