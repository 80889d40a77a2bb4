"""`python -m hpc_localsgd sharpness`: on a small run, in this process."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from small_runs import files_below

from hpc_localsgd.commands.sharpness import main
from hpc_localsgd.commands.sharpness.measured_run import chosen
from hpc_localsgd.commands.sharpness.options import parse
from hpc_localsgd.commands.sharpness.sharpness_file import SharpnessFile, put_in_order
from hpc_localsgd.commands.sharpness.values import Value
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import Header, Trajectory, Writer

from .few_options import FAST


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a refused command says, on stderr."""
    assert main(list(argv)) == 2
    return capsys.readouterr().err


def test_the_table_says_how_far_each_direction_goes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One radius is of each parameter and one of the whole step, so that their rises may cross."""
    assert main([str(run), *FAST, "--steps=last", "--sigma=0.02", "--rho=0.1"]) == 0
    text = capsys.readouterr().out
    assert "average direction (sigma = 0.02)   along the gradient (SAM, rho = 0.1)" in text
    length = 0.02 * Trajectory(run).P ** 0.5
    assert f"about {length:.2g} in all" in text
    assert "different radii, not to be compared" in " ".join(text.split()) and "worst" not in text


def test_the_run_is_not_touched(run: Path) -> None:
    before = files_below(run)
    assert main([str(run), *FAST, "--steps=last"]) == 0
    after = files_below(run)
    assert after.pop("sharpness.h5")
    assert after == before
    assert Trajectory(run).status == "complete"
    assert Trajectory(run / "sharpness.h5").attrs["K"] == 3


def test_a_second_call_measures_what_is_missing_and_sorts_it(
    run: Path, results: Trajectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *FAST, "--steps=30"]) == 0
    assert main([str(run / "trajectory.h5"), *FAST, "--steps=0,15"]) == 0
    capsys.readouterr()
    before = (run / "sharpness.h5").read_bytes()
    assert main([str(run), *FAST]) == 0
    out = capsys.readouterr().out
    assert "3 of these snapshots had been measured before" in out
    assert "Hessian-vector products" not in out
    found = Trajectory(run / "sharpness.h5")
    assert (run / "sharpness.h5").read_bytes() == before
    for name in ("eigenvalues", "trace", "snapshot_xi_gap", "average_direction"):
        series, whole = (f.series(f"sharpness/{name}") for f in (found, results))
        assert series.step.tolist() == [0, 15, 30]
        np.testing.assert_allclose(series.value, whole.value, rtol=1e-6, atol=1e-12)
    assert found.status == "complete"
    assert "settings" not in out
    assert [p.name for p in run.glob(".*")] == []


def test_a_snapshot_that_was_cut_short_is_measured_again(run: Path) -> None:
    """A job killed within a flush leaves a step in some series and not in others."""
    assert main([str(run), *FAST, "--steps=0,15"]) == 0
    with h5py.File(run / "sharpness.h5", "r+") as file:
        file["series/sharpness/loss/step"].resize(1, axis=0)
        file["series/sharpness/loss/value"].resize(1, axis=0)
        file.attrs["status"] = "running"
    assert main([str(run), *FAST]) == 0
    found = Trajectory(run / "sharpness.h5")
    for name in found.names():
        assert found.series(name).step.tolist() == [0, 15, 30]


def test_values_of_fewer_workers_are_padded(tmp_path: Path) -> None:
    facts = {name: "" for name in ("config", "task", "algorithm", "schedule", "world")}
    with SharpnessFile(tmp_path / "s.h5", Header(**facts, K=2, P=3, seed=0), workers=3) as store:
        for step, K in ((10, 3), (20, 2)):
            store.add(step, [Value("xi_curvature", np.ones(K), "", ("worker",))])
    found = Trajectory(tmp_path / "s.h5").series("sharpness/xi_curvature").value
    np.testing.assert_array_equal(found, [[1, 1, 1], [1, 1, np.nan]])


def test_other_settings_need_another_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), *FAST, "--steps=0"]) == 0
    before = (run / "sharpness.h5").read_bytes()
    text = said(capsys, str(run), *FAST, "--samples=100")
    assert "(--samples)" in text and "--overwrite" in text
    assert (run / "sharpness.h5").read_bytes() == before
    assert main([str(run), *FAST, "--samples=100", "--steps=0", "--overwrite"]) == 0
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file.attrs["created"] = "2031-01-01T00:00:00+00:00"
    assert "trained again" in said(capsys, str(run), *FAST, "--samples=100")


def test_the_table_is_calm(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), *FAST]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100 + len(str(run))
    assert "…" not in out and "\x1b" not in out
    for word in ("three largest eigenvalues", "trace", "tr(H Xi) / 2", "On 200 training samples"):
        assert word in out


def copied_without(run: Path, what: str) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        del file[what]


def test_a_run_without_snapshots_says_how_to_have_some(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied_without(run, "snapshots")
    (run / "model.safetensors").unlink(missing_ok=True)
    text = said(capsys, str(run))
    assert "has no snapshots" in text and "--snapshot-every" in text
    assert not (run / "sharpness.h5").exists()


def test_mean_models_alone_are_measured_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        del file["snapshots/workers"]
        text = file.attrs["config"]
        file.attrs["config"] = text.replace("snapshot_workers: true", "snapshot_workers: false")
    assert "leave --each-worker out" in said(capsys, str(run), "--each-worker")
    assert main([str(run), *FAST, "--steps=last"]) == 0
    names = Trajectory(run / "sharpness.h5").names()
    assert "sharpness/trace" in names
    assert not any("xi" in name for name in names)


def test_a_snapshot_with_nan_is_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file["snapshots/mean"][1, 7] = np.nan
        file["snapshots/workers"][1, 2, 7] = np.inf
    assert main([str(run), *FAST]) == 0
    assert "Step 15 is left out: 2 of its" in capsys.readouterr().out
    found = Trajectory(run / "sharpness.h5")
    assert found.series("sharpness/trace").step.tolist() == [0, 30]
    text = said(capsys, str(run), *FAST, "--steps=15")
    assert "nothing could be measured" in text and "not finite" in text


def test_another_schema_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file.attrs["schema_version"] = 0
        file.attrs["package_version"] = "0.0.1"
    text = said(capsys, str(run))
    assert "schema version 0, written by hpc_localsgd 0.0.1" in text
    assert "Traceback" not in text


def test_results_of_another_schema_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), *FAST, "--steps=last"]) == 0
    with h5py.File(run / "sharpness.h5", "r+") as file:
        file.attrs["schema_version"] = 0
        file.attrs["package_version"] = "0.0.1"
    text = said(capsys, str(run), *FAST)
    assert "sharpness.h5" in text and "written by hpc_localsgd 0.0.1" in text


def test_a_run_from_before_an_option_was_there_is_measured(run: Path) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        lines = file.attrs["config"].splitlines()
        newer = ("deviations_every", "gradients_every", "probe_samples")
        kept = [line for line in lines if not line.startswith(newer)]
        assert len(kept) == len(lines) - 3
        file.attrs["config"] = "\n".join(kept)
    assert main([str(run), *FAST, "--steps=last"]) == 0


def test_a_killed_run_gives_what_it_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file.attrs["status"] = "running"
        for name in ("step", "mean", "workers"):
            file[f"snapshots/{name}"].resize(2, axis=0)
    assert main([str(run), *FAST]) == 0
    assert "in progress or was killed" in capsys.readouterr().out
    assert Trajectory(run / "sharpness.h5").series("sharpness/loss").step.tolist() == [0, 15]


def test_a_model_that_has_changed_since_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file.attrs["config"] = file.attrs["config"].replace("hidden: 4", "hidden: 5")
    assert "another version of the model" in said(capsys, str(run), *FAST)
    with h5py.File(run / "trajectory.h5", "r+") as file:
        file.attrs["config"] += "nonsense: 3\n"
    text = said(capsys, str(run), *FAST)
    assert "recorded is not understood" in text and "nonsense" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps=7"], "no snapshot at step 7; there are: 0, 15, 30"),
        (["--steps=some"], "give all, last, or steps"),
        (["--chunk=0"], "--chunk 0 is too small"),
        (["--dtype=float16"], "float16"),
        (["--world=nowhere"], "nowhere"),
        (["--out={run}/trajectory.h5"], "never written to"),
        (["--out={run}", "--overwrite"], "never written to"),
        (["--out={run}/..", "--overwrite"], "is a folder: type"),
    ],
)
def test_faults_of_the_request(
    trained: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(trained)
    text = said(capsys, str(trained), *(option.format(run=trained) for option in options))
    assert message in text and "Traceback" not in text
    assert files_below(trained) == before


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such trajectory" in said(capsys, str(tmp_path / "nothing"))


def test_what_is_chosen() -> None:
    assert chosen("all", [0, 5, 9]) == (0, 5, 9)
    assert chosen("last", [0, 5, 9]) == (9,)
    assert chosen("9,0", [0, 5, 9]) == (0, 9)
    with pytest.raises(ConfigurationError, match="step 6"):
        chosen("5 6", [0, 5, 9])


def test_settings_are_what_decides_the_numbers() -> None:
    a = parse(["x", "--steps=last", "--chunk=7", "--device=cpu"]).settings()
    assert a == parse(["y"]).settings()
    assert a != parse(["y", "--rho=0.1"]).settings()
    assert parse(["x", "--each-worker"]).each_worker


def test_of_two_that_begin_a_file_at_once_one_has_it(tmp_path: Path) -> None:
    facts = {name: "" for name in ("config", "task", "algorithm", "schedule", "world")}
    header, value = Header(**facts, K=2, P=3, seed=0), [Value("lambda1", np.ones(()), "", ())]
    with SharpnessFile(tmp_path / "s.h5", header) as first:
        second = SharpnessFile(tmp_path / "s.h5", header)
        first.add(10, value)
    with pytest.raises(ConfigurationError, match=r"s\.h5"):
        second.add(20, value)
    assert Trajectory(tmp_path / "s.h5").series("sharpness/lambda1").step.tolist() == [10]


def test_sorting_keeps_the_latest_of_a_step(tmp_path: Path) -> None:
    said = ("seed: 1", "digits", "local_sgd()", "every(8)", "simulated(2)")
    header = Header(*said, K=2, P=3, seed=1)
    path = tmp_path / "s.h5"
    with Writer(path, header) as writer:
        for step, value in ((5, 1.0), (2, 2.0), (5, 3.0)):
            writer.series("sharpness/x", step, [value, -value], units="m", dims="side", meaning="y")
    put_in_order(path)
    found = Trajectory(path).series("sharpness/x")
    assert found.step.tolist() == [2, 5]
    assert found.value.tolist() == [[2.0, -2.0], [3.0, -3.0]]
    assert (found.units, found.dims, found.meaning) == ("m", ("side",), "y")
    assert Trajectory(path).config_text == "seed: 1"
    assert SharpnessFile(path, header).done == {2, 5}
