"""What is measured around an exchange, against dense matrices, and that none of it disturbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Memory, go, quadratic, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.probes import Deviations, Gradients, Spread
from hpc_localsgd.run.probes.deviations import gram
from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.manifold import manifold
from hpc_localsgd.tasks.quadratic import quadratic as noisy_quadratic

LR = 0.3


def watched(run: Run, *also: Any, spread: int = 0) -> tuple[Position, Memory]:
    """Train with probes of the exchange."""
    memory = Memory()
    p = run.beginning()
    record = Recorder(run, (), Spread(spread, also), memory)  # type: ignore[arg-type]
    record.start(p)
    return train(run, p, record), memory


def measured(probe: Any, apart: float = 0.02, K: int = 4) -> tuple[dict[str, Any], ExchangeView]:
    """One measurement of K workers near a point, and what it was made from."""
    run = small_run(spec=digits(hidden=3), K=K, H=4, steps=20)
    stream = torch.Generator().manual_seed(3)
    d = torch.randn(K, run.task.dim, generator=stream, dtype=torch.float64)
    before = run.task.init(0) + apart * (d - d.mean(0))
    exchange = ExchangeView(run, 8, LR, before, None)
    return {m.name: m.value for m in probe.measure(exchange)}, exchange


def whole_subset(exchange: ExchangeView, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [b for k in range(exchange.run.world.K) for b in exchange.share(k, samples)]
    return torch.cat([i for i, _ in parts]), torch.cat([t for _, t in parts])


def test_the_subset_is_fixed_and_has_no_sample_twice() -> None:
    _, exchange = measured(Deviations(1, 64))
    inputs, targets = whole_subset(exchange, 64)
    assert len(targets) == 64
    assert len(inputs.flatten(1).unique(dim=0)) == 64
    assert len(whole_subset(exchange, 1)[1]) == 4 * 8  # at least a batch a worker


def test_deviations_are_those_of_the_dense_matrices() -> None:
    found, exchange = measured(Deviations(1, 64), apart=1e-4)  # between the kinks of the ReLUs
    run, w = exchange.run, exchange.before.mean(0)
    d = exchange.before - w
    xi = (d.T @ d / 4).numpy()
    np.testing.assert_allclose(
        found["xi/eigenvalues"], np.linalg.eigvalsh(xi)[::-1][:4], atol=1e-18
    )
    assert found["xi/eigenvalues"][-1] == 0  # deviations sum to nothing
    assert found["xi/trace"] == pytest.approx(np.trace(xi), rel=1e-12)
    batch = whole_subset(exchange, 64)
    at = [float(run.task.loss(x, batch)) for x in (w, *exchange.before, *(w - d))]
    assert found["xi/mean_loss"] == pytest.approx(at[0], rel=1e-12)
    np.testing.assert_allclose(found["xi/worker_loss"], at[1:5], rtol=1e-12)
    assert found["xi/gap"] == pytest.approx(np.mean(at[1:5]) - at[0], rel=1e-9)
    H = torch.autograd.functional.hessian(lambda x: run.task.loss(x, batch), w)
    along = torch.einsum("kp,pq,kq->k", d, H, d)
    np.testing.assert_allclose(
        found["xi/curvature"], along / d.square().sum(1), rtol=0.02, atol=1e-4
    )
    half = float(along.sum()) / 8
    assert found["xi/half_trace"] == pytest.approx(half, rel=0.02)
    assert found["xi/gap"] == pytest.approx(half, rel=0.2)  # its own error is of third order


def test_the_second_differences_are_exact_on_a_quadratic() -> None:
    """The identity of average-direction sharpness, both sides without a product (O13)."""
    run = small_run(spec=quadratic(h=(2.5,), dim=3), K=4, H=4, steps=8)
    run.task.loss = lambda x, batch, buffers=None: 1.25 * x.square().sum()  # type: ignore[method-assign]
    d = torch.randn(4, 3, dtype=torch.float64)
    exchange = ExchangeView(run, 4, LR, 0.7 + d - d.mean(0), None)
    found = {m.name: m.value for m in Deviations(1, 4).measure(exchange)}
    assert found["xi/gap"] == pytest.approx(1.25 * found["xi/trace"], rel=1e-12)
    assert found["xi/half_trace"] == pytest.approx(found["xi/gap"], rel=1e-12)
    np.testing.assert_allclose(found["xi/curvature"], 2.5, rtol=1e-10)


def test_equal_workers_have_no_deviation() -> None:
    found, _ = measured(Deviations(1, 32), apart=0.0)
    assert found["xi/trace"] == 0 and found["xi/gap"] == 0
    assert np.isnan(found["xi/curvature"]).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_of_the_inner_products_do_not_matter(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_localsgd.run.probes.deviations.BLOCK", block)
    run, d = small_run(K=4), torch.randn(4, 30, dtype=torch.float64)
    np.testing.assert_allclose(gram(d, run.world), d @ d.T, rtol=1e-12, atol=1e-12)


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


def test_each_has_its_own_cadence_and_none_of_it_needs_the_spread() -> None:
    run = small_run(spec=digits(hidden=3), H=3, steps=20)
    _, memory = watched(run, Deviations(6, 8), Gradients(10, 8), spread=0)
    assert memory.steps("xi/trace") == [6, 12, 18, 20]
    assert memory.steps("gradient/effective_lr") == [12, 20]
    assert "spread" not in memory.values
    _, memory = watched(small_run(spec=digits(hidden=3), H=3, steps=6), spread=3)
    assert set(memory.values) == {"spread", "train/loss"}


def test_parallel_rounds_have_gradients_but_no_deviations() -> None:
    run = small_run(spec=digits(hidden=3), H=1, steps=6, algorithm=AllReduce())
    _, memory = watched(run, Deviations(2, 8), Gradients(2, 8))
    assert memory.steps("gradient/effective_lr") == [2, 4, 6]
    assert "xi/trace" not in memory.values


@pytest.mark.parametrize("algorithm", [LocalSGD(), DiLoCo(), Gossip()])
def test_the_trace_is_the_spread(algorithm: Any) -> None:
    """Also where the exchange does not end at the mean."""
    run = small_run(spec=digits(hidden=3), H=4, steps=8, algorithm=algorithm)
    _, memory = watched(run, Deviations(4, 8), spread=4)
    for (_, trace), (_, spread) in zip(
        memory.values["xi/trace"], memory.values["spread"], strict=True
    ):
        assert trace == pytest.approx(float(spread), rel=1e-10)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_measuring_changes_neither_the_run_nor_its_bill(norm: Any) -> None:
    spec = digits("conv", norm, hidden=8)
    quiet, silent = go(small_run(spec=spec, H=3, steps=7))
    seen, memory = watched(
        small_run(spec=spec, H=3, steps=7), Deviations(1, 16), Gradients(1, 16), spread=1
    )
    assert torch.equal(quiet.x, seen.x)
    assert memory.steps("xi/gap") == [3, 6]  # the last round is a single step
    assert memory.steps("gradient/norm") == [3, 6, 7]
    for a, b in zip(silent.rounds, memory.rounds, strict=True):
        assert list(a["payload_bytes"]) == list(b["payload_bytes"])
        assert list(a["transfer_s"]) == list(b["transfer_s"])


def test_they_are_options_of_a_run(tmp_path: Path) -> None:
    from hpc_localsgd.train import main
    from hpc_localsgd.trajectory import Trajectory

    out = tmp_path / "run"
    options = ["--task.hidden=4", "--workers=3", "--schedule=every", "--schedule.steps=4"]
    probes = ["--deviations-every=8", "--gradients-every=50%", "--probe-samples=48"]
    assert main([*options, *probes, "--steps=16", "--figures=false", f"--out={out}"]) == 0
    found = Trajectory(out)
    assert found.series("xi/eigenvalues").value.shape == (2, 3)
    assert found.series("gradient/noise_scale").units == "samples"
    assert found.series("gradient/effective_lr").step.tolist() == [8, 16]


def test_no_samples_are_refused() -> None:
    from hpc_localsgd.commands.assembly.cadences import probes
    from hpc_localsgd.commands.configuration.config import Config
    from hpc_localsgd.schedules.duration import Units

    with pytest.raises(ConfigurationError, match="--probe-samples 0"):
        probes(Config(probe_samples=0), Units(10, 64, 100))
