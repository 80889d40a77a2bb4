"""The cost model fitted to exchanges, and the files and words that give a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.cost.cost_model import (
    NETWORKS,
    Cost,
    Network,
    Piece,
    allreduce_messages,
    allreduce_wire_bytes,
    vectors_on_a_cable,
)
from hpc_localsgd.cost.fitting import Cell, errors, fitted, predicted_s
from hpc_localsgd.cost.network_file import network, written
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import Topology
from hpc_localsgd.topology.directed import exponential
from hpc_localsgd.topology.static import ring
from hpc_localsgd.worlds.simulated import Simulated

SIZES = (4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 16_000_000)
SHORT, LONG = Piece(64_000, 1e-5, 2e-9), Piece(float("inf"), 4e-3, 8e-9)


def mean_cell(n: int, size: int, cost: Cost, own_s: float = 0.0) -> Cell:
    messages, wire = allreduce_messages(n), allreduce_wire_bytes(n, size)
    return Cell("mean", size, size, messages, wire, cost.seconds(size, messages, wire), own_s)


def test_exact_seconds_give_alpha_beta_and_gamma_back() -> None:
    """Gamma is told by what a rank computes alone: by one number of ranks beta and it are one."""
    true = Cost((Piece(float("inf"), 3e-4, 8e-9),), gamma_s=2e-9)
    cells = [mean_cell(4, size, true, own_s=2e-9 * size) for size in SIZES]
    found = fitted(cells)["mean"]
    assert len(found.pieces) == 1
    assert found.gamma_s == pytest.approx(2e-9)
    assert found.pieces[0].alpha_s == pytest.approx(3e-4)
    assert found.pieces[0].beta_s == pytest.approx(8e-9)
    # So another number of ranks is predicted too.
    assert predicted_s({"mean": found}, mean_cell(64, 10**6, true)) == pytest.approx(
        true.seconds(10**6, 126, 2 * 63 * 10**6 // 64)
    )


def test_two_protocols_are_two_pieces_and_noise_is_not() -> None:
    true = Cost((SHORT, LONG))
    found = fitted([mean_cell(2, size, true) for size in SIZES])["mean"]
    assert [p.up_to_bytes for p in found.pieces] == [64_000, float("inf")]
    assert found.pieces[0].beta_s == pytest.approx(2e-9)
    assert found.pieces[1].alpha_s == pytest.approx(4e-3)
    noise = np.random.default_rng(1).uniform(0.9, 1.1, len(SIZES))
    one = Cost((replace(LONG, alpha_s=1e-4),))
    exact = [mean_cell(2, size, one) for size in SIZES]
    noisy = [replace(c, seconds=c.seconds * f) for c, f in zip(exact, noise, strict=True)]
    costs = fitted(noisy)
    assert len(costs["mean"].pieces) == 1
    assert max(map(abs, errors(costs, noisy))) < 0.15


def test_a_written_file_is_the_network_again(tmp_path: Path) -> None:
    cells = [mean_cell(2, size, Cost((SHORT, LONG)), own_s=1e-10 * size) for size in SIZES]
    cells += [Cell("mix ring", s, s, 2, 2 * s, 1e-3 + 3e-9 * s) for s in SIZES]
    costs = fitted(cells)
    file = tmp_path / "measured.yaml"
    file.write_text(written("two hosts", cells, costs, {"commit": "abc"}, workers_per_host=2))
    found = network(str(file))
    assert (found.name, found.costs, found.workers_per_host) == ("two hosts", costs, 2)
    assert found.latency_s == costs["mean"].pieces[-1].alpha_s
    assert found.bytes_per_s == pytest.approx(1 / costs["mean"].pieces[-1].beta_s)
    assert "relative_residuals" in file.read_text() and "commit: abc" in file.read_text()


def test_a_file_with_the_median_error_alone_has_the_deviation_that_belongs_to_it(
    tmp_path: Path,
) -> None:
    """Half of the numbers of a normal distribution lie within 0.6745 deviations."""
    file = tmp_path / "old.yaml"
    file.write_text(
        "{latency_s: 1e-3, bytes_per_s: 1e6, costs: {mean: {pieces: [{up_to_bytes: .inf, "
        "alpha_s: 1e-3, beta_s: 1e-6}], relative_residuals: {median: 0.06745}}}}"
    )
    assert network(str(file)).costs["mean"].off == pytest.approx(0.1, rel=0.01)


def test_a_person_types_two_numbers_or_writes_two_lines(tmp_path: Path) -> None:
    typed = network("50us,117MB/s")
    assert (typed.name, typed.latency_s) == ("50us,117MB/s", pytest.approx(50e-6))
    assert typed.bytes_per_s == pytest.approx(117e6)
    assert network("0.1 ms, 1 Gb/s").bytes_per_s == pytest.approx(125e6)
    file = tmp_path / "mine.yaml"
    file.write_text("latency_s: 5e-5\nbytes_per_s: 1e8\n")
    assert network(str(file)) == Network("mine", 5e-5, 1e8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not YAML"),
        ("- 3", "write `latency_s: 5.0e-5`"),
        ("latency_s: 1.0", "and `bytes_per_s"),
        ("{latency_s: -1, bytes_per_s: 1}", "-1 is not a number from 0 on"),
        ("{latency_s: .nan, bytes_per_s: 1}", "not a number from 0 on"),
        ("{latency_s: fast, bytes_per_s: 1}", "'fast'"),
        ("{latency_s: 1, bytes_per_s: 0}", "bytes_per_s or workers_per_host is 0"),
        ("{latency_s: 1, bytes_per_s: 1, costs: [mean]}", "not a network"),
        ("{latency_s: 1, bytes_per_s: 1, costs: {mean: {pieces: []}}}", "the last to .inf"),
        ("{latency_s: 1, bytes_per_s: 1, costs: {mean: {}}}", "pieces"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        network(str(file))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words", ["50,117", "50us", "us,1MB/s", "1us,0MB/s", "1h,1MB/s", "1.1.1s,1MB/s"]
)
def test_words_that_are_no_network_list_what_is(words: str) -> None:
    with pytest.raises(ConfigurationError, match=r'10GbE.*"50us,117MB/s".*file'):
        network(words)


def test_a_simulated_world_takes_each_kind_from_what_was_measured() -> None:
    """And blocks, coded averages and mixes have alphas of their own."""
    kinds = ("mean", "mean of 2", "compressed mean", "mix", "gather")
    costs = {k: Cost((Piece(float("inf"), 10.0**i, 0.0),)) for i, k in enumerate(kinds)}
    world = Simulated(4, network=replace(NETWORKS["10GbE"], costs=costs))
    assert seconds(world, "mean") == 6 * 1
    assert seconds(world, "mean", 2) == 2 * 10
    assert seconds(world, "compressed") == 6 * 100
    assert seconds(world, "mix") == 2 * 1000
    assert seconds(world, "gather") == 3 * 10_000
    plain = Simulated(4, network=NETWORKS["10GbE"])
    assert seconds(plain, "compressed") == seconds(plain, "mean") - (24 - 12) / 1.17e9


def seconds(world: Simulated, exchange: str, block: int | None = None) -> float:
    import torch

    from hpc_localsgd.compressors.bf16 import BF16

    x = torch.zeros(4, 4)  # 16 bytes a worker
    if exchange == "mean":
        world.mean(x, block)
    elif exchange == "compressed":
        world.mean_elementwise(x, BF16())
    elif exchange == "mix":
        world.mix(x, ring().matrix(4))
    else:
        world.gather_bytes(torch.zeros(4, 8, dtype=torch.uint8))
    return world.ledger.take().close().transfer_s


def test_a_smaller_model_with_dearer_bytes_takes_as_long() -> None:
    network = Network("n", 1e-3, 1e6, {"mean": Cost((SHORT, LONG), gamma_s=1e-9)})
    for size in (32_000, 64_000, 128_000):
        assert network.dearer(4).mean_s(2, size // 4) == pytest.approx(network.mean_s(2, size))
    W = ring().matrix(4)
    assert network.dearer(4).mix_s(W, 1000) == pytest.approx(network.mix_s(W, 4000))


@pytest.mark.parametrize(
    ("topology", "per_host", "vectors"),
    [(ring(), 1, 2), (ring(), 2, 2), (exponential(), 1, 2), (exponential(), 2, 3), (ring(), 4, 0)],
)
def test_workers_of_a_host_share_its_cable(topology: Topology, per_host: int, vectors: int) -> None:
    """Of four: of an exponential graph's two neighbours each, three of a pair's are elsewhere."""
    W = topology.matrix(4)
    assert vectors_on_a_cable(W, per_host) == vectors
    shared = Network("n", 1.0, 100.0, workers_per_host=per_host)
    assert shared.mix_s(W, 100) == 2 * 1.0 + vectors
