"""Which side of an exchange is measured: closed forms on a ring, and what the papers say of it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from small_runs import Memory, go, small_run

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.cocod import CoCoD
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.loop import Run, train
from hpc_localsgd.run.probes import Deviations, Gradients, Spread
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.quadratic import quadratic
from hpc_localsgd.topology import complete, ring

Order = Literal["atc", "awc"]
K, ETA, DIM = 8, 0.2, 40_000


def watched(run: Run, *also: Any, spread: int = 1) -> Memory:
    """What probes of the exchange record of a run."""
    memory = Memory()
    record = Recorder(run, (), Spread(spread, also), memory)  # type: ignore[arg-type]
    train(run, run.beginning(), record)
    return memory


def closed_forms(order: Order) -> tuple[float, float]:
    """Stationary spread in a coordinate after and before the mix; h = 1, noise of variance 1.

    The mixing matrix of the ring has the eigenvalues l_j = (1 + 2 cos(2 pi j / K)) / 3. In mode j
    the noise of a step has variance 1, and the spread is the sum of modes 1..K-1 over K.
    """
    mode = (1 + 2 * np.cos(2 * np.pi * np.arange(1, K) / K)) / 3
    kept = 1 - ETA
    if order == "atc":  # x <- l (x - eta (x + noise))
        after = mode**2 * ETA**2 / (1 - (mode * kept) ** 2)
    else:  # x <- l x - eta (x + noise)
        after = ETA**2 / (1 - (mode - ETA) ** 2)
    before = kept**2 * after + ETA**2
    return after.sum() / K, before.sum() / K


@pytest.mark.parametrize("order", ["atc", "awc"])
def test_the_spread_on_a_ring_is_its_closed_form_on_both_sides_of_the_mix(order: Order) -> None:
    spec = quadratic(h=(1.0,), dim=DIM, noise=1.0, spread_out=0.0)
    algorithm = Gossip(ring(), order=order)
    run = small_run(spec=spec, K=K, steps=60, lr=ETA, batch=1, algorithm=algorithm)
    values = watched(run, spread=4).values
    after, before = closed_forms(order)
    for name, expected in (("spread", after), ("before_exchange/spread", before)):
        settled = [float(value) / DIM for step, value in values[name] if step >= 36]
        assert np.mean(settled) == pytest.approx(expected, rel=0.01), name
    assert before > 1.2 * after or order == "awc"


def on_digits(
    algorithm: Algorithm, *also: Any, lr: float = 0.1, H: int = 1, batch: int = 8
) -> dict[str, list[tuple[int, Any]]]:
    run = small_run(
        spec=digits(hidden=8), K=K, H=H, steps=40, lr=lr, batch=batch, algorithm=algorithm
    )
    return watched(run, *also).values


@pytest.mark.parametrize("order", ["atc", "awc"])
def test_sparse_graphs_average_the_loss_over_more(order: Order) -> None:
    """Zhu et al.: the gap of a ring is above that of the complete graph."""
    gaps = {}
    for graph in (ring(), complete()):
        found = on_digits(Gossip(graph, order), Deviations(4, 64))
        gaps[graph] = np.mean([float(value) for _, value in found["xi/gap"]])
        for (_, trace), (_, spread) in zip(found["xi/trace"], found["spread"][3::4], strict=True):
            assert trace == pytest.approx(float(spread), rel=1e-9, abs=0)
    assert gaps[ring()] > 1.05 * gaps[complete()] >= 0
    assert order == "awc" or gaps[complete()] == 0  # equal but for rounding


def test_the_effective_learning_rate_is_positive_and_below_the_rate() -> None:
    found = on_digits(Gossip(), Gradients(4, 512), lr=1.0, batch=32)["gradient/effective_lr"]
    effective = np.array([float(value) for _, value in found])
    assert (effective > 0).all()
    assert 0 < np.median(effective) < 1.0


@pytest.mark.parametrize("order", ["atc", "awc"])
def test_effective_gradients_are_taken_where_the_next_step_takes_them(order: Order) -> None:
    """Adapt-while-communicate too: at the parameters the round before ended with, not the mixed."""
    taken: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    run = small_run(K=4, steps=6, lr=0.3, algorithm=Gossip(order=order))
    step = run.task.loss_and_grad

    def watching(x: torch.Tensor, batch: Any) -> Any:
        taken.append(x.clone())
        return step(x, batch)

    class Looking(Deviations):
        def measure(self, exchange):  # type: ignore[no-untyped-def]
            seen.append(exchange.rows.clone())
            assert exchange.lr == 0.3
            return iter(())

    run.task.loss_and_grad = watching  # type: ignore[method-assign]
    watched(run, Looking(1))
    assert len(seen) == 6 and all(map(torch.equal, taken[1:], seen))


def test_a_name_is_of_one_moment_whatever_the_algorithm() -> None:
    """Equal workers after it: before. Different ones: after, and before by a name of its own."""
    local = on_digits(LocalSGD(), H=4)
    assert "before_exchange/spread" not in local and float(local["spread"][0][1]) > 0
    blocks = on_digits(Hierarchical(blocks=(2,), rounds=(2,)), H=4)
    inner = [step for step, _ in blocks["before_exchange/spread"]]
    assert inner == [4, 12, 20, 28, 36]  # the others make all workers equal
    assert [step for step, _ in blocks["spread"]] == list(range(4, 44, 4))
    assert all(float(value) > 0 for _, value in blocks["spread"])
    one_level = on_digits(Hierarchical(blocks=(2,), rounds=(1,)), H=4)
    for (_, one), (_, other) in zip(one_level["spread"], local["spread"], strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-9)
    for algorithm in (CoCoD(), StreamingDiLoCo()):
        late = on_digits(algorithm, H=4)
        assert late["spread"][-1][0] == 40 and "before_exchange/spread" in late
        assert [step for step, _ in late["before_exchange/spread"]] == list(range(4, 40, 4))
        assert float(late["spread"][-1][1]) > 0  # the last exchange makes all equal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_workers_that_agree_to_rounding_have_no_landscape(dtype: torch.dtype) -> None:
    run = small_run(K=3, H=1, steps=9, lr=0.3, dtype=dtype, algorithm=Gossip(complete()))
    x = run.task.x
    ulp = torch.finfo(dtype).eps
    on_sync = type(run.algorithm).on_sync

    class Rounded(Gossip):
        def on_sync(self, x, state, world, now):  # type: ignore[no-untyped-def]
            x, state = on_sync(self, x, state, world, now)
            x.mul_(1 + ulp * torch.tensor([[0.0], [1.0], [-1.0]], dtype=dtype))
            return x, state

    object.__setattr__(run, "algorithm", Rounded(complete()))
    found = watched(run, Deviations(3, 24)).values
    assert not torch.equal(x[0], x[1])
    for name in ("spread", "xi/trace", "xi/gap", "xi/half_trace"):
        assert [float(value) for _, value in found[name]][:3] == [0, 0, 0], name
    assert all(np.isnan(value).all() for _, value in found["xi/curvature"])
    assert all((value == 0).all() for _, value in found["xi/eigenvalues"])


def test_differences_below_the_rounding_of_a_loss_are_left_blank() -> None:
    """Workers that differ, by less than a loss in float32 can tell."""
    run = small_run(K=2, H=2, steps=2, lr=1e-5, dtype=torch.float32)
    found = watched(run, Deviations(1, 24)).values
    assert float(found["xi/trace"][0][1]) > 0
    assert np.isnan(found["xi/curvature"][0][1]).all() and np.isnan(found["xi/half_trace"][0][1])


def test_measuring_after_an_exchange_changes_nothing() -> None:
    for order in ("atc", "awc"):
        algorithm = Gossip(order=order)  # type: ignore[arg-type]
        quiet, _ = go(small_run(K=4, steps=5, algorithm=algorithm))
        run = small_run(K=4, steps=5, algorithm=algorithm)
        watched(run, Deviations(1, 16), Gradients(1, 16))
        assert torch.equal(quiet.x, run.task.x)
