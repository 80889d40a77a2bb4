"""What is written is what is read: columns, series, snapshots, attributes."""

import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from hpc_localsgd.trajectory import SCHEMA_VERSION, Trajectory, TrajectoryError, Writer

from .runs import REPOSITORY, add_round, header, write_run


def test_rounds_come_back(tmp_path):
    write_run(tmp_path / "a", range(10))
    run = Trajectory(tmp_path / "a")
    assert (run.K, run.P, run.status, len(run.rounds)) == (3, 5, "complete", 10)
    assert run.config == {"seed": 7, "schedule": {"every": 4}}
    np.testing.assert_array_equal(run.rounds.step_end, 4 * np.arange(1, 11))
    np.testing.assert_array_equal(run.rounds.local_steps, np.full(10, 4))
    expected = np.arange(10)[:, None] + np.arange(3)
    np.testing.assert_array_equal(run.rounds["compute_s"], expected)
    assert run.rounds.step_end.dtype == np.int64
    assert np.isnan(run.rounds.wire_bytes).all()  # not given is missing, never a number


def test_totals_are_of_the_mean_worker(tmp_path):
    write_run(tmp_path / "a", range(10))
    sums = Trajectory(tmp_path / "a").totals
    assert (sums.rounds, sums.steps) == (10, 40)
    assert (sums.compute_s, sums.wait_s, sums.transfer_s) == (55.0, 5.0, 2.5)
    assert sums.payload_bytes == 10 * 4 * 5
    assert np.isnan(sums.wire_bytes)


def test_series_keep_shape_units_and_meaning(tmp_path):
    with Writer(tmp_path, header()) as writer:
        for step in (0, 10, 20):
            writer.series("eval/test/accuracy", step, 0.1, units="fraction", meaning="mean model")
            row = np.full((3, 2), step, np.float32)
            writer.series("train", step, row, dims=("worker", "class"))
            writer.series("train/loss", step, 3)
            row += 1  # the writer keeps a copy
    run = Trajectory(tmp_path)
    assert run.names() == ["eval/test/accuracy", "train", "train/loss"]
    accuracy, train = run.series("eval/test/accuracy"), run.series("train")
    assert (accuracy.units, accuracy.dims, accuracy.meaning) == ("fraction", (), "mean model")
    assert (accuracy.value == 0.1).all()  # exactly: a number is kept in float64
    assert (train.value.shape, train.value.dtype) == ((3, 3, 2), np.float32)
    assert train.dims == ("worker", "class")
    np.testing.assert_array_equal(train.value[:, 0, 0], train.step)
    assert run.series("train/loss").value.dtype == np.float64
    assert "3 values in fraction, steps 0-20" in repr(accuracy)


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize(
    ("dtype", "error"), [("float64", 0), ("float32", 1e-7), ("float16", 1e-3), ("bfloat16", 4e-3)]
)
def test_snapshots_in_every_encoding(tmp_path, dtype, error, compression):
    if compression == "zstd":
        pytest.importorskip("hdf5plugin")
    x = np.random.default_rng(0).normal(size=(2, 3, 50))
    options = {"snapshot_dtype": dtype, "compression": compression}
    with Writer(tmp_path, header(P=50), **options) as writer:
        for step, workers in zip((8, 16), x, strict=True):
            writer.snapshot(step, workers.mean(0), workers)
    run = Trajectory(tmp_path)
    assert list(run.snapshot_steps) == [8, 16]
    first, last = run.snapshot(8, workers=True), run.snapshot()
    np.testing.assert_allclose(first.mean, x[0].mean(0), rtol=error, atol=0)
    np.testing.assert_allclose(first.workers, x[0], rtol=error, atol=0)
    assert (last.step, last.workers) == (16, None)


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan_and_infinity():
    torch = pytest.importorskip("torch")
    from hpc_localsgd.trajectory.encoding import decode, encode

    bits = np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint32)
    x = np.concatenate([bits.view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
    ours = decode(encode(x, "bfloat16"), "bfloat16")
    np.testing.assert_array_equal(ours, torch.from_numpy(x).bfloat16().float().numpy())


def test_a_long_configuration_and_slurm_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    config = "notes: " + "x" * 200_000
    Writer(tmp_path, header(config=config)).close("diverged")
    run = Trajectory(tmp_path)
    assert run.config_text == config
    assert (run.attrs["slurm_job_id"], run.status) == ("4711", "diverged")
    assert run.attrs["schema_version"] == SCHEMA_VERSION and len(run.attrs["digest"]) == 64


def test_an_empty_run_reads_and_prints(tmp_path):
    Writer(tmp_path, header()).close()
    run = Trajectory(tmp_path)
    assert len(run.rounds) == 0 and run.rounds.compute_s.shape == (0, 3)
    assert run.names() == [] and len(run.snapshot_steps) == 0
    assert run.totals.payload_bytes == 0
    assert "none yet" in repr(run)


def test_the_repr_tells_the_run(tmp_path):
    write_run(tmp_path, range(10))
    text = repr(Trajectory(tmp_path))
    for part in ("complete", "local_sgd()", "K = 3", "10 rounds, steps 0-40, H 4", "200 B sent"):
        assert part in text
    assert "spread [10], train/loss [10]" in text


def test_an_exception_closes_as_stopped_and_keeps_the_rows(tmp_path):
    with pytest.raises(ZeroDivisionError), Writer(tmp_path, header()) as writer:
        add_round(writer, 0)
        raise ZeroDivisionError
    run = Trajectory(tmp_path)
    assert (run.status, len(run.rounds)) == ("stopped", 1)
    with pytest.raises(TrajectoryError, match="closed"):
        add_round(writer, 1)


def test_rows_are_flushed_when_their_time_has_come(tmp_path):
    writer = Writer(tmp_path, header(), flush_every_s=0)
    add_round(writer, 0)
    assert (len(Trajectory(tmp_path).rounds), Trajectory(tmp_path).status) == (1, "running")
    writer.close()


def test_a_hundred_thousand_rounds_are_cheap(tmp_path):
    begin = time.perf_counter()
    with Writer(tmp_path, header(K=8)) as writer:
        for s in range(100_000):
            add_round(writer, s)
    assert len(Trajectory(tmp_path).rounds) == 100_000
    assert time.perf_counter() - begin < 15  # about 2 s; 20 us a round
    assert (tmp_path / "trajectory.h5").stat().st_size < 1.1 * 100_000 * 8 * (4 + 5 * 8)


def test_a_wrong_row_is_refused_at_once(tmp_path):
    with Writer(tmp_path, header()) as writer:
        writer.series("a", 0, 1.0)
        writer.snapshot(0, np.zeros(5))
        for wrong, message in (
            (lambda: writer.series("a", 1, [1.0, 2.0]), "shapes"),
            (lambda: writer.series("b", 1, [1.0, 2.0]), "dims"),
            (lambda: writer.series("b", 1, "high"), "number"),
            (lambda: writer.series("a//b", 1, 1.0), "'' must be"),
            (lambda: writer.series("a/step", 1, 1.0), "'step' must be"),
            (lambda: writer.snapshot(1, np.zeros(6)), "shapes"),
            (lambda: writer.snapshot(1, np.zeros(5), np.zeros((3, 5))), "shapes"),
            (lambda: writer.close("done"), "complete, stopped"),
        ):
            with pytest.raises(TrajectoryError, match=message):
                wrong()
    assert Trajectory(tmp_path).names() == ["a"]


def test_options_are_checked_before_a_file_is_made(tmp_path):
    for options in ({"snapshot_dtype": "float8"}, {"compression": "rar"}, {"mode": "w"}):
        with pytest.raises(TrajectoryError, match="unknown; write one of"):
            Writer(tmp_path / "a", header(), **options)
    assert not list(tmp_path.iterdir())


def test_attributes_are_where_the_schema_says(tmp_path):
    with h5py.File(write_run(tmp_path, range(2)), "r") as file:
        assert file["rounds/wait_s"].attrs["units"] == "s"
        assert file["series/train/loss"].attrs["units"] == "nats"
        assert set(file) == {"rounds", "series"}


def test_reading_imports_no_torch_and_no_mpi(tmp_path):
    write_run(tmp_path / "a", range(3))
    code = (
        "import sys; from hpc_localsgd.trajectory import Trajectory;"
        "t = Trajectory('a/trajectory.h5'); print(t.config, t.series('spread'), t);"
        "heavy = {'torch', 'mpi4py', 'horovod', 'matplotlib', 'hdf5plugin'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=240)


def test_how_many_samples_a_mean_is_over_comes_back(tmp_path):
    with Writer(tmp_path, header()) as writer:
        writer.series("eval/test/accuracy", 1, 0.9, samples=10_000)
        writer.series("spread", 1, 0.9)
    run = Trajectory(tmp_path)
    assert run.series("eval/test/accuracy").samples == 10_000
    assert run.series("spread").samples == 0
    with h5py.File(run.path, "r+") as file:  # of an older version, or of anybody
        assert "samples" not in file["series/spread"].attrs
        for strange in ("many", -3, 0.5):
            file["series/eval/test/accuracy"].attrs["samples"] = strange
            file.flush()
            assert Trajectory(tmp_path).series("eval/test/accuracy").samples == 0
