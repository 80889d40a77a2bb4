"""Push-sum, NoLoCo: what their papers promise of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.topology import random_directed, random_pairs
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.simulated import Simulated

K, P = 8, 400


def now(s: int) -> Now:
    return Now(t=s, s=s, H=1, h=0, lr=0.1, lr_round=0.1)


def noise(seed: int) -> torch.Tensor:
    """[K, P] of variance 1."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(K, P, generator=draw, dtype=torch.float64)


def test_over_a_directed_graph_all_come_to_the_mean_of_what_they_had() -> None:
    """An average by rows of the same graph comes to a mean in which those count who are heard."""
    x, world, graph = noise(0), Simulated(K), random_directed(seed=1)
    mean, W = x.mean(0), graph.push_matrix(K)
    rows = np.linalg.matrix_power(W / W.sum(axis=1, keepdims=True), 300) @ x.numpy()
    assert np.abs(rows - mean.numpy()).max() > 0.1
    algorithm = PushSum(graph)
    state = algorithm.init(x, world, ModelSize((P,), 8))
    for s in range(300):
        x, state = algorithm.on_sync(x, state, world, now(s))
    torch.testing.assert_close(x, mean.expand(K, P), rtol=0, atol=1e-12)
    assert max(state["w"]) > 1.5 * min(state["w"]) and sum(state["w"]) == pytest.approx(K)


def test_the_model_to_evaluate_counts_a_worker_by_what_it_holds() -> None:
    """In mid-round too: what local steps did counts alike, whoever did them."""
    x, world, algorithm = noise(0), Simulated(K), PushSum(random_directed())
    state = algorithm.init(x, world, ModelSize((P,), 8))
    mean = x.mean(0)
    for s in range(3):
        x, state = algorithm.on_sync(x, state, world, now(s))
        step = noise(s + 1)
        x += step
        mean = mean + step.mean(0)
        torch.testing.assert_close(algorithm.readout(x, state, world), mean, rtol=0, atol=1e-13)
        assert (x.mean(0) - mean).abs().max() > 1e-2


def spreads(algorithm: NoLoCo, rounds: int) -> np.ndarray:
    """mean_k ||x_k - mean||^2 / P after every round of steps that are noise."""
    x, world, found = torch.zeros(K, P, dtype=torch.float64), Simulated(K), []
    state = algorithm.init(x, world, ModelSize((P,), 8))
    for s in range(rounds):
        x, state = algorithm.on_sync(x + noise(s), state, world, now(s))
        found.append(float((x - x.mean(0)).square().sum(1).mean()) / P)
    return np.array(found)


def test_pairs_without_momentum_have_the_spread_of_random_gossip() -> None:
    """v <- rho (v + 1 - 1/K) with rho = (K - 2) / (2 (K - 1)): its fixed point."""
    rho = (K - 2) / (2 * (K - 1))
    found = spreads(NoLoCo(alpha=0.0, beta=1.0, gamma=1.0), 220)[20:].mean()
    assert found == pytest.approx(rho / (1 - rho) * (1 - 1 / K), rel=0.05)


def growth(alpha: float, gamma: float) -> float:
    """Of the mean square of (phi, d) in a round: pairs differ in K / 2 of K - 1 directions."""
    meet = np.array([[1 - gamma, alpha], [-gamma, alpha]])
    pass_by = np.array([[1, alpha], [0, alpha]])
    p = K / 2 / (K - 1)
    both = p * np.kron(meet, meet) + (1 - p) * np.kron(pass_by, pass_by)
    return float(np.abs(np.linalg.eigvals(both)).max())


@pytest.mark.parametrize("gamma", [0.3, 0.6, 1.0])
def test_the_pull_to_the_peer_keeps_the_workers_together(gamma: float) -> None:
    assert growth(0.5, gamma) < 0.8
    held = spreads(NoLoCo(gamma=gamma), 400)
    assert held[200:].mean() < 1.3 * held[50:200].mean()


def test_with_no_pull_they_wander_and_with_too_much_they_fly_apart() -> None:
    loose = spreads(NoLoCo(gamma=1e-9), 400)
    assert loose[200:].mean() > 1.5 * loose[50:200].mean()
    assert growth(0.5, 2.0) > 1.2
    assert spreads(NoLoCo(gamma=2.0), 400)[-1] > 1e3


def test_pairs_follow_from_seed_and_round_and_one_of_five_stays_alone() -> None:
    sent = [NoLoCo().payload(ModelSize((3,), 4), 5, now(s)).tolist() for s in range(20)]
    assert all(sorted(each) == [0, 12, 12, 12, 12] for each in sent)
    assert len({each.index(0) for each in sent}) > 2, "another one from round to round"
    other = NoLoCo(topology=random_pairs(seed=1))
    assert sent != [other.payload(ModelSize((3,), 4), 5, now(s)).tolist() for s in range(20)]
