"""CHOCO: what is compressed gossip's own memory good for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.compressors import Compressor, Int4, Sign, TopK
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import exponential, one_peer_exponential, ring
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.simulated import Simulated

K, P = 8, 40
NOW = Now(t=0, s=0, H=1, h=0, lr=0.1, lr_round=0.1)
TEN_PERCENT = TopK(fraction=0.1)


def models(seed: int = 0) -> torch.Tensor:
    return torch.randn(K, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(codec: Compressor | None, gamma: float, times: int) -> torch.Tensor:
    """Eight models after so many exchanges without a step in between."""
    made, world = Choco(ring(), gamma, codec), Simulated(K)
    x = models()
    state = made.init(torch.zeros_like(x), world, ModelSize((P,), 8))
    for _ in range(times):
        x, state = made.on_sync(x, state, world, NOW)
    return x


@pytest.mark.parametrize("codec", [TEN_PERCENT, Sign(), Int4(), None], ids=repr)
def test_the_mean_stays_where_it_is(codec: Compressor | None) -> None:
    torch.testing.assert_close(mixed(codec, 0.2, 50).mean(0), models().mean(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("codec", [TEN_PERCENT, Int4()], ids=repr)
def test_workers_agree_however_little_is_sent(codec: Compressor) -> None:
    """Linear convergence to the mean (theorem 2): a tenth of the numbers a message."""
    x = mixed(codec, 0.2, 700)
    assert (x - models().mean(0)).abs().max() < 1e-8


def naive(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Gossip of coded models, without a memory: x_k + sum_j W_kj (C(x_j) - C(x_k))."""
    said = TEN_PERCENT.decode(TEN_PERCENT.encode(x, [P]), [P], x.dtype)
    return x + W @ said - said


def descended(exchange: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """How far the workers of 1/2 |x - c_k|^2 end from the minimiser of the sum, mean c_k.

    The rate ends below 1e-3, and with it the distance that unequal data keeps between workers.
    """
    targets, x = models(1), torch.zeros(K, P, dtype=torch.float64)
    for t in range(2000):
        lr = 0.1 / (1 + t / 16)
        x = exchange(x - lr * (x - targets))
    return float((x - targets.mean(0)).norm(dim=1).max())


def test_it_arrives_on_a_quadratic_where_coded_gossip_does_not() -> None:
    W = torch.tensor(ring().matrix(K))
    made, world = Choco(ring(), 0.2, TEN_PERCENT), Simulated(K)
    state = made.init(torch.zeros(K, P, dtype=torch.float64), world, ModelSize((P,), 8))
    assert descended(lambda x: made.on_sync(x, state, world, NOW)[0]) < 0.1
    assert descended(lambda x: naive(x, W)) > 1.0


@pytest.mark.parametrize("graph", [one_peer_exponential(), exponential()], ids=str)
def test_a_graph_that_turns_or_is_directed_is_refused(graph: object) -> None:
    with pytest.raises(ConfigurationError, match="a symmetric graph that does not change"):
        Choco(graph).init(models(), Simulated(K), ModelSize((P,), 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.1])
def test_the_step_towards_neighbours_is_a_share(gamma: float) -> None:
    with pytest.raises(ConfigurationError, match="gamma must be above 0 and at most 1"):
        Choco(gamma=gamma)
