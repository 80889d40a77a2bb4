"""Everything against the dense Hessian of the digits' MLP with three hidden units, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpc_localsgd.curvature import (
    Risk,
    build_for_curvature,
    hutchinson,
    in_chunks,
    pieces,
    spectral_density,
    top_eigenvalues,
)
from hpc_localsgd.curvature.subset import statistics_sum
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.synthetic_images import synthetic_images

from .small import SAMPLES, dense, mlp_risk, trained


@pytest.fixture(scope="module")
def risk() -> Risk:
    return mlp_risk().at(trained())


@pytest.fixture(scope="module")
def spectrum() -> np.ndarray:
    return np.linalg.eigvalsh(dense().numpy())[::-1]


def test_products_are_those_of_the_dense_hessian(risk: Risk) -> None:
    V = torch.randn(5, risk.task.dim, dtype=torch.float64)
    want = V @ dense()
    torch.testing.assert_close(risk.products(V), want, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(risk.products(V), want, rtol=1e-10, atol=1e-11)  # graphs are kept
    torch.testing.assert_close(risk.products(V[:1]), want[:1], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("chunk", "keep"), [(16, False), (64, True), (1000, False)])
def test_chunks_and_kept_graphs_do_not_matter(chunk: int, keep: bool) -> None:
    risk = mlp_risk(chunk=chunk)
    risk._keep = keep
    V = torch.randn(3, risk.task.dim, dtype=torch.float64)
    found = risk.at(trained()).products(V)
    torch.testing.assert_close(found, V @ dense(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("ranks", [2, 3, 20])
def test_the_shares_of_ranks_add_up(ranks: int) -> None:
    """13 pieces; with 20 ranks some have nothing to do."""
    whole = mlp_risk().at(trained())
    shares = [mlp_risk(rank=r, ranks=ranks).at(trained()) for r in range(ranks)]
    V = torch.randn(2, whole.task.dim, dtype=torch.float64)
    points = trained() + 0.1 * V
    products = sum(share.products(V) for share in shares)
    torch.testing.assert_close(products, whole.products(V), rtol=1e-10, atol=1e-12)
    losses = sum(share.losses(points) for share in shares)
    torch.testing.assert_close(losses, whole.losses(points), rtol=1e-12, atol=0)
    gradient = sum(share.gradient(points[0]) for share in shares)
    torch.testing.assert_close(gradient, whole.gradient(points[0]), rtol=1e-10, atol=1e-12)


def test_the_subset_is_fixed_and_has_no_sample_twice() -> None:
    task = build_for_curvature(digits(hidden=3), batch=16, seed=5)
    again = build_for_curvature(digits(hidden=8), batch=50, seed=5)
    ours = torch.cat([inputs for inputs, _ in pieces(task, SAMPLES)])
    theirs = torch.cat([inputs for inputs, _ in pieces(again, SAMPLES)])
    assert len(ours) == SAMPLES
    assert (ours == theirs).all()
    every = torch.cat([inputs for inputs, _ in pieces(task)]).flatten(1)
    assert len(every) == task.splits["train"]
    assert len(pieces(task, 10**9)) == len(pieces(task))
    train = task.batch([0], 0)[0][0].flatten(1)
    assert (every[:16] == train).all()
    assert len(every.unique(dim=0)) >= task.splits["train"] - 2  # the data itself repeats little
    with pytest.raises(ConfigurationError, match="at least one sample"):
        pieces(task, 0)


def test_chunks_hold_whole_pieces_in_order() -> None:
    parts = [(torch.full((n, 2), float(n)), torch.full((n,), n)) for n in (16, 16, 16, 8)]
    assert [len(t) for _, t in in_chunks(parts, 40)] == [32, 24]
    assert [len(t) for _, t in in_chunks(parts, 4)] == [16, 16, 16, 8]
    assert [len(t) for _, t in in_chunks(parts, 100)] == [56]
    assert in_chunks([], 10) == []


@pytest.mark.parametrize("which", ["LA", "LM", "SA"])
def test_ten_eigenvalues_are_right(risk: Risk, spectrum: np.ndarray, which: Any) -> None:
    found = top_eigenvalues(risk.products, trained(), 10, which=which, tolerance=1e-6)
    want = {
        "LA": spectrum[:10],
        "SA": spectrum[-10:],
        "LM": np.sort(spectrum[np.argsort(np.abs(spectrum))[-10:]])[::-1],
    }[which]
    np.testing.assert_allclose(found.values, want, rtol=1e-4)
    assert (np.abs(found.values - want) <= found.residuals + 1e-12).all()
    V = found.vectors
    torch.testing.assert_close(V @ V.T, torch.eye(10, dtype=V.dtype), rtol=0, atol=1e-8)
    torch.testing.assert_close(
        V @ dense(), torch.from_numpy(found.values)[:, None] * V, rtol=0, atol=1e-5
    )
    assert 0 < found.products < 2 * len(trained())


def test_eigenvalues_in_float32_are_right_to_single_precision(spectrum: np.ndarray) -> None:
    risk = mlp_risk(torch.float32).at(trained().float())
    found = top_eigenvalues(risk.products, trained().float(), 5, tolerance=1e-4)
    assert found.vectors.dtype == torch.float32
    np.testing.assert_allclose(found.values, spectrum[:5], rtol=2e-4)


def test_an_iteration_that_is_cut_short_says_what_it_has() -> None:
    spectrum = torch.cat([torch.tensor([100.0]), torch.linspace(1, 1.001, 299)]).double()
    found = top_eigenvalues(
        lambda V: V * spectrum, torch.zeros(300).double(), 6, tolerance=1e-14, restarts=1
    )
    assert found.values[0] == pytest.approx(100)
    assert np.isnan(found.values[1:]).any()
    assert np.isnan(found.residuals[np.isnan(found.values)]).all()


@pytest.mark.parametrize("vectors", [1, 7, 10])
def test_the_trace_is_within_its_error_bar(risk: Risk, vectors: int) -> None:
    want = float(dense().trace())
    found = hutchinson(risk.products, trained(), tolerance=0.03, most=400, vectors=vectors)
    assert abs(found.value - want) < 3 * found.error
    assert found.error <= 0.03 * abs(found.value) or found.probes == 400


def test_error_bars_of_the_trace_are_honest(risk: Risk) -> None:
    """Over forty seeds, two thirds of the estimates lie within one standard error."""
    want = float(dense().trace())
    runs = [
        hutchinson(risk.products, trained(), tolerance=0, most=30, vectors=30, seed=seed)
        for seed in range(40)
    ]
    within = np.mean([abs(run.value - want) < run.error for run in runs])
    assert 0.5 < within < 0.85
    spread = np.std([run.value for run in runs])
    assert spread == pytest.approx(np.mean([run.error for run in runs]), rel=0.35)


def test_known_eigenpairs_make_the_trace_cheaper_not_different(risk: Risk) -> None:
    want = float(dense().trace())
    known = top_eigenvalues(risk.products, trained(), 10, tolerance=1e-8)
    plain = hutchinson(risk.products, trained(), tolerance=0, most=50)
    better = hutchinson(risk.products, trained(), tolerance=0, most=50, known=known)
    assert abs(better.value - want) < 3 * better.error
    assert better.error < 0.5 * plain.error


def test_the_moments_of_the_density_are_those_of_the_matrix(risk: Risk) -> None:
    H, P = dense(), len(trained())
    found = spectral_density(risk.products, trained(), steps=20, probes=24, vectors=10)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
    for power in (1, 2, 3, 4):
        moment = found.moment(power)
        want = float(torch.linalg.matrix_power(H, power).trace()) / P
        assert abs(moment.value - want) < 3 * moment.error
    assert found.nodes.max() == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)


def test_the_density_integrates_to_one(risk: Risk) -> None:
    found = spectral_density(risk.products, trained(), steps=15, probes=3)
    grid = np.linspace(found.nodes.min() - 1, found.nodes.max() + 1, 4000)
    density, error = found.on(grid, width=0.05)
    assert np.trapezoid(density, grid) == pytest.approx(1, rel=1e-3)
    assert (error >= 0).all()


class Dropped(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.dropout(x.flatten(1), 0.5, training=True))


def test_a_loss_that_is_no_function_is_refused() -> None:
    from hpc_localsgd.tasks.base import TaskContext
    from hpc_localsgd.tasks.classification import Classification

    task = Classification(Dropped, digits().splits(), TaskContext(batch=16))
    risk = Risk(task, in_chunks(pieces(task, 64), 64))
    with pytest.raises(ConfigurationError, match="not deterministic"):
        risk.at(task.init(0))
    with pytest.raises(RuntimeError, match="Risk.at"):
        mlp_risk().products(torch.zeros(1, task.dim))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_batchnorm_is_in_evaluation_mode_with_the_given_statistics() -> None:
    """Shares of its statistics add up, and they decide the loss; the task is left as it was."""
    spec = digits(model="conv", norm="batch", hidden=8)
    task = build_for_curvature(spec, batch=16, dtype=torch.float64)
    x = task.init(0)
    parts = pieces(task, 100)
    whole = statistics_sum(task, x, parts, 100)
    shares = [statistics_sum(task, x, pieces(task, 100, r, 3), 100) for r in range(3)]
    torch.testing.assert_close(torch.stack(shares).sum(0), whole)
    assert whole[-1] == 6 and len(parts) == 7  # the last piece is shorter than a batch
    buffers = whole[:-1] / whole[-1]
    torch.testing.assert_close(buffers, task.statistics(x, parts[:-1]))
    few = statistics_sum(task, x, pieces(task, 5), 5)
    assert few[-1] == 1 and few[:-1].any()
    before = task.buffers.clone()
    risk = Risk(task, in_chunks(parts, 50))
    with_fresh = risk.losses(x[None])
    with_own = risk.at(x, buffers).losses(x[None])
    assert (with_own - with_fresh).abs() > 1e-3
    assert (task.buffers == before).all()
    v = torch.randn(2, task.dim, dtype=torch.float64)
    v /= v.norm(dim=1, keepdim=True)

    def loss(y: torch.Tensor) -> torch.Tensor:
        batch = (torch.cat([i for i, _ in parts]), torch.cat([t for _, t in parts]))
        return task.loss(y, batch, buffers)

    _, forward = torch.func.jvp(torch.func.grad(loss), (x,), (v[0],))  # forward over reverse
    torch.testing.assert_close(risk.products(v)[0], forward, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("m", [2, 4, 8])
def test_several_vectors_are_right_where_torch_cannot_batch_them(
    norm: Any, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batched second backward pass through GroupNorm raises, or is wrong, as shapes have it."""
    monkeypatch.setattr("hpc_localsgd.curvature.pullback.BATCHED_P", 10**9)
    spec = digits(model="conv", norm=norm, hidden=2)
    task = build_for_curvature(spec, batch=4, dtype=torch.float64)
    risk = Risk(task, in_chunks(pieces(task, 8), 8)).at(task.init(0))
    V = torch.randn(m, task.dim, dtype=torch.float64)
    want = torch.cat([risk.products(v[None]) for v in V])
    for _ in range(2):
        torch.testing.assert_close(risk.products(V), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "specs",
    [
        (digits(hidden=3), digits(hidden=3, label_noise=0.5)),
        (
            synthetic_images(model="resnet8", size=8, samples=64, augment=False),
            synthetic_images(model="resnet8", size=8, samples=64, label_noise=0.5, mixup=1.0),
        ),
    ],
    ids=["digits", "images"],
)
def test_what_training_adds_at_random_is_not_measured(specs: Any) -> None:
    plain, disturbed = (pieces(build_for_curvature(spec, batch=16), 64) for spec in specs)
    for (x, y), (other_x, other_y) in zip(plain, disturbed, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
