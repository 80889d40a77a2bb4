"""Exchanges behind shared links, against closed forms and against counting messages one by one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.cost.contention import ALLREDUCE, Shared, load, mix_load
from hpc_localsgd.cost.cost_model import NETWORKS, Cost, Network, Piece
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.directed import exponential
from hpc_localsgd.topology.static import ring

ALPHA, RATE, SIZE = 50e-6, 0.117e9, 8_000_000


def behind(shared: Shared, allreduce: str = "ring") -> Network:
    return Network("n", ALPHA, RATE, shared=shared, allreduce=allreduce)


def test_a_thousand_ranks_behind_a_core_wait_for_each_other() -> None:
    """All n messages of a step meet in the core, which is slower than the n cables."""
    n, core = 1024, 10e9
    found = behind(Shared(core_bytes_per_s=core)).mean_s(n, SIZE)
    assert found == pytest.approx(2 * (n - 1) * (ALPHA + SIZE / n * n / core))
    assert found > 7 * behind(Shared()).mean_s(n, SIZE)
    wide = behind(Shared(core_bytes_per_s=n * RATE * 1.001)).mean_s(n, SIZE)
    assert wide == pytest.approx(behind(Shared()).mean_s(n, SIZE), rel=1e-4)


@pytest.mark.parametrize(("trunk", "slower"), [(2 * RATE, 1), (RATE, 1), (RATE / 4, 4)])
def test_a_ring_has_one_message_on_a_trunk(trunk: float, slower: float) -> None:
    n = 64
    found = behind(Shared(8, trunk)).mean_s(n, SIZE)
    assert found == pytest.approx(2 * (n - 1) * (ALPHA + slower * SIZE / n / RATE))


@pytest.mark.parametrize(("n", "m"), [(64, 8), (64, 1), (16, 16), (1024, 32)])
def test_halving_sends_what_is_far_over_the_trunks(n: int, m: int) -> None:
    """Halves, quarters, ... stay within m workers; what is then left crosses, m at once."""
    trunk = RATE * m / 4  # 4 times oversubscribed
    found = behind(Shared(m, trunk), "halving").mean_s(n, SIZE)
    away, inside = (1 / m - 1 / n) * m / trunk, (1 - 1 / m) / RATE
    assert found == pytest.approx(2 * math.log2(n) * ALPHA + 2 * SIZE * (away + inside))


def test_three_workers_hand_over_before_they_halve() -> None:
    found = behind(Shared(), "halving").mean_s(3, SIZE)
    assert found == pytest.approx(4 * ALPHA + (2 + 2 / 2) * SIZE / RATE)


@pytest.mark.parametrize("allreduce", ALLREDUCE)
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12])
def test_every_worker_takes_part_and_no_message_leaves_a_block(allreduce: str, n: int) -> None:
    K, k = 3 * n, np.arange(3 * n)
    met = np.zeros(K, dtype=bool)
    total = np.zeros(K)
    for times, share, to in ALLREDUCE[allreduce](n, K):
        assert (to // n == k // n).all()
        assert len(set(to[to != k])) == (to != k).sum()  # nobody hears two at once
        met |= to != k
        met[to[to != k]] = True
        total += times * share * (to != k)
    assert met.all()
    if n & (n - 1) == 0 or allreduce == "ring":
        assert total == pytest.approx(2 * (n - 1) / n)  # the least that an average can do with


def test_blocks_within_a_trunk_do_not_use_it() -> None:
    slow = Shared(8, RATE / 100, RATE / 100)
    for allreduce in ALLREDUCE:
        one = behind(slow, allreduce)
        alone = behind(Shared(), allreduce).mean_s(4, SIZE, workers=32)
        assert one.mean_s(4, SIZE, workers=32) == pytest.approx(alone)
        assert one.mean_s(16, SIZE, workers=32) > 50 * alone


def test_a_mix_sends_to_all_neighbours_at_once() -> None:
    K, shared = 32, Shared(8, 2 * RATE)
    one = behind(shared)
    assert one.mix_s(ring().matrix(K), SIZE) == pytest.approx(2 * ALPHA + 2 * SIZE / RATE)
    # An exponential graph: 1, 2 and 4 places on leave a rack of 8 from 1, 2 and 4 workers, 8 and
    # 16 places on from all.
    crossing = 1 + 2 + 4 + 8 + 8
    found = one.mix_s(exponential().matrix(K), SIZE)
    assert found == pytest.approx(5 * ALPHA + crossing * SIZE / (2 * RATE))
    core = behind(Shared(8, math.inf, RATE)).mix_s(ring().matrix(K), SIZE)
    assert core == pytest.approx(2 * ALPHA + 2 * 4 * SIZE / RATE)


def test_a_gather_goes_round_a_ring() -> None:
    found = behind(Shared(4, RATE / 2)).gather_s(16, SIZE)
    assert found == pytest.approx(15 * (ALPHA + 2 * SIZE / RATE))


@given(st.permutations(range(12)), st.sampled_from([1, 2, 3, 4, 12]))
def test_messages_are_counted_as_one_by_one(order: list[int], m: int) -> None:
    found = load(1, 1.0, np.array(order), m)
    away = [(k // m, to // m) for k, to in enumerate(order) if k // m != to // m]
    most = max((sum(g == end[i] for end in away) for g in range(12) for i in (0, 1)), default=0)
    assert (found.on_trunk, found.on_core) == (most, len(away))
    W = np.eye(12) / 2
    W[order, range(12)] += 0.5
    assert mix_load(W, m, 1).on_trunk == most and mix_load(W, m, 1).on_core == len(away)


def test_what_was_measured_is_not_undercut_by_shared_links() -> None:
    costs = {"mean": Cost((Piece(math.inf, 1e-3, 1e-9),))}
    assert Network("n", 0.0, 1.0, costs, shared=Shared(4, 1e12)).mean_s(8, 800) == pytest.approx(
        14 * 1e-3 + 1400 * 1e-9
    )
    slow = Network("n", 0.0, 1.0, costs, shared=Shared(4, 100.0))
    assert slow.mean_s(8, 800) == pytest.approx(14 * 100 / 100)


def test_a_smaller_model_with_dearer_bytes_takes_as_long() -> None:
    for allreduce in ALLREDUCE:
        one = behind(Shared(4, RATE / 3, RATE), allreduce)
        assert one.dearer(8).mean_s(16, SIZE // 8) == pytest.approx(one.mean_s(16, SIZE))


def test_what_is_shared_can_be_typed(tmp_path: Path) -> None:
    words = "alpha=20us, beta=1.2GB/s, trunk=10GB/s/32, core=0.8Tb/s, allreduce=halving"
    found = network(words)
    want = Shared(32, pytest.approx(10e9), pytest.approx(100e9))  # type: ignore[arg-type]
    assert (found.latency_s, found.bytes_per_s) == (pytest.approx(20e-6), pytest.approx(1.2e9))
    assert (found.shared, found.allreduce, found.name) == (want, "halving", words)
    named = network("10GbE,core=10GB/s")
    assert (named.latency_s, named.shared.core_bytes_per_s) == (NETWORKS["10GbE"].latency_s, 1e10)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{latency_s: 1, bytes_per_s: 2, allreduce: halving, "
        "shared: {workers: 4, trunk_bytes_per_s: 1e3}}"
    )
    assert network(str(file)) == Network(
        "mine", 1.0, 2.0, shared=Shared(4, 1e3), allreduce="halving"
    )
    assert network(f"{file},beta=7kB/s").bytes_per_s == pytest.approx(7e3)


@pytest.mark.parametrize(
    "word", ["core", "core=0GB/s", "trunk=1GB/s", "trunk=1GB/s/0", "allreduce=tree", "speed=1GB/s"]
)
def test_words_that_say_nothing_of_a_network_say_what_would(word: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{word}' is not understood: write alpha=20us"):
        network(f"20us,1GB/s,{word}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shared: {workers: 0}", "no number of workers is 0"),
        ("shared: {rack: 3}", "shared has no rack"),
        ("allreduce: tree", "allreduce is one of ring, halving"),
    ],
)
def test_files_that_share_wrongly_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"latency_s: 1\nbytes_per_s: 1\n{text}\n")
    with pytest.raises(ConfigurationError, match=said):
        network(str(file))
