"""Who uses which sample: exact coverage, disjoint shares, and nothing but (seed, worker, step)."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.partition import Partition, permutation, share


@st.composite
def partitions(draw: st.DrawFn, remainder: str = "carry") -> Partition:
    workers, batch = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    samples = draw(st.integers(workers * batch, 120))
    return Partition(samples, workers, batch, draw(st.integers(0, 5)), remainder=remainder)  # type: ignore[arg-type]


def stream(p: Partition, steps: int) -> list[int]:
    """What all workers use, in the order of steps and workers."""
    return list(chain(*(p.indices(k, t).tolist() for t in range(steps) for k in range(p.workers))))


@given(partitions())
def test_every_epoch_uses_every_sample_exactly_once_when_the_rest_is_carried(p: Partition) -> None:
    epochs = 3
    used = stream(p, -(-epochs * p.samples // p.per_step))
    for e in range(epochs):
        epoch = used[e * p.samples : (e + 1) * p.samples]
        assert sorted(epoch) == list(range(p.samples))


@given(partitions("drop"))
def test_every_epoch_uses_whole_steps_of_distinct_samples_when_the_rest_is_dropped(
    p: Partition,
) -> None:
    steps = p.samples // p.per_step
    assert p.steps_per_epoch == steps
    used = stream(p, 2 * steps)
    for epoch in (used[: len(used) // 2], used[len(used) // 2 :]):
        assert len(epoch) == steps * p.per_step
        assert max(Counter(epoch).values()) == 1


@given(partitions(), st.integers(0, 20))
def test_within_one_epoch_the_workers_of_a_step_share_nothing(p: Partition, t: int) -> None:
    if t * p.per_step % p.samples + p.per_step > p.samples:
        return  # this step reaches into the next epoch
    used = np.concatenate([p.indices(k, t) for k in range(p.workers)])
    assert len(set(used.tolist())) == p.per_step


@given(partitions(), st.integers(0, 50))
def test_indices_do_not_depend_on_who_asked_before(p: Partition, t: int) -> None:
    asked = {(k, t): p.indices(k, t).copy() for k in range(p.workers)}
    permutation.cache_clear()
    for k in reversed(range(p.workers)):
        p.indices(k, t + 17)
        assert (p.indices(k, t) == asked[k, t]).all()


def test_epochs_are_shuffled_anew_and_seeds_differ() -> None:
    first, second = permutation(100, 0, 0), permutation(100, 0, 1)
    assert (first != second).any()
    assert (first != permutation(100, 1, 0)).any()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1  # it is cached: nobody may spoil it for the others


def test_the_numbers_of_gu_et_al_on_cifar_10() -> None:
    p = Partition(samples=50_000, workers=32, batch=128, remainder="drop")
    assert p.steps_per_epoch == 12
    assert 50_000 - 12 * p.per_step == 848


def test_draws_with_replacement_are_reproducible_and_independent_between_workers() -> None:
    p = Partition(samples=10, workers=3, batch=50, seed=4, replacement=True)
    draws = [p.indices(k, 7) for k in range(3)]
    assert all((p.indices(k, 7) == draws[k]).all() for k in range(3))
    assert (draws[0] != draws[1]).any() and (draws[1] != draws[2]).any()
    assert (p.indices(0, 8) != draws[0]).any()
    assert (Partition(10, 3, 50, 5, True).indices(0, 7) != draws[0]).any()
    assert set(np.concatenate(draws).tolist()) == set(range(10))
    assert p.steps_per_epoch == pytest.approx(10 / 150)


def test_moving_to_other_ranks_does_not_change_the_data() -> None:
    """The stream is a function of the global worker number, so 1 x 4 and 4 x 1 see the same."""
    p = Partition(samples=37, workers=4, batch=3)
    assert stream(p, 5) == [int(permutation(37, 0, i // 37)[i % 37]) for i in range(5 * p.per_step)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((100, 4, 26), r"4 workers x 26 samples are 104 .* has 100: use --batch-per-worker 25"),
        ((3, 4, 1), "4 workers .* has 3: use fewer workers"),
        ((100, 0, 4), "at least 1 worker"),
        ((100, 4, 1, -1), "--seed must not be negative"),
        ((100, 4, 0), "at least 1 worker and 1 sample"),
    ],
)
def test_what_cannot_be_dealt_is_refused(arguments: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Partition(*arguments)


def test_a_batch_larger_than_the_data_can_be_drawn_with_replacement() -> None:
    assert len(Partition(5, 2, 8, replacement=True).indices(1, 0)) == 8


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_cover_everything_once_and_are_nearly_equal(count: int, K: int) -> None:
    shares = [share(count, k, K) for k in range(K)]
    assert list(chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
