"""A command that is interrupted says so in a line, and leaves no half-written file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hpc_localsgd.commands import interrupted
from hpc_localsgd.run.stopping import StopListener
from hpc_localsgd.trajectory.whole_file import put_whole

SWALLOWED = "import signal\ntry:\n    signal.raise_signal(2)\nexcept KeyboardInterrupt:\n    pass\n"


class Ended(Exception):
    """In place of the end of the process; its argument is the signal."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch, signals_of_a_login: None) -> None:
    def kill(pid: int, number: int) -> None:
        raise Ended(number)

    monkeypatch.setattr(os, "kill", kill)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_process_leaves_the_file_before(number: int, tmp_path: Path) -> None:
    file = tmp_path / "time.png"
    file.write_text("the one before")
    before = signal.getsignal(number)
    with pytest.raises(Ended, match=str(int(number))), put_whole(file) as unborn:
        unborn.write_text("half of it")
        signal.raise_signal(number)
    assert [each.name for each in tmp_path.iterdir()] == ["time.png"]
    assert file.read_text() == "the one before" and signal.getsignal(number) is before


def test_whoever_handles_a_signal_keeps_it(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with put_whole(tmp_path / "time.png") as unborn:
            unborn.write_text("whole")
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and (tmp_path / "time.png").read_text() == "whole"


def test_ctrl_c_ends_a_program_with_one_line_and_by_the_signal() -> None:
    code = (
        "import signal, sys; from hpc_localsgd import __main__ as program; "
        "sys.argv = ['hpc_localsgd', 'pack']; "
        "program.main = lambda: signal.raise_signal(signal.SIGINT); program.run()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    said = "python -m hpc_localsgd pack: interrupted; type the same command again to continue\n"
    assert done.stderr == said


def test_ctrl_c_in_an_import_is_not_left_to_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "swallows_interrupts.py").write_text(SWALLOWED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    interrupted.say_in_a_line()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Ended, match="2"):
        import_module("swallows_interrupts")
    assert capsys.readouterr().err.count("interrupted") == 1


def test_the_end_of_a_login_stops_a_run_unless_it_was_started_with_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with StopListener():
        assert signal.getsignal(signal.SIGHUP) is not before
    assert signal.getsignal(signal.SIGHUP) is before
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopListener():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
