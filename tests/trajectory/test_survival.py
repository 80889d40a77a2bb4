"""A killed writer, a full disk, a failing HDF5: what was flushed stays, what waits is not lost."""

import random
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from hpc_localsgd.trajectory import Trajectory, TrajectoryError, Writer

from .runs import REPOSITORY, add_round, header

ENDLESS = """
import sys
import numpy as np
from trajectory.runs import add_round, header
from hpc_localsgd.trajectory import Writer

writer = Writer(sys.argv[1], header(), flush_every_s=float(sys.argv[2]))
print("begun", flush=True)
s = 0
while True:
    add_round(writer, s)
    writer.series(f"probe{s // 50}/loss", s, np.full(3, s, np.float32), dims="worker")
    writer.snapshot(s, np.full(5, s))
    s += 1
"""

FULL = """
import resource, sys
from trajectory.runs import add_round, header
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, Writer

writer = Writer(sys.argv[1], header(), flush_every_s=3600)
for s in range(100):
    add_round(writer, s)
writer.flush()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size + 1000, limits[1]))
for s in range(100, 50_000):
    add_round(writer, s)
for attempt in (writer.flush, writer.close):
    try:
        attempt()
        raise SystemExit("the disk was not full")
    except TrajectoryError as error:
        print(error, flush=True)
    assert len(Trajectory(sys.argv[1]).rounds) == 100
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
if sys.argv[2] == "free":
    writer.flush()
    add_round(writer, 50_000)
    writer.close()
else:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start(code, *arguments, **options):
    env = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)


def check(run):
    """Every row is whole and is the row that was written."""
    steps = np.arange(len(run.rounds))
    np.testing.assert_array_equal(run.rounds.compute_s, steps[:, None] + np.arange(3))
    np.testing.assert_array_equal(run.rounds.step_end, 4 * (steps + 1))
    for name in run.names():
        series = run.series(name)
        np.testing.assert_array_equal(series.value, np.repeat(series.step[:, None], 3, axis=1))
    for step in run.snapshot_steps[-3:]:
        assert (run.snapshot(step).mean == step).all()
    return len(steps)


def test_killed_at_random_moments_then_appended_to(tmp_path):
    moments = random.Random(0)
    # Two at a time: most of the time goes into starting Python. Flushing all the time makes sure
    # that the kill falls into a flush, which in a real run takes milliseconds of every ten seconds.
    for pair in range(5):
        folders = [tmp_path / f"{pair}-{i}" for i in range(2)]
        writers = [start(ENDLESS, folder, moments.choice([0, 0.005])) for folder in folders]
        for writer in writers:
            assert writer.stdout.readline() == "begun\n"
        time.sleep(moments.uniform(0, 0.15))
        for writer, folder in zip(writers, folders, strict=True):
            writer.kill()
            writer.communicate()
            s = check(Trajectory(folder))
            with Writer(folder, header(), mode="append") as again:
                add_round(again, s)
            assert check(Trajectory(folder)) == s + 1
            assert Trajectory(folder).status == "complete"


@pytest.mark.parametrize(("after", "rounds"), [("free", 50_001), ("killed", 100)])
def test_a_full_disk_loses_nothing(tmp_path, after, rounds):
    writer = start(FULL, tmp_path, after)
    said = writer.communicate(timeout=240)[0].splitlines()
    assert writer.returncode == (0 if after == "free" else -9), said
    assert len(said) == 2 and str(tmp_path) in said[0]
    assert "File too large" in said[0] and "wait in memory. Raise the limit" in said[0]
    assert check(Trajectory(tmp_path)) == rounds


def test_a_flush_says_how_long_the_file_is_before_anything_is_there(tmp_path, monkeypatch):
    writer = Writer(tmp_path, header(), flush_every_s=3600)
    real, ends = h5py.File.flush, []

    def end():
        with writer.path.open("rb") as file:
            file.seek(40)
            return int.from_bytes(file.read(8), "little")

    def flush(file):
        ends.append((end(), writer.path.stat().st_size))
        real(file)

    monkeypatch.setattr(h5py.File, "flush", flush)
    for rows in (10, 3000):
        before = end()
        for s in range(rows):
            writer.snapshot(s + 10 * rows, np.full(5, s))
        writer.flush()
        said, length = ends.pop()
        assert said == length and before < end() <= said
        assert end() == writer.path.stat().st_size
    before = end()
    with monkeypatch.context() as patch, pytest.raises(TrajectoryError):
        patch.setattr(h5py.File, "flush", _fail)
        writer.snapshot(10**6, np.full(5, 1))
        writer.flush()
    assert end() == before
    writer.close()
    assert len(Trajectory(tmp_path).snapshot_steps) == 3011


def test_a_new_table_is_on_the_disk_before_the_file_refers_to_it(tmp_path, monkeypatch):
    writer = Writer(tmp_path, header(), flush_every_s=3600)
    real, seen = h5py.File.flush, []

    def flush(file):
        real(file)
        with h5py.File(shutil.copy(writer.path, tmp_path / "copy.h5")) as copy:
            names = []
            copy.visit(names.append)
            seen.append([name for name in names if name.endswith("loss")])

    monkeypatch.setattr(h5py.File, "flush", flush)
    for step, name in enumerate(["a/loss", "a/b/loss", "a/b/loss"]):
        writer.series(name, step, 1.0)
        writer.flush()
    first, both = ["series/a/loss"], ["series/a/b/loss", "series/a/loss"]
    assert seen == [[], first, first, both, both]
    writer.close()


@pytest.mark.parametrize("failing", ["resize", "__setitem__", "flush"])
def test_hdf5_failing_half_way_is_done_again(tmp_path, monkeypatch, failing):
    writer = Writer(tmp_path, header(), flush_every_s=3600)
    for s in range(10):
        add_round(writer, s)
    writer.flush()
    for s in range(10, 20):
        add_round(writer, s)
        writer.snapshot(s, np.full(5, s))
    owner = h5py.File if failing == "flush" else h5py.Dataset
    real, calls = getattr(owner, failing), []

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) >= (1 if failing == "flush" else 4):
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(TrajectoryError, match="disk is full"):
        patch.setattr(owner, failing, broken)
        writer.flush()
    add_round(writer, 20)
    writer.close()
    assert check(Trajectory(tmp_path)) == 21
    assert list(Trajectory(tmp_path).snapshot_steps) == list(range(10, 20))


def test_a_failing_close_does_not_hide_the_first_error(tmp_path, monkeypatch):
    with pytest.warns(RuntimeWarning, match="could not be written"):
        with pytest.raises(ZeroDivisionError):
            with Writer(tmp_path, header()) as writer:
                add_round(writer, 0)
                monkeypatch.setattr(h5py.File, "flush", lambda file: 1 / 0 if file else None)
                monkeypatch.setattr(h5py.Dataset, "resize", _fail)
                raise ZeroDivisionError
    monkeypatch.undo()
    writer.close("stopped")
    assert len(Trajectory(tmp_path).rounds) == 1


def _fail(*arguments, **options):
    raise OSError(5, "Input/output error")


def test_columns_of_unequal_length_are_cut_to_the_shortest(tmp_path):
    writer = Writer(tmp_path, header())
    for s in range(10):
        add_round(writer, s)
    writer.close("stopped")
    with h5py.File(writer.path, "r+") as file:
        file["rounds/wait_s"].resize(7, axis=0)
        file["rounds/step_end"].resize(5000, axis=0)  # room was made, the chunk was never written
    assert check(Trajectory(tmp_path)) == 7
    with Writer(tmp_path, header(), mode="append") as again:
        add_round(again, 7)
    assert check(Trajectory(tmp_path)) == 8
    with h5py.File(writer.path) as file:
        assert {column.shape[0] for column in file["rounds"].values()} == {8}
