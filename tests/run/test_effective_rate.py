"""The effective learning rate and the noise at an exchange, against gradients by autograd alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from at_an_exchange import LR, measured, whole_subset
from small_runs import go, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.run.probes import Gradients
from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.manifold import manifold
from hpc_localsgd.tasks.quadratic import quadratic as noisy_quadratic


def by_hand(exchange: ExchangeView, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """g_a, g, and the gradients at the mean of every worker's part, by autograd alone."""
    run, w = exchange.run, exchange.before.mean(0)

    def g(x: torch.Tensor, batch: Any) -> torch.Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(run.task.loss(x, batch), x)[0]

    batches = [run.task.batch([k], exchange.t) for k in range(4)]
    own = [g(x, (i[0], t[0])) for x, (i, t) in zip(exchange.before, batches, strict=True)]
    parts = []
    for k in range(4):
        mine = exchange.share(k, samples)
        parts.append(g(w, (torch.cat([i for i, _ in mine]), torch.cat([t for _, t in mine]))))
    whole = g(w, whole_subset(exchange, samples))
    return torch.stack(own).mean(0).numpy(), whole.numpy(), torch.stack(parts).numpy()


def halves_by_hand(exchange: ExchangeView, samples: int) -> tuple[float, float]:
    """tr Sigma and |grad L|^2 from every other batch of each worker's part."""
    w, g = exchange.mean, []
    for k in range(4):
        mine = exchange.share(k, samples)
        for i in range(2):
            inputs = torch.cat([x for x, _ in mine[i::2]])
            targets = torch.cat([y for _, y in mine[i::2]])
            at = w.clone().requires_grad_()
            loss = exchange.run.task.loss(at, (inputs, targets), exchange.buffers)
            g.append(torch.autograd.grad(loss, at)[0].numpy())
    apart = np.array([g[2 * k] - g[2 * k + 1] for k in range(4)])
    noise = samples / 8 / 2 * np.square(apart).sum(1).mean()
    known = 1 / samples - 1 / exchange.run.task.partition.samples
    return noise, np.square(np.mean(g, axis=0)).sum() - noise * known


def test_the_effective_learning_rate_is_zhang_s() -> None:
    found, exchange = measured(Gradients(1, 64), apart=0.3)
    own, g, _ = by_hand(exchange, 64)
    _, signal = halves_by_hand(exchange, 64)
    assert found["gradient/effective_lr"] == pytest.approx(LR * own @ g / signal, rel=1e-10)
    along = LR * own @ g / (g @ g)
    assert along < 0.9 * LR
    across = LR * own - along * g
    assert abs(across @ g) < 1e-12
    assert found["gradient/orthogonal"] == pytest.approx(across @ across, rel=1e-9)
    assert found["gradient/norm"] == pytest.approx(np.sqrt(g @ g), rel=1e-10)


def test_the_noise_is_split_as_zhang_s() -> None:
    """Delta_S at the mean model on the same batches, Delta_2 of what the spread adds to them."""
    found, exchange = measured(Gradients(1, 64), apart=0.3)
    own, g, _ = by_hand(exchange, 64)
    centred = ExchangeView(exchange.run, 8, LR, exchange.mean.repeat(4, 1), None)
    sampled, _, _ = by_hand(centred, 64)
    across = np.eye(len(g)) - np.outer(g, g) / (g @ g)
    of_samples, of_spread = LR * across @ sampled, LR * across @ (own - sampled)
    name = "gradient/orthogonal"
    assert found[f"{name}_of_samples"] == pytest.approx(of_samples @ of_samples, rel=1e-9)
    assert found[f"{name}_of_spread"] == pytest.approx(of_spread @ of_spread, rel=1e-9)
    both = found[f"{name}_of_samples"] + found[f"{name}_of_spread"]
    assert found[name] == pytest.approx(both + 2 * of_samples @ of_spread, rel=1e-9)


@pytest.mark.parametrize("apart", [0.0, 0.05, 0.5])
def test_what_the_spread_adds_is_its_hessians_times_it(apart: float) -> None:
    """On quadratics exactly Delta_2 = lr^2 |1/K sum_k H_k (w_k - w)|^2 across g."""
    scales = np.array([1.0, 3.0, 0.5, 2.0])
    spec = noisy_quadratic(h=(1.0, 0.2, 0.1), dim=3, noise=0.3, scales=tuple(scales))
    run = small_run(spec=spec, K=4, H=4, steps=20)
    d = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d = apart * (d - d.mean(0))
    exchange = ExchangeView(run, 8, LR, run.task.init(0) + d, None)
    found = {m.name: m.value for m in Gradients(1, 64, fresh=True).measure(exchange)}
    h = scales[:, None] * np.array(spec.h)
    added = LR * (h * d.numpy()).mean(0)
    noisy = [exchange.share(k, 64, undisturbed=False) for k in range(4)]
    noise = np.mean([batch[0].mean(0).numpy() for part in noisy for batch in part], axis=0)
    g = scales.mean() * np.array(spec.h) * exchange.mean.numpy() + noise
    added -= (added @ g) / (g @ g) * g
    assert found["gradient/orthogonal_of_spread"] == pytest.approx(
        added @ added, rel=1e-9, abs=1e-28
    )
    assert found["gradient/orthogonal_of_samples"] > 1e-4


def test_without_spread_the_effective_learning_rate_is_the_learning_rate() -> None:
    """Also where the gradient of the subset is mostly noise: its length is not that of grad L."""
    run = small_run(spec=digits(hidden=3), H=1, steps=20, algorithm=AllReduce())
    w = go(run)[0].x[0]
    along, signal, size = [], [], []
    for seed in range(100):
        drawn = small_run(spec=digits(hidden=3), K=4, batch=8, seed=seed)
        exchange = ExchangeView(drawn, 30, LR, w.repeat(4, 1), None)  # batches not of the subset
        found = {m.name: m.value for m in Gradients(1, 64).measure(exchange)}
        own, g, _ = by_hand(exchange, 64)
        along.append(float(own @ g))
        signal.append(found["gradient/signal"])
        size.append(found["gradient/norm"] ** 2)
    assert np.mean(signal) < 0.6 * np.mean(size)
    error = np.std(np.subtract(along, signal)) / np.sqrt(len(along))
    assert abs(np.mean(along) - np.mean(signal)) < 4 * error < 0.5 * np.mean(signal)


def test_all_samples_leave_no_noise_and_fresh_ones_always_some() -> None:
    run = small_run(spec=digits(hidden=3), K=2, batch=300)
    exchange = ExchangeView(run, 0, LR, run.task.init(0).repeat(2, 1), None)
    found = [
        {m.name: m.value for m in Gradients(1, 1200, fresh).measure(exchange)}
        for fresh in (False, True)
    ]
    N, n = run.task.partition.samples, 1200
    for f, missing in zip(found, (1 / n - 1 / N, 1 / n), strict=True):
        left = f["gradient/norm"] ** 2 - f["gradient/noise_trace"] * missing
        assert f["gradient/signal"] == pytest.approx(left, rel=1e-9)
    assert digits(label_noise=0.1).fresh and manifold().fresh and not digits().fresh


def test_the_noise_scale_is_that_of_two_batch_sizes() -> None:
    found, exchange = measured(Gradients(1, 128))
    noise, signal = halves_by_hand(exchange, 128)
    assert found["gradient/noise_trace"] == pytest.approx(noise, rel=1e-9)
    assert found["gradient/signal"] == pytest.approx(signal, rel=1e-9)
    assert found["gradient/noise_scale"] == pytest.approx(noise / signal, rel=1e-9)


def test_the_noise_is_that_of_single_samples() -> None:
    """Unbiased: over many draws of the subset its mean is the trace of the covariance."""
    task = small_run(spec=digits(hidden=3)).task
    w = task.init(0)
    everything = task.samples._data["train"]  # type: ignore[attr-defined]
    from hpc_localsgd.curvature import Risk

    risk = Risk(task, [everything]).at(w)
    squared, _, N = risk.squared_gradients().tolist()
    want = squared / N - float(risk.gradient(w).square().sum())
    draws = []
    for seed in range(40):
        run = small_run(spec=digits(hidden=3), K=4, batch=8, seed=seed)
        exchange = ExchangeView(run, 0, LR, w.repeat(4, 1), None)
        draws.append({m.name: m.value for m in Gradients(1, 64).measure(exchange)})
    found = np.array([d["gradient/noise_trace"] for d in draws])
    assert abs(found.mean() - want) < 4 * found.std() / np.sqrt(len(found))


def test_one_worker_compares_its_halves() -> None:
    found, _ = measured(Gradients(1, 16), K=1)
    assert found["gradient/noise_trace"] > 0
