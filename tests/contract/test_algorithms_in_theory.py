"""Single algorithms against what their papers and theory say of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, small_run
from variants import VARIANTS, name

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated

MIXING = [a for a in VARIANTS if isinstance(a, Gossip | D2 | Hierarchical | PushSum)]
# A codec rounds what the average is made of.
EXACT = [a for a in MIXING if getattr(a, "compressor", None) is None]


@pytest.mark.parametrize("algorithm", EXACT, ids=name)
def test_mixing_leaves_the_mean_where_it_is(algorithm: Any) -> None:
    world = Simulated(4)
    x = torch.randn(4, 5, dtype=torch.float64)
    state = algorithm.init(x.clone().zero_(), world, ModelSize((5,), 8))
    mean = x.mean(0)
    for s in range(6):
        now = Now(t=s, s=s, H=1, h=0, lr=0.1, lr_round=0.1)
        x, state = algorithm.on_sync(x, state, world, now)
        kept = algorithm.readout(x, state, world)
        torch.testing.assert_close(kept, mean, rtol=0, atol=1e-14)
        if not isinstance(algorithm, PushSum):
            torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("algorithm", "bias"),
    [(Gossip(), 1e-2), (D2(), None), (GradientTracking(), None)],
    ids=["gossip", "d2", "gradient_tracking"],
)
def test_unequal_data_bias_only_plain_gossip(algorithm: Algorithm, bias: float | None) -> None:
    """O12: eight workers with different minima; D2 and gradient tracking reach the common one."""
    from small_runs import quadratic

    spec = quadratic(h=(1.0, 2.0, 0.5, 1.5, 3.0, 0.7, 1.2, 2.5), c=tuple(range(8)), dim=1)
    p, _ = go(small_run(spec=spec, K=8, H=1, steps=400, lr=0.1, algorithm=algorithm))
    h, c = (torch.tensor(v, dtype=torch.float64) for v in (spec.h, spec.c))
    optimum = float((h * c).sum() / h.sum())
    error = (p.x[:, 0] - optimum).abs().max()
    assert error > bias if bias else error < 1e-10


def test_diloco_takes_the_steps_of_its_outer_optimiser() -> None:
    """O10: outer Nesterov .7/.9 on a constant difference of 1."""
    world, anchor, steps = Simulated(2), torch.zeros(2, 1, dtype=torch.float64), []
    algorithm = DiLoCo()
    state = algorithm.init(anchor, world, ModelSize((1,), 8))
    x = anchor.clone()
    for s in range(60):
        before = x.clone()
        x = x - 1.0  # what the local steps did: anchor - mean = 1
        x, state = algorithm.on_sync(x, state, world, Now(s, s, 1, 0, 0.1, 0.1))
        steps.append(float(before[0, 0] - x[0, 0]))
    np.testing.assert_allclose(steps[:5], [1.33, 1.897, 2.4073, 2.86657, 3.279913], rtol=1e-12)
    assert abs(steps[-1] - 7.0) < 0.02


def test_hierarchical_makes_the_exchanges_of_lin_et_al() -> None:
    """O8: T = 1000, H = 4, H^b = 5 gives 200 exchanges within nodes and 50 across."""
    algorithm = Hierarchical(blocks=(2,), rounds=(5,))
    rounds = [
        Now(t=4 * s + 3, s=s, H=4, h=3, lr=0.1, lr_round=0.1, last=s == 249) for s in range(250)
    ]
    levels = [algorithm.level(now) for now in rounds]
    assert (levels.count(0), levels.count(1)) == (200, 50)


@pytest.mark.parametrize("make", [lambda: Gossip(order="awc"), Gossip], ids=["awc", "atc"])
def test_gossip_has_the_consensus_distance_of_theory(make: Callable[[], Gossip]) -> None:
    """O11: f = h w^2 / 2 with unit noise on a ring; the sum over the modes of the ring."""
    from small_runs import quadratic

    n, h, lr, steps, dim = 8, 1.0, 0.1, 400, 400
    algorithm = make()
    spec = quadratic(h=(h,), c=(0.0,), noise=1.0, start=0.0, dim=dim)
    p, _ = go(small_run(spec=spec, K=n, H=1, steps=steps, lr=lr, algorithm=algorithm))
    spread = float((p.x - p.x.mean(0)).square().sum(1).mean()) / dim
    modes = (1 + 2 * np.cos(2 * np.pi * np.arange(1, n) / n)) / 3
    if algorithm.order == "awc":
        variance = lr**2 / (1 - (modes - lr * h) ** 2)
    else:
        variance = modes**2 * lr**2 / (1 - modes**2 * (1 - lr * h) ** 2)
    assert spread == pytest.approx(variance.sum() / n, rel=0.1)


def test_awc_is_unstable_where_atc_is_not() -> None:
    """O11: on an even ring AWC needs lr h < 2/3, ATC lr h < 2."""
    from small_runs import quadratic

    spec = quadratic(h=(1.0,), c=tuple(range(4)), dim=1)
    options: dict[str, Any] = {"spec": spec, "K": 4, "H": 1, "steps": 200, "lr": 1.0}
    awc, _ = go(small_run(algorithm=Gossip(order="awc"), **options))
    atc, _ = go(small_run(algorithm=Gossip(order="atc"), **options))
    assert awc.x.abs().max() > 1e6 and atc.x.abs().max() < 10


@pytest.mark.parametrize("blocks", [(3,), (2, 3)])
def test_blocks_that_do_not_fit_are_refused(blocks: tuple[int, ...]) -> None:
    algorithm = Hierarchical(blocks=blocks, rounds=(2,) * len(blocks))
    world: World = Simulated(4)
    with pytest.raises(ValueError, match="divide"):
        algorithm.init(torch.zeros(4, 3), world, ModelSize((3,)))
