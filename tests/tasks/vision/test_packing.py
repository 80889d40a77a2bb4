"""Packed files: truncated, damaged or others' ones are named, and packing goes on where it was."""

from __future__ import annotations

import errno
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from read_images import all_batches, built, refusal

from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.pack import main as pack_command
from hpc_localsgd.errors import DataError
from hpc_localsgd.tasks.vision import hdf5_writer
from hpc_localsgd.tasks.vision.hdf5_reader import Pack


def test_a_truncated_pack_is_named(packed: Path) -> None:
    os.truncate(packed, packed.stat().st_size // 2)
    assert f"{packed} (" in refusal(packed) and "truncated" in refusal(packed)


def test_another_file_is_no_pack(packed: Path) -> None:
    with h5py.File(packed, "r+") as file:
        file.attrs["version"] = 99
    assert "is of version 99, this program reads version 1" in refusal(packed)
    with h5py.File(packed, "w") as file:
        file["x"] = 1
    assert "holds no packed images" in refusal(packed)


def test_a_damaged_byte_in_a_pack_names_file_and_image(packed: Path) -> None:
    with h5py.File(packed, "r+") as file:
        begin = int(file["train/offset"][17])
        file["train/bytes"][begin + 50] ^= 1
        name = file["train/name"].asstr()[17]
    with pytest.raises(DataError) as caught:
        all_batches(built(packed))
    assert f"{packed}: image 17 of train ({name}) is damaged" in str(caught.value)
    task = built(packed, skip_corrupt=True)
    all_batches(task)
    assert sum(task.skipped) == 1


def test_an_open_pack_can_be_sent_to_another_process(packed: Path) -> None:
    store = Pack(packed)
    content = store.encoded("train", 3)
    assert pickle.loads(pickle.dumps(store)).encoded("train", 3) == content


def test_packing_again_changes_nothing(
    intact: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = packed.read_bytes()
    assert pack_command([str(intact / "images"), str(packed)]) == 0
    assert "is complete already" in capsys.readouterr().out
    assert packed.read_bytes() == before


def test_a_file_system_without_locks_and_one_without_space(
    intact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = h5py.File

    def without_locks(path: Path, mode: str, locking: Any = None) -> h5py.File:
        if locking == "best-effort":
            raise OSError(errno.ENOLCK, "unable to lock file")
        return real(path, mode, locking=locking)

    def full(*given: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def in_words(*given: object) -> None:  # as HDF5 says it
        raise RuntimeError("Can't decrement id ref count (..., errno = 28, ...)")

    words = [str(intact / "images"), str(tmp_path / "images.h5")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert pack_command(words) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "the disk is full" in said and "make space, and type the same command again" in said
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "flush", in_words)
        assert pack_command(words) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "the disk is full" in said and "make space, and type the same command again" in said
    monkeypatch.setattr(h5py, "File", without_locks)
    assert pack_command(words) == 0


def test_what_packing_says_to_type_is_accepted(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "as typed.h5"
    assert pack_command([str(tree), str(out)]) == 0
    typed = capsys.readouterr().out.rpartition("is complete: ")[2]
    task: Any = parse(shlex.split(typed)).config.task
    assert built(Path(task.data), classes=task.classes).dim


def test_other_images_are_not_mixed_into_a_pack(
    tree: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "train" / "n00000002" / "image_6.JPEG").write_bytes(b"longer or shorter")
    assert pack_command([str(tree), str(packed)]) == 2
    assert "was begun with other images" in capsys.readouterr().err


def test_empty_files_are_named(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = sorted((tree / "train").rglob("*.JPEG"))[:3]
    for each in (first, *others):
        each.write_bytes(b"")
    assert pack_command([str(tree), str(tmp_path / "x.h5")]) == 0
    assert f"empty: {first} and 2 more; copy again" in capsys.readouterr().out


def test_what_cannot_be_packed_is_refused(
    intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_command([str(tmp_path / "none"), str(tmp_path / "x.h5")]) == 2
    assert pack_command([str(intact / "images"), str(tmp_path / "x.tar")]) == 2
    said = capsys.readouterr().err
    assert "there is no folder" in said and "must end in .h5" in said
    assert not list(tmp_path.iterdir())


SLOWLY = """
import sys, time
from pathlib import Path
from hpc_localsgd.tasks.vision import hdf5_writer as writer
writer.AT_ONCE_BYTES = 2000
writer.pack(writer.listed(Path(sys.argv[1])), Path(sys.argv[2]), lambda *_: time.sleep(0.1))
"""


def test_a_killed_pack_goes_on_where_it_was(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "images.h5"
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, str(intact / "images"), str(out)])
    end = time.monotonic() + 60
    while not out.exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "is not complete" in refusal(out)
    with h5py.File(out, "r", locking=False) as file:
        begun = int(file["train/packed"][()])
    assert 0 < begun < 40
    read: list[int] = []
    content = hdf5_writer._content
    monkeypatch.setattr(
        hdf5_writer,
        "_content",
        lambda *a: (read.append(a[2]) if a[1] == "train" else 0, content(*a))[1],
    )
    assert hdf5_writer.pack(hdf5_writer.listed(intact / "images"), out)
    assert read == list(range(begun, 40))
    assert out.stat().st_size == (intact / "images.h5").stat().st_size
    stores = Pack(out), Pack(intact / "images.h5")
    for split, n in (("train", 40), ("test", 20)):
        assert np.array_equal(stores[0].labels[split], stores[1].labels[split])
        assert all(stores[0].encoded(split, i) == stores[1].encoded(split, i) for i in range(n))


def test_a_file_that_another_process_began_meanwhile_is_left_alone(
    intact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "x.h5"
    monkeypatch.setattr(hdf5_writer, "promise", lambda path, nbytes: out.write_bytes(b"theirs"))
    assert pack_command([str(intact / "images"), str(out)]) == 2
    assert "another process has begun" in capsys.readouterr().err
    assert out.read_bytes() == b"theirs" and list(tmp_path.glob("*x.h5*")) == [out]


def test_a_pack_has_all_of_its_space_as_it_begins(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else HDF5 writes where new space is before how far the file reaches; a kill falls between."""
    out = tmp_path / "images.h5"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hdf5_writer, "_content", interrupted)
        hdf5_writer.pack(hdf5_writer.listed(intact / "images"), out)
    with h5py.File(out, "r", locking=False) as file:
        for split in hdf5_writer.SPLITS.values():
            assert all(dataset.id.get_offset() is not None for dataset in file[split].values())


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt
