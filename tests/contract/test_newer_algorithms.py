"""Push-sum, NoLoCo, EDiT, local sign momentum: what their papers promise of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_localsgd.algorithms.edit import EDiT
from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum
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


def differences(lengths: list[float]) -> torch.Tensor:
    """Rows of these lengths, each in a direction of its own."""
    x = torch.zeros(len(lengths), P, dtype=torch.float64)
    for k, length in enumerate(lengths):
        x[k, k] = -length
    return x


def after(algorithm: EDiT, rounds: list[list[float]]) -> list[torch.Tensor]:
    """Anchors [P] after rounds in which the workers went so far from the anchor."""
    world, found = Simulated(len(rounds[0])), []
    x = torch.zeros(len(rounds[0]), P, dtype=torch.float64)
    state = algorithm.init(x, world, ModelSize((P,), 8))
    for s, lengths in enumerate(rounds):
        x, state = algorithm.on_sync(x + differences(lengths), state, world, now(s))
        assert (x == x[0]).all()
        found.append(x[0].clone())
    return found


PLAIN = EDiT(lr=1.0, momentum=0.0, clip=1e9, warmup=2, smoothing=0.5)
CALM = [[1.0, 1.0, 1.0], [1.2, 1.2, 1.2], [1.0, 1.0, 1.0]]


def test_short_differences_weigh_more() -> None:
    [anchor] = after(PLAIN, [[1.0, 2.0, 3.0]])
    w = np.exp([-1.0, -2.0, -3.0]) / np.exp([-1.0, -2.0, -3.0]).sum()
    np.testing.assert_allclose(anchor[:3], -w * [1, 2, 3], rtol=1e-12)


@pytest.mark.parametrize("astray", [1.6, 50.0, float("inf"), float("nan")])
def test_a_worker_gone_astray_has_no_weight(astray: float) -> None:
    """1.6 is more than three deviations from what it did before; the others are as ever."""
    before, anchor = after(PLAIN, [*CALM, [1.0, astray, 1.0]])[-2:]
    np.testing.assert_allclose((anchor - before)[:3], [-0.5, 0.0, -0.5], rtol=1e-12)
    after_that = after(PLAIN, [*CALM, [1.0, astray, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose((after_that[-1] - anchor)[:3], [-1 / 3] * 3, rtol=1e-12)


def test_what_is_as_long_as_ever_or_short_is_not_astray() -> None:
    for length in (1.0, 1.3, 0.01, 0.0):
        before, anchor = after(PLAIN, [*CALM, [1.0, length, 1.0]])[-2:]
        assert (anchor - before)[1] == 0 if length == 0 else (anchor - before)[1] < 0


def test_where_all_are_astray_the_round_is_taken_back() -> None:
    for astray in (50.0, float("nan")):
        before, anchor, later = after(PLAIN, [*CALM, [astray] * 3, [1.0] * 3])[-3:]
        assert torch.equal(anchor, before) and not torch.equal(later, before)


def test_the_average_has_at_most_the_length_of_the_clip() -> None:
    [anchor] = after(EDiT(lr=1.0, momentum=0.0, clip=0.5), [[3.0, 3.0, 3.0]])
    assert float(anchor.norm()) == pytest.approx(0.5)
    [alone] = after(EDiT(lr=1.0, momentum=0.0, clip=0.5), [[0.4]])
    assert float(alone.norm()) == pytest.approx(0.4)


def test_who_always_goes_as_far_is_never_astray() -> None:
    """No deviation at all, and none from it."""
    before, anchor = after(PLAIN, [[1.0, 2.0, 1.0]] * 5)[-2:]
    assert (anchor - before)[1] < 0


def test_a_worker_astray_in_the_first_round_is_measured_by_the_others_until_it_is_not() -> None:
    """Its mean begins at theirs, so that it is back as soon as it goes as far as they do."""
    rounds = [[1.0, float("nan"), 1.0], [1.2, 1.2, 1.2], [1.0, 1.0, 1.0]]
    before, anchor = after(PLAIN, rounds)[-2:]
    np.testing.assert_allclose((anchor - before)[:3], [-1 / 3] * 3, rtol=1e-12)
    before, anchor = after(PLAIN, [*rounds, [1.0, 1.6, 1.0]])[-2:]
    assert (anchor - before)[1] == 0, "and far beyond them it is out"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_sign_does_not_hide_what_is_not_finite_and_a_round_later_it_is_forgotten(
    bad: float,
) -> None:
    x, world, algorithm = torch.zeros(K, P, dtype=torch.float64), Simulated(K), LocalSignMomentum()
    state = algorithm.init(x, world, ModelSize((P,), 8))
    g = noise(0)
    g[3, 7] = bad
    signs, state = algorithm.on_gradient(g.clone(), state, world, now(0))
    assert signs.isnan().nonzero().tolist() == [[3, 7]]
    assert torch.equal(signs.nan_to_num(), torch.where(g == bad, 0.0, g).nan_to_num().sign())
    x, state = algorithm.on_sync(x, state, world, now(0))  # quarantine has made x finite
    g[3] = 0  # all that the sick worker knew; the others keep theirs
    assert torch.equal(state["u"], g)


def test_a_number_whose_gradient_is_always_0_stays() -> None:
    x, world = torch.ones(K, P, dtype=torch.float64), Simulated(K)
    algorithm = LocalSignMomentum(compressor=None)
    state = algorithm.init(x, world, ModelSize((P,), 8))
    signs, _ = algorithm.on_gradient(torch.zeros_like(x), state, world, now(0))
    assert not signs.any()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_the_sign_of_what_is_not_finite_is_no_step(value: float) -> None:
    """Infinity has a sign, along which the worker would go on as if nothing had happened."""
    world, algorithm = Simulated(2), LocalSignMomentum()
    state = algorithm.init(torch.zeros(2, 3), world, ModelSize((3,), 4))
    g = torch.tensor([[1.0, value, -2.0], [1.0, 0.0, -2.0]])
    step, _ = algorithm.on_gradient(g, state, world, now(0))
    assert step[0].isnan().tolist() == [False, True, False]
    assert step[1].tolist() == [1, 0, -1]
