"""Two jobs in one folder: the second is refused, and a run that is gone stands in nobody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_localsgd import presence
from hpc_localsgd.presence import Presence, check_alone
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.types import ConfigurationError


@pytest.fixture
def other() -> Iterator[int]:
    """Another process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def left_by(out: Path, process: int, host: str = "", began: str | None = None) -> Path:
    file = out / "RUNNING"
    began = presence._began(process) if began is None else began
    said = {"host": host or socket.gethostname(), "process": process, "began": began}
    file.write_text(json.dumps(said))
    return file


def test_a_run_that_is_going_on_is_left_alone(
    tmp_path: Path, other: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]
    assert main([*options, f"--out={tmp_path}"]) == 0
    assert not (tmp_path / "RUNNING").exists()
    left_by(tmp_path, other)
    for more in ("--overwrite", "--resume=auto"):
        assert main([*options, more, f"--out={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert f"a run is going on in {tmp_path} (process {other} on" in said and "STOP`" in said
    assert Trajectory(tmp_path).status == "complete"


def test_who_is_gone_stands_in_nobodys_way(tmp_path: Path, other: int) -> None:
    left_by(tmp_path, other, began="0")  # its number is used again
    check_alone(tmp_path)
    left_by(tmp_path, os.getpid())  # we ourselves
    check_alone(tmp_path)
    for nonsense in ("", "[1]", "{}", '{"host": 1, "process": "x", "began": 0}'):
        (tmp_path / "RUNNING").write_text(nonsense)
        check_alone(tmp_path)


def test_a_run_of_another_host_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "WATCHED_FOR_S", 1.0)
    file = left_by(tmp_path, 7, host="node-12", began="5")
    check_alone(tmp_path)  # silent
    monkeypatch.setattr(presence.time, "sleep", lambda s: os.utime(file))
    with pytest.raises(ConfigurationError, match="process 7 on node-12"):
        check_alone(tmp_path)


def test_it_is_renewed_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Presence(tmp_path)
    os.utime(tmp_path / "RUNNING", (1, 1))
    here.renew()
    assert (tmp_path / "RUNNING").stat().st_mtime == 1
    monkeypatch.setattr(presence, "RENEWED_EVERY_S", 0.0)
    here.renew()
    assert (tmp_path / "RUNNING").stat().st_mtime > 1
    here.end()
    here.renew()  # nothing to renew
    assert not (tmp_path / "RUNNING").exists()


@pytest.mark.parametrize(
    "wrong", ["--snapshot-every=20 fortnights", "--checkpoint-every=x", "--watchdog=soon"]
)
def test_a_wrong_cadence_leaves_nothing_behind(tmp_path: Path, wrong: str) -> None:
    """Or the command put right would be refused: the folder holds a run already."""
    options = ["--task.hidden=4", "--workers=2", "--steps=8", "--figures=false"]
    assert main([*options, wrong, f"--out={tmp_path / 'run'}"]) == 2
    assert main([*options, f"--out={tmp_path / 'run'}"]) == 0


def test_a_gpu_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device=cuda", "--steps=3", f"--out={tmp_path}"]) == 2
    assert "--device cuda cannot be used here (PyTorch " in capsys.readouterr().err
