"""`python -m hpc_localsgd sharpness`: on a small run, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_runs import files_below

from hpc_localsgd.commands.sharpness import main
from hpc_localsgd.commands.sharpness.measured_run import chosen, rebuilt
from hpc_localsgd.commands.sharpness.options import SharpnessOptions, parse
from hpc_localsgd.commands.sharpness.sharpness_file import SharpnessFile, put_in_order
from hpc_localsgd.commands.sharpness.values import Value
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.train import main as train
from hpc_localsgd.trajectory import Header, Trajectory, Writer

RUN = ["--task.hidden=4", "--workers=3", "--schedule=every", "--schedule.steps=8", "--steps=30"]
FAST = ["--samples=200", "--eigenvalues=3", "--dtype=float64", "--direction-probes=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots at 0, 15 and 30; 15 is in the middle of a round."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = ["--snapshot-every=15", "--snapshot-workers", "--figures=false", f"--out={out}"]
    assert train([*RUN, *options]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def results(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    out = tmp_path_factory.mktemp("results") / "s.h5"
    assert main([str(trained), *FAST, "--density", "--each-worker", f"--out={out}"]) == 0
    return Trajectory(out)


def dense(trained: Path, x: np.ndarray) -> tuple[torch.Tensor, Any, Any]:
    """Hessian and loss on the first 200 samples of the seeded order, by autograd alone."""
    options = SharpnessOptions(run=str(trained), dtype="float64", samples=200)
    task = rebuilt(Trajectory(trained).config_text, options, torch.device("cpu"))
    batches = [task.batch([0], t) for t in range(13)]
    inputs = torch.cat([i[0] for i, _ in batches])[:200]
    labels = torch.cat([t[0] for _, t in batches])[:200]

    def loss(v: torch.Tensor) -> torch.Tensor:
        return task.loss(v, (inputs, labels))

    point = torch.from_numpy(x).double()
    return torch.autograd.functional.hessian(loss, point), loss, point


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a refused command says, on stderr."""
    assert main(list(argv)) == 2
    return capsys.readouterr().err


def test_eigenvalues_trace_and_loss_are_those_of_the_dense_hessian(
    trained: Path, results: Trajectory
) -> None:
    for i, step in enumerate((0, 15, 30)):
        H, loss, x = dense(trained, Trajectory(trained).snapshot(step).mean)
        values = np.linalg.eigvalsh(H.numpy())[::-1]
        found = results.series("sharpness/eigenvalues")
        assert found.step.tolist() == [0, 15, 30]
        np.testing.assert_allclose(found.value[i], values[:3], rtol=1e-4)
        trace, error = (results.series(f"sharpness/trace{s}").value[i] for s in ("", "_error"))
        assert abs(trace - float(H.trace())) < 4 * error
        assert (
            error <= 0.02 * abs(trace) or results.series("sharpness/trace_probes").value[i] == 200
        )
        assert results.series("sharpness/loss").value[i] == pytest.approx(float(loss(x)), rel=1e-12)


def test_the_spread_is_half_a_trace(trained: Path, results: Trajectory) -> None:
    snapshot = Trajectory(trained).snapshot(15, workers=True)
    H, loss, x = dense(trained, snapshot.mean)
    assert snapshot.workers is not None
    apart = torch.from_numpy(snapshot.workers).double()
    apart -= apart.mean(0)
    value = {
        n: results.series(f"sharpness/snapshot_xi_{n}").value
        for n in ("trace", "half_trace", "gap")
    }
    assert value["trace"][1] == pytest.approx(float((apart**2).sum()) / 3, rel=1e-9)
    assert value["trace"][1] > 1e-4
    half = float(torch.einsum("kp,pq,kq->", apart, H, apart)) / 6
    assert value["half_trace"][1] == pytest.approx(half, rel=1e-6)
    gap = np.mean([float(loss(w.double())) for w in torch.from_numpy(snapshot.workers)])
    assert value["gap"][1] == pytest.approx(gap - float(loss(x)), rel=1e-6)
    assert value["gap"][1] == pytest.approx(half, rel=0.3)  # to second order
    assert value["trace"][0] == 0
    values = results.series("sharpness/snapshot_xi_eigenvalues").value
    xi = (apart.T @ apart / 3).numpy()
    np.testing.assert_allclose(values[1, :2], np.linalg.eigvalsh(xi)[::-1][:2], rtol=1e-6)
    curved = results.series("sharpness/snapshot_xi_curvature").value
    along = torch.einsum("kp,pq,kq->k", apart, H, apart) / apart.square().sum(1)
    np.testing.assert_allclose(curved[1], along.numpy(), rtol=1e-6)
    assert np.isnan(curved[0]).all()  # the workers begin at one point


def test_each_worker_has_its_own(trained: Path, results: Trajectory) -> None:
    snapshot = Trajectory(trained).snapshot(15, workers=True)
    assert snapshot.workers is not None
    found = results.series("sharpness/workers/eigenvalues")
    assert found.dims == ("worker", "eigenvalue")
    assert found.value.shape == (3, 3, 3)
    for k in range(3):
        H, _, _ = dense(trained, snapshot.workers[k])
        want = np.linalg.eigvalsh(H.numpy())[::-1][:3]
        np.testing.assert_allclose(found.value[1, k], want, rtol=1e-4)
    assert results.series("sharpness/workers/trace").value.shape == (3, 3)


def test_the_density_and_the_directions_are_there(trained: Path, results: Trajectory) -> None:
    weights = results.series("sharpness/density_weights")
    assert weights.value.shape == (3, 10, 30)
    np.testing.assert_allclose(weights.value.sum(2), 1)
    nodes = results.series("sharpness/density_nodes").value
    P = results.P
    moment = (weights.value * nodes).sum(2).mean(1) * P
    H, _, _ = dense(trained, Trajectory(trained).snapshot(30).mean)
    assert moment[2] == pytest.approx(float(H.trace()), rel=0.5)
    assert (results.series("sharpness/worst_direction").value > 0).all()
    average = results.series("sharpness/average_direction")
    assert average.units == "nat"
    assert "0.01^2" in average.meaning


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


@pytest.fixture(scope="module")
def every_matrix(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    out = tmp_path_factory.mktemp("matrices") / "s.h5"
    flags = ["--eigenvectors", "--ggn", "--fisher", "--noise", "--steps=last", f"--out={out}"]
    assert main([str(trained), *FAST, *flags]) == 0
    return Trajectory(out)


def test_eigenvectors_are_stored_beside_the_eigenvalues(
    trained: Path, every_matrix: Trajectory
) -> None:
    H, _, _ = dense(trained, Trajectory(trained).snapshot(30).mean)
    series = every_matrix.series("sharpness/eigenvectors")
    V = torch.from_numpy(series.value[0]).double()
    assert series.dims == ("eigenvalue", "parameter")
    assert V.shape == (3, len(H))
    values = torch.from_numpy(every_matrix.series("sharpness/eigenvalues").value[0])
    torch.testing.assert_close(V @ V.T, torch.eye(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(V @ H, values[:, None] * V, rtol=0, atol=1e-3)


def test_the_other_matrices_are_those_of_per_sample_gradients(
    trained: Path, every_matrix: Trajectory
) -> None:
    def value(name: str) -> np.ndarray:
        return np.asarray(every_matrix.series(f"sharpness/{name}").value[0])

    options = SharpnessOptions(run=str(trained), dtype="float64", samples=200)
    task = rebuilt(Trajectory(trained).config_text, options, torch.device("cpu"))
    x = torch.from_numpy(Trajectory(trained).snapshot(30).mean).double()
    inputs, labels = (
        torch.cat([b[i][0] for b in (task.batch([0], t) for t in range(13))])[:200] for i in (0, 1)
    )
    J = torch.autograd.functional.jacobian(lambda y: task.outputs(y, inputs), x)
    p = task.outputs(x, inputs).softmax(1)
    g = torch.einsum("ncp,nc->np", J, p - torch.nn.functional.one_hot(labels, 10))
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G, F = torch.einsum("ncp,ncd,ndq->pq", J, middle, J) / 200, g.T @ g / 200
    for name, A in (("ggn", G), ("fisher", F)):
        want = np.linalg.eigvalsh(A)[::-1][:3]
        np.testing.assert_allclose(value(f"{name}/eigenvalues"), want, rtol=1e-4)
        assert abs(value(f"{name}/trace") - float(A.trace())) < 4 * value(f"{name}/trace_error")
    sigma = F - torch.outer(g.mean(0), g.mean(0))
    assert value("noise/trace") == pytest.approx(float(sigma.trace()), rel=1e-9)
    assert value("noise/trace_error") > 0
    H, _, _ = dense(trained, x.numpy())
    cosine = float((H * sigma).sum() / (H.norm() * sigma.norm()))
    assert abs(value("noise/alignment") - cosine) < 4 * value("noise/alignment_error")
    assert value("noise/gradient_squared") == pytest.approx(float(g.mean(0).square().sum()))


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
