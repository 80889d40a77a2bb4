"""A command on a full disk ends with one line, and what was there before is as it was."""

from __future__ import annotations

import errno
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from torch.distributed.checkpoint.api import CheckpointException

from hpc_localsgd.__main__ import main
from hpc_localsgd.commands.landscape.landscape_file import LandscapeFile
from hpc_localsgd.trajectory.whole_file import put_whole

RUN = ["train", "--workers=2", "--task.hidden=4", "--steps=8", "--snapshot-every=4"]
FEW = ["--samples=20", "--eigenvalues=1", "--trace-probes=0", "--steps=last"]
PLANE = ["--samples=20", "--points=2"]


def full(*given: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "run"
    assert main([*RUN, "--figures=false", f"--out={out}"]) == 0
    return out


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The one line that was said to standard error."""

    def said() -> str:
        (found,) = capsys.readouterr().err.splitlines()
        return found

    return said


def test_what_a_library_makes_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "time.pdf"
    with pytest.raises(OSError) as raised, put_whole(file):  # noqa: PT011
        try:
            full()
        finally:  # as matplotlib does, which closes what it has not begun
            _ = Path.no_such_attribute  # type: ignore[attr-defined]
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(file)


def test_what_hdf5_says_in_its_text_alone(tmp_path: Path) -> None:
    file = tmp_path / "l.h5"
    with pytest.raises(OSError, match="Disk quota exceeded") as raised, put_whole(file):
        raise RuntimeError("Can't decrement id ref count (file write failed: ..., errno = 122, ...")
    assert raised.value.filename == str(file)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), put_whole(tmp_path / "time.pdf"):
        _ = 1 / 0


@pytest.mark.parametrize(("command", "out"), [("report", "time.png"), ("compare", "front.png")])
def test_a_page_says_which_file_has_no_space(
    command: str,
    out: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: Callable[[], str],
) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert main([command, str(run), f"--out={tmp_path}"]) == 2
    said = line()
    assert f"cannot write {tmp_path}" in said and "No space left on device; make space" in said
    assert not list(tmp_path.iterdir())


def test_an_export_for_torch_distributed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[[], str]
) -> None:
    def save(*given: object, **named: object) -> None:
        (tmp_path / "dcp" / ".metadata.tmp").touch()
        try:
            full()
        except OSError as error:
            raise CheckpointException("write", {0: (error, traceback.StackSummary())}) from error

    words = ["export", str(run), "--format=dcp", f"--out={tmp_path / 'dcp'}", "--overwrite"]
    assert main(words) == 0
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.checkpoint.save", save)
        assert main(words) == 2
    assert f"cannot write {tmp_path / 'dcp'}: No space left on device" in line()
    assert main(words) == 0


def test_a_landscape_that_has_no_space_is_not_begun(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[[], str]
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert main(["landscape", str(run), *PLANE, f"--out={tmp_path / 'l.h5'}"]) == 2
    assert f"cannot write {tmp_path / 'l.h5'}: the disk is full" in line()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_landscape_whose_disk_fills_keeps_its_points(
    hdf5: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[[], str]
) -> None:
    words = ["landscape", str(run), *PLANE, f"--out={tmp_path / 'l.h5'}"]

    def add(file: LandscapeFile, *given: object) -> None:
        file.close()  # as the end of the process does
        if hdf5:
            raise RuntimeError("Can't decrement id ref count (..., errno = 28, ...")
        full()

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="1"):
        patch.setattr(LandscapeFile, "add", add)
        main(words)
    assert "make space, and type the same command again to continue" in line()
    assert main(words) == 0


def test_sharpness_keeps_the_snapshots_before(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[[], str]
) -> None:
    words = ["sharpness", str(run), *FEW, f"--out={tmp_path / 's.h5'}"]
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(os, "posix_fallocate", full)
        assert main(words) == 2
    assert "make space, and type the same command again to continue" in line()
    assert main(words) == 0


def test_a_model_of_which_a_file_server_says_late_that_it_has_no_space(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[[], str]
) -> None:
    out = tmp_path / "m.safetensors"
    monkeypatch.setattr(os, "fsync", full)
    assert main(["export", str(run), f"--out={out}"]) == 2
    assert f"cannot write {out}: No space left on device" in line()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["export", "{run}", "--out={long}.safetensors"],
        ["export", "{long}"],
        ["sweep", "--out={long}", "--vary=steps=2", "--", "--workers=2"],
        ["plan", "--workers=2", "--figure={long}.pdf"],
    ],
)
def test_a_name_that_is_too_long(words: list[str], run: Path, line: Callable[[], str]) -> None:
    assert main([word.format(run=run, long=300 * "x") for word in words]) == 2
    assert "File name too long" in line()


def test_a_landscape_is_flushed_before_hdf5_closes_what_was_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells nobody what it could not write when it closes a dataset: an axis would be zeros."""
    real, held = h5py.File.flush, []

    def flush(file: h5py.File) -> None:
        held.append(h5py.h5f.get_obj_count(file.id, h5py.h5f.OBJ_DATASET))
        real(file)

    monkeypatch.setattr(h5py.File, "flush", flush)
    assert main(["landscape", str(run), *PLANE, f"--out={tmp_path / 'l.h5'}"]) == 0
    assert held[0] >= 11  # axes, values, path, basis, done
