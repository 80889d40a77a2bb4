"""Disks that refuse late, as those of file servers do: no row is lost without a word."""

import errno
import os

import h5py
import numpy as np
import pytest

from hpc_localsgd.trajectory import NotWritten, Trajectory, TrajectoryError, Writer
from hpc_localsgd.trajectory.diskspace import refused

from .runs import add_round, header

QUOTA = "Can't decrement id ref count (unable to close file, errno = 122, error message = '...')"


def refuse(descriptor):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize("times", [0, 1])
def test_a_quota_that_is_found_out_when_the_disk_is_asked(tmp_path, monkeypatch, times):
    """Before HDF5 has written anything, and after it."""
    writer, real, asked = Writer(tmp_path, header(), flush_every_s=3600), os.fsync, []

    def fsync(descriptor):
        asked.append(real(descriptor))
        if len(asked) > times:
            refuse(descriptor)

    add_round(writer, 0)
    writer.flush()
    add_round(writer, 1)
    with monkeypatch.context() as patch, pytest.raises(NotWritten, match="quota used up"):
        patch.setattr(os, "fsync", fsync)
        writer.flush()
    assert len(Trajectory(tmp_path).rounds) >= 1
    add_round(writer, 2)
    writer.close()
    np.testing.assert_array_equal(Trajectory(tmp_path).rounds.step_end, [4, 8, 12])


def test_a_file_system_that_cannot_be_asked(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    with Writer(tmp_path, header()) as writer:
        add_round(writer, 0)
    assert len(Trajectory(tmp_path).rounds) == 1


def test_hdf5_is_flushed_before_it_closes_what_was_written(tmp_path, monkeypatch):
    """It tells nobody what it could not write when it closes a dataset: a row would be NaN."""
    real, held = h5py.File.flush, []

    def flush(file):
        held.append(h5py.h5f.get_obj_count(file.id, h5py.h5f.OBJ_DATASET))
        real(file)

    monkeypatch.setattr(h5py.File, "flush", flush)
    writer = Writer(tmp_path, header(), flush_every_s=3600)
    for s in range(2):
        add_round(writer, s)
        writer.series("loss", s, 1.0)
        writer.flush()
    assert min(held) == 9 + 2  # columns of rounds, and a series
    writer.close()


def test_a_record_that_cannot_be_begun(tmp_path, monkeypatch):
    def close(file):
        real(file)
        raise RuntimeError(QUOTA)

    real = h5py.File.close
    monkeypatch.setattr(h5py.File, "close", close)
    with pytest.raises(TrajectoryError, match="quota used up"):
        Writer(tmp_path, header())
    assert not list(tmp_path.iterdir())


def test_what_fails_when_all_is_written_costs_nothing(tmp_path, monkeypatch):
    def close(file):
        real(file)
        raise RuntimeError(QUOTA)

    writer, real = Writer(tmp_path, header()), h5py.File.close
    add_round(writer, 0)
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "close", close)
        writer.close()
    assert Trajectory(tmp_path).status == "complete"


def test_what_the_system_refused_is_told_apart_from_a_fault_of_the_program():
    assert refused(RuntimeError(QUOTA), "x.h5").startswith("x.h5: the disk is full or the quota")
    assert refused(OSError(errno.EIO, "said", "y.h5"), "x.h5").startswith("y.h5: ")
    fault = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError) as raised:
        refused(fault, "x.h5")
    assert raised.value is fault
