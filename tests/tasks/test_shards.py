"""Samples of one's own: shards that cover everything once, in each worker's own order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.tasks.shards import Sharded, alpha_of, shards

LABELS = np.arange(600) % 10
DIVISIONS = st.sampled_from(["disjoint", "dirichlet:0.3", "dirichlet:2", "dirichlet:1e3"])


def sharded(partition: str, batch: int = 5, replacement: bool = False, seed: int = 0) -> Sharded:
    own = shards(partition, LABELS, 6, batch, seed)
    return Sharded(len(LABELS), 6, batch, seed, replacement, "carry", own)


@given(DIVISIONS, st.integers(1, 8), st.integers(0, 9))
def test_together_all_samples_and_none_twice(partition: str, K: int, seed: int) -> None:
    own = shards(partition, LABELS, K, 4, seed)
    assert len(own) == K and min(map(len, own)) >= 4
    assert sorted(np.concatenate(own).tolist()) == list(range(len(LABELS)))
    again = shards(partition, LABELS, K, 4, seed)
    assert all((a == b).all() for a, b in zip(own, again, strict=True))


def test_seeds_divide_otherwise() -> None:
    for partition in ("disjoint", "dirichlet:1"):
        a, b = (shards(partition, LABELS, 4, 4, seed)[0].tolist() for seed in (0, 1))
        assert a != b


def test_disjoint_shards_are_of_one_size_and_of_all_classes() -> None:
    own = shards("disjoint", LABELS[:599], 6, 4, 0)
    assert {len(samples) for samples in own} == {99, 100}
    for samples in own:  # about ten of each class: an order by class would leave some out
        assert (np.bincount(LABELS[samples], minlength=10) > 0).all()


def test_alpha_says_how_unequal_they_are() -> None:
    def largest_share(partition: str) -> float:
        """Mean share of a worker's most frequent class."""
        own = [np.bincount(LABELS[s], minlength=10) for s in shards(partition, LABELS, 6, 4, 0)]
        return float(np.mean([counts.max() / counts.sum() for counts in own]))

    few, some, alike = (largest_share(f"dirichlet:{alpha}") for alpha in (0.1, 1, 1e4))
    assert few > 0.4 > some > 0.15 > alike > 0.1
    sizes = [len(s) for s in shards("dirichlet:0.1", LABELS, 6, 4, 0)]
    assert max(sizes) > 2 * min(sizes)


def test_a_class_is_divided_as_dirichlet_says() -> None:
    """Of K proportions one has the mean 1/K and the variance (K - 1) / (K^2 (K alpha + 1))."""
    K, alpha, many = 4, 0.5, np.zeros(2000, dtype=int)
    draws = [len(shards(f"dirichlet:{alpha}", many, K, 1, seed)[0]) for seed in range(1500)]
    shares = np.array(draws) / len(many)
    # Draws that leave nobody without a sample are kept: one in a hundred is drawn again.
    assert shares.mean() == pytest.approx(1 / K, abs=0.02)
    assert shares.var() == pytest.approx((K - 1) / (K**2 * (K * alpha + 1)), rel=0.1)


@given(DIVISIONS, st.integers(0, 60))
def test_a_worker_uses_all_it_has_before_it_uses_one_again(partition: str, begin: int) -> None:
    p = sharded(partition)
    for k in range(p.workers):
        n = len(p.shards[k])
        steps = -(-3 * n // p.batch)
        used = np.concatenate([p.indices(k, t) for t in range(steps)])
        for epoch in range(3):
            of_epoch = used[epoch * n : (epoch + 1) * n]
            assert sorted(of_epoch.tolist()) == p.shards[k].tolist()
        assert (p.indices(k, begin) == sharded(partition).indices(k, begin)).all()


def test_orders_are_new_in_each_epoch_and_for_each_worker() -> None:
    p = sharded("disjoint")  # 100 samples each: 20 steps an epoch
    first, second = ([p.indices(0, t + e).tolist() for t in range(20)] for e in (0, 20))
    assert first != second
    places = [np.searchsorted(p.shards[k], p.indices(k, 0)).tolist() for k in (0, 1)]
    assert places[0] != places[1]


def test_draws_with_replacement_stay_in_the_shard() -> None:
    p = sharded("disjoint", batch=80, replacement=True)
    for k in range(p.workers):
        draws = np.concatenate([p.indices(k, t) for t in range(20)])
        assert set(draws.tolist()) == set(p.shards[k].tolist())
    assert (p.indices(0, 0) != p.indices(0, 1)).any()


@pytest.mark.parametrize(
    "typed", ["dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "other"]
)
def test_what_is_no_division(typed: str) -> None:
    with pytest.raises(ConfigurationError, match="type iid, disjoint, or dirichlet:ALPHA"):
        alpha_of(typed)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="6 workers with at least a batch of 101 are more"):
        shards("disjoint", LABELS, 6, 101, 0)
    with pytest.raises(ConfigurationError, match="none of 1000 draws left each of 6 workers"):
        shards("dirichlet:0.01", LABELS, 6, 90, 0)
    with pytest.raises(ConfigurationError, match="have 7 labels each: type disjoint"):
        shards("dirichlet:1", np.zeros((100, 7)), 6, 4, 0)
    with pytest.raises(ConfigurationError, match="--remainder drop .*: leave it out"):
        TaskContext(2, remainder="drop", shards="disjoint").partition(600, LABELS)


def test_sizes_are_said_and_nothing_of_them_without_shards() -> None:
    said = sharded("dirichlet:0.3").said()
    sizes = [len(own) for own in sharded("dirichlet:0.3").shards]
    assert said == (f"shards of {min(sizes)} to {max(sizes)} samples, workers count alike")
    context = TaskContext(workers=2)
    assert type(context.partition(600, LABELS)) is Partition
    assert context.partition(600, LABELS).said() == ""
