"""What `sharpness` measures of a small run, against dense matrices by autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.commands.sharpness import main
from hpc_localsgd.commands.sharpness.measured_run import rebuilt
from hpc_localsgd.commands.sharpness.options import SharpnessOptions
from hpc_localsgd.trajectory import Trajectory

from .few_options import FAST


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
