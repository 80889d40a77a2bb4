"""Gauss-Newton, Fisher and noise of the small MLP against dense matrices and curvlinops."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from hpc_localsgd.curvature import (
    Risk,
    alignment,
    along,
    build_for_curvature,
    covariance,
    deviations,
    half_trace,
    hutchinson,
    in_chunks,
    noise_trace,
    pieces,
    top_eigenvalues,
)
from hpc_localsgd.curvature.eigenvalues import gram_eigenvalues
from hpc_localsgd.curvature.gauss_newton import Middle
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digits import conv, digits, mlp

from .small import SAMPLES, dense, mlp_risk, multiplier, risk_of, trained

BOTH: tuple[Middle, ...] = ("ggn", "fisher")


@cache
def by_hand() -> dict[str, torch.Tensor]:
    """G, F, Sigma [P, P], the mean gradient [P] and |g_i|^2 [N], sample by sample."""
    risk, x = mlp_risk(), trained()
    inputs = torch.cat([i for i, _ in risk.chunks])
    labels = torch.cat([t for _, t in risk.chunks])
    J = torch.autograd.functional.jacobian(lambda y: risk.task.outputs(y, inputs), x)  # [N, C, P]
    p = risk.task.outputs(x, inputs).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    r = p - nn.functional.one_hot(labels, 10)
    g = torch.einsum("ncp,nc->np", J, r)
    N = len(labels)
    found = {
        "ggn": torch.einsum("ncp,ncd,ndq->pq", J, middle, J) / N,
        "fisher": g.T @ g / N,
        "mean": g.mean(0),
        "squared": g.square().sum(1),
    }
    found["sigma"] = found["fisher"] - torch.outer(found["mean"], found["mean"])
    return found


def sum_of_ranks(middle: Middle, V: torch.Tensor, ranks: int) -> torch.Tensor:
    parts = [
        mlp_risk(rank=r, ranks=ranks).at(trained()).outer_products(V, middle) for r in range(ranks)
    ]
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize("middle", BOTH)
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 5])
def test_products_are_those_of_the_dense_matrix(middle: Middle, ranks: int, m: int) -> None:
    V = torch.randn(m, len(trained()), dtype=torch.float64)
    want = V @ by_hand()[middle]
    torch.testing.assert_close(sum_of_ranks(middle, V, ranks), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keep", [True, False])
def test_kept_graphs_do_not_matter(keep: bool) -> None:
    risk = mlp_risk(chunk=32)
    risk._keep = keep
    risk.at(trained())
    V = torch.randn(4, len(trained()), dtype=torch.float64)
    for middle in (*BOTH, *BOTH):
        want = V @ by_hand()[middle]
        torch.testing.assert_close(risk.outer_products(V, middle), want, rtol=1e-10, atol=1e-12)


def test_the_point_moves_the_matrix() -> None:
    risk, v = mlp_risk().at(trained()), torch.randn(1, len(trained()), dtype=torch.float64)
    before = risk.outer_products(v, "ggn")
    risk.at(risk.task.init(3))
    assert (risk.outer_products(v, "ggn") - before).norm() > 0.1 * before.norm()
    with pytest.raises(RuntimeError, match="Risk.at"):
        mlp_risk().outer_products(v, "ggn")


@pytest.mark.parametrize("middle", BOTH)
def test_eigenvalues_and_traces_are_those_of_the_dense_matrix(middle: Middle) -> None:
    want = by_hand()[middle]
    risk, x = mlp_risk().at(trained()), trained()
    found = top_eigenvalues(lambda V: risk.outer_products(V, middle), x, 8, tolerance=1e-7)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(want)[::-1][:8], rtol=1e-6)
    trace = hutchinson(lambda V: risk.outer_products(V, middle), x, tolerance=0.02, known=found)
    assert abs(trace.value - float(want.trace())) < 4 * trace.error


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_noise_has_the_trace_of_its_covariance(ranks: int) -> None:
    want = by_hand()
    risks = [mlp_risk(rank=r, ranks=ranks).at(trained()) for r in range(ranks)]
    sums = torch.stack([risk.squared_gradients() for risk in risks]).sum(0)
    assert sums[2] == SAMPLES
    found = noise_trace(sums.numpy(), want["mean"])
    assert found.value == pytest.approx(float(want["sigma"].trace()), rel=1e-10)
    each = want["squared"].numpy()
    assert found.error == pytest.approx(each.std(ddof=1) / np.sqrt(SAMPLES), rel=1e-8)


def test_samples_one_by_one_give_the_same_as_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = mlp_risk().at(trained())
    want = risk.squared_gradients()

    def no_vmap(*_: object, **__: object) -> None:
        raise RuntimeError("vmap: not supported")

    monkeypatch.setattr("hpc_localsgd.curvature.gauss_newton.vmap", no_vmap)
    torch.testing.assert_close(risk.squared_gradients(), want, rtol=1e-12, atol=0)
    monkeypatch.setattr("hpc_localsgd.curvature.gauss_newton.HELD_NUMBERS", 1)
    torch.testing.assert_close(risk.squared_gradients(), want, rtol=1e-12, atol=0)


def test_covariance_products_take_the_mean_gradient_out() -> None:
    risk, V = mlp_risk().at(trained()), torch.randn(3, len(trained()), dtype=torch.float64)
    sigma = covariance(lambda W: risk.outer_products(W, "fisher"), risk.gradient(trained()))
    torch.testing.assert_close(sigma(V), V @ by_hand()["sigma"], rtol=1e-9, atol=1e-12)


def cosine(A: torch.Tensor, B: torch.Tensor) -> float:
    return float((A * B).sum() / (A.norm() * B.norm()))


@pytest.mark.parametrize("known", [0, 6])
def test_the_alignment_is_within_its_error_bar(known: int) -> None:
    H, sigma, x = dense(), by_hand()["sigma"], trained()
    want = cosine(H, sigma)
    assert 0.1 < want < 0.999
    pairs = top_eigenvalues(multiplier(H), x, known, tolerance=1e-9) if known else None
    found = [
        alignment(multiplier(H), multiplier(sigma), x, tolerance=0, most=60, known=pairs, seed=seed)
        for seed in range(12)
    ]
    away = np.array([(f.value - want) / f.error for f in found])
    assert np.abs(away).max() < 5
    assert 0.3 < np.sqrt((away**2).mean()) < 2.5  # the bars are neither idle nor too proud


def test_known_eigenpairs_make_the_alignment_cheaper_and_a_multiple_is_aligned() -> None:
    H, sigma, x = dense(), by_hand()["sigma"], trained()
    pairs = top_eigenvalues(multiplier(H), x, 10, tolerance=1e-9)
    plain = alignment(multiplier(H), multiplier(sigma), x, tolerance=0, most=40)
    better = alignment(multiplier(H), multiplier(sigma), x, tolerance=0, most=40, known=pairs)
    assert better.error < 0.5 * plain.error
    same = alignment(multiplier(H), multiplier(3 * H), x, known=pairs)
    assert same.value == pytest.approx(1, abs=1e-12)
    assert same.probes == 10


def test_at_a_perfect_fit_gauss_newton_is_the_hessian() -> None:
    """The Hessian is G + sum_i r_i . d2f_i: with linear outputs the second part is gone."""
    task = build_for_curvature(digits(hidden=3), batch=16, dtype=torch.float64)
    risk = Risk(task, in_chunks(pieces(task, 64), 64)).at(task.init(0))
    V = torch.zeros(4, task.dim, dtype=torch.float64)
    at = task.layout.names.index("3.weight")  # the last layer: outputs are linear in it
    begin = sum(task.sizes[:at])
    V[:, begin : begin + task.sizes[at]] = torch.randn(4, task.sizes[at], dtype=torch.float64)
    same = slice(begin, begin + task.sizes[at])
    G, H = risk.outer_products(V, "ggn")[:, same], risk.products(V)[:, same]
    torch.testing.assert_close(G, H, rtol=1e-9, atol=1e-12)


def test_a_task_without_outputs_says_what_to_leave_out() -> None:
    risk = risk_of(lambda x: (x**2).sum(), 2)
    from hpc_localsgd.tasks.base import Task

    risk.task.outputs = Task.outputs.__get__(risk.task)  # type: ignore[method-assign]
    risk.at(torch.ones(2, dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="leave --ggn, --fisher and --noise out"):
        risk.outer_products(torch.ones(1, 2, dtype=torch.float64), "ggn")


def test_the_gram_matrix_has_the_eigenvalues_of_xi() -> None:
    apart = deviations(torch.randn(5, 30, dtype=torch.float64))
    xi = apart.T @ apart / 5
    want = np.linalg.eigvalsh(xi.numpy())[::-1][:5]
    np.testing.assert_allclose(gram_eigenvalues(apart) / 5, want, atol=1e-12)
    assert gram_eigenvalues(apart)[-1] < 1e-12  # they sum to nothing: rank K - 1
    A = dense()[:30, :30]
    curved = along(multiplier(A), apart, vectors=2)
    np.testing.assert_allclose(curved, ((apart @ A) * apart).sum(1), rtol=1e-12)
    assert half_trace(multiplier(A), apart) == pytest.approx(float((A * xi).sum()) / 2)


# --- an independent implementation ---------------------------------------------------------------

NETS = {
    "mlp": (digits(hidden=3), lambda: mlp(3)),
    "none": (digits(model="conv", norm="none", hidden=2), lambda: conv("none", 2)),
    "group": (digits(model="conv", norm="group", hidden=2), lambda: conv("group", 2)),
}
COMPARED = [(net, matrix) for matrix in ("hessian", *BOTH) for net in NETS]
# torch has no forward mode of GroupNorm's backward pass, which curvlinops uses.
COMPARED.remove(("group", "hessian"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("net", "matrix"), COMPARED)
def test_curvlinops_has_the_same_matrices(net: str, matrix: str) -> None:
    why = "pip install curvlinops-for-pytorch (an extra of development) for this comparison"
    curvlinops = pytest.importorskip("curvlinops", reason=why)
    spec, make = NETS[net]
    task = build_for_curvature(spec, batch=16, dtype=torch.float64)
    x = task.init(0)
    parts = in_chunks(pieces(task, 100), 50)
    module = make().double().eval()
    named = dict(module.named_parameters())
    for name, view in task.layout.views(x).items():
        named[name].data = view
    kinds = {"hessian": "Hessian", "ggn": "GGN", "fisher": "EF"}
    kind = getattr(curvlinops, f"{kinds[matrix]}LinearOperator")
    parameters = [named[name] for name in task.layout.names]
    theirs = kind(module, nn.CrossEntropyLoss(), parameters, parts, check_deterministic=False)
    V = torch.randn(3, task.dim, dtype=torch.float64)
    risk = Risk(task, parts).at(x)
    ours = risk.products(V) if matrix == "hessian" else risk.outer_products(V, matrix)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, (theirs @ V.T).T, rtol=1e-9, atol=1e-11)


def test_several_labels_a_sample_and_smoothed_ones() -> None:
    """A text has a label a token; tr F = mean |g_i|^2 is a check of both factors."""
    from functools import partial

    from hpc_localsgd.tasks.text import text

    spec = text(model="transformer", length=6, width=4, layers=1, heads=1)
    task = build_for_curvature(spec, batch=4, dtype=torch.float64)
    assert hasattr(task, "_criterion")
    task._criterion = partial(nn.functional.cross_entropy, label_smoothing=0.2)
    risk = Risk(task, in_chunks(pieces(task, 8), 4)).at(task.init(0))
    g = []
    for inputs, labels in risk.chunks:
        for one, label in zip(inputs, labels, strict=True):
            g.append(Risk(task, [(one[None], label[None])]).gradient(task.init(0)))
    each = torch.stack(g)
    V = torch.randn(2, task.dim, dtype=torch.float64)
    F = risk.outer_products(V, "fisher")
    torch.testing.assert_close(F, V @ each.T @ each / len(each), rtol=1e-9, atol=1e-12)
    squared, _, N = risk.squared_gradients().tolist()
    assert squared / N == pytest.approx(float(each.square().sum()) / len(each), rel=1e-9)
    x = task.init(0)
    G, moved = torch.zeros_like(V), 1e-7

    def outputs(inputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return task.outputs(y, inputs)

    for v, row in zip(V, G, strict=True):  # J^T (dp/df) J v, dp/df by a difference
        for inputs, labels in risk.chunks:
            at, rate = torch.autograd.functional.jvp(partial(outputs, inputs), x, v)
            ps = [(at + s * moved * rate).softmax(1) for s in (1, -1)]
            change = (ps[0] - ps[1]) / (2 * moved) / labels[0].numel()
            y = x.clone().requires_grad_()
            row += torch.autograd.grad((task.outputs(y, inputs) * change).sum(), y)[0] / 8
    torch.testing.assert_close(risk.outer_products(V, "ggn"), G, rtol=1e-5, atol=1e-6)
