"""Deviations of workers at an exchange, against dense matrices, and that no probe disturbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from at_an_exchange import LR, measured, whole_subset
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


def watched(run: Run, *also: Any, spread: int = 0) -> tuple[Position, Memory]:
    """Train with probes of the exchange."""
    memory = Memory()
    p = run.beginning()
    record = Recorder(run, (), Spread(spread, also), memory)  # type: ignore[arg-type]
    record.start(p)
    return train(run, p, record), memory


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
