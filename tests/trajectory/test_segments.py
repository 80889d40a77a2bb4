"""A resumed run is several files that read as one."""

import numpy as np
import pytest

from hpc_localsgd.trajectory import Trajectory, TrajectoryError, Writer, next_segment, segment_paths

from .runs import add_round, header, write_run


def test_names_of_segments(tmp_path):
    assert next_segment(tmp_path) == tmp_path / "trajectory.h5"
    for name in ("trajectory.h5", "trajectory-0001.h5", "trajectory-0002.h5"):
        assert write_run(tmp_path, range(1), mode="resume").name == name
    (tmp_path / "trajectory-old.h5").write_bytes(b"")
    assert [path.name[10:] for path in segment_paths(tmp_path)] == [".h5", "-0001.h5", "-0002.h5"]
    assert next_segment(tmp_path / "trajectory.h5").name == "trajectory-0003.h5"


def test_work_done_again_counts_once(tmp_path):
    write_run(tmp_path, range(10))  # up to step 40, killed; the last checkpoint was at step 24
    write_run(tmp_path, range(6, 15), mode="resume", t0=24)
    run = Trajectory(tmp_path)
    assert len(run.paths) == 2 and run.attrs["t0"] == 0
    np.testing.assert_array_equal(run.rounds.step_end, 4 * np.arange(1, 16))
    np.testing.assert_array_equal(run.series("spread").step, 4 * np.arange(1, 16))
    np.testing.assert_array_equal(run.series("spread").value, np.arange(15))
    assert len(Trajectory(run.paths[1]).rounds) == 9
    assert len(Trajectory(tmp_path, segments=False).rounds) == 10


def test_resumed_twice_the_second_time_from_further_back(tmp_path):
    write_run(tmp_path, range(10))
    write_run(tmp_path, range(8, 12), mode="resume", t0=32)
    write_run(tmp_path, range(4, 6), mode="resume", t0=16)
    np.testing.assert_array_equal(Trajectory(tmp_path).rounds.step_end, 4 * np.arange(1, 7))


def test_a_segment_killed_before_its_first_row(tmp_path):
    write_run(tmp_path, range(10))
    Writer(tmp_path, header(t0=24), mode="resume").close("stopped")
    run = Trajectory(tmp_path)
    assert (len(run.rounds), run.status) == (6, "stopped")


def test_a_round_cut_in_the_middle_belongs_to_the_one_who_ended_it(tmp_path):
    write_run(tmp_path, range(5))
    with Writer(tmp_path, header(t0=22), mode="resume") as writer:
        add_round(writer, 5)  # steps 20 to 24; the first two were taken by the job before
    np.testing.assert_array_equal(Trajectory(tmp_path).rounds.step_end, 4 * np.arange(1, 7))


def test_a_value_measured_again_at_the_seam_counts_once(tmp_path):
    for t0, steps, value, mode in ((0, (0, 8, 16), 1.0, "new"), (8, (8, 16), 2.0, "resume")):
        with Writer(tmp_path, header(t0=t0), mode=mode) as writer:
            for step in steps:
                writer.series("eval/test/loss", step, value)
                writer.snapshot(step, np.full(5, value))
    run = Trajectory(tmp_path)
    assert list(run.series("eval/test/loss").step) == [0, 8, 16]
    assert list(run.series("eval/test/loss").value) == [1, 2, 2]
    assert list(run.snapshot_steps) == [0, 8, 16]
    assert [run.snapshot(step).mean[0] for step in (0, 8, 16)] == [1, 2, 2]


def test_another_number_of_workers(tmp_path):
    write_run(tmp_path, range(4))
    write_run(tmp_path, range(4, 6), mode="resume", K=2, t0=16)
    run = Trajectory(tmp_path)
    assert run.K == 2 and run.rounds.compute_s.shape == (6, 3)
    assert np.isnan(run.rounds.compute_s[4:, 2]).all()
    assert np.isfinite(run.rounds.compute_s[:4]).all()
    sums = run.totals  # each round's mean is over the workers that it had
    assert (sums.compute_s, sums.wait_s) == (1 + 2 + 3 + 4 + 4.5 + 5.5, 6 * 0.5)
    assert sums.payload_bytes == 6 * 4 * 5


def test_series_of_another_number_of_workers(tmp_path):
    for K, mode, t0 in ((3, "new", 0), (2, "resume", 8)):
        with Writer(tmp_path, header(K=K, t0=t0), mode=mode) as writer:
            writer.series("train/loss", t0 + 4, np.full(K, 1.0), dims="worker")
            writer.series("xi/matrix", t0 + 4, np.ones((K, 2)), dims=("worker", "node"))
            writer.series("probe", t0 + 4, np.ones(K), dims="node")
    run = Trajectory(tmp_path)
    assert "train/loss [2]" in repr(run)
    np.testing.assert_array_equal(run.series("train/loss").value, [[1, 1, 1], [1, 1, np.nan]])
    assert np.isnan(run.series("xi/matrix").value).tolist()[1] == [[False] * 2] * 2 + [[True] * 2]
    with pytest.raises(TrajectoryError, match="in different shapes"):  # nodes are no workers
        run.series("probe")


def test_overwriting_replaces_every_segment(tmp_path):
    for mode in ("new", "resume", "resume"):
        write_run(tmp_path, range(2), mode=mode)
    write_run(tmp_path, range(3), mode="overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["trajectory.h5"]
    assert len(Trajectory(tmp_path).rounds) == 3


def test_a_missing_segment_is_said(tmp_path):
    for mode in ("new", "resume", "resume"):
        write_run(tmp_path, range(2), mode=mode)
    (tmp_path / "trajectory-0001.h5").unlink()
    with pytest.raises(TrajectoryError, match="trajectory-0001.h5 of this run is missing"):
        Trajectory(tmp_path)
    with pytest.raises(TrajectoryError, match="already there"):
        Writer(tmp_path, header())
