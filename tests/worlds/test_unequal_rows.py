"""Worlds whose ranks host unequal numbers of workers: the same numbers as one process with all."""

# ruff: noqa: E402 - the path is set before rank_threads is imported
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "attach"))  # its ranks, which are threads
from rank_threads import ThreadWorld, on_ranks

from hpc_localsgd.compressors import BF16, FP16
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import one_peer_exponential, ring, star
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated

P = 11
DEALT = [(8, 3), (8, 5), (3, 2), (4, 3), (5, 5), (7, 4), (6, 4), (12, 2)]
X = torch.randn(12, P, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rows_of(world: World) -> torch.Tensor:
    return X[list(world.local_workers)].clone()


def same(K: int, n: int, exchange: Callable[[World, torch.Tensor], torch.Tensor]) -> None:
    """Compare an exchange on n ranks with that of one process."""
    alone = exchange(Simulated(K), X[:K].clone())
    parts = on_ranks(n, lambda world: exchange(world, rows_of(world)), workers=K)
    torch.testing.assert_close(torch.cat(parts), alone, rtol=0, atol=1e-13)


def of_all(world: World, row: torch.Tensor) -> torch.Tensor:
    return row.expand(world.R, -1)


@pytest.mark.parametrize(("K", "n"), DEALT)
def test_workers_are_dealt_in_order_and_differ_by_one_at_most(K: int, n: int) -> None:
    placement = Placement(K, n)
    mine = [placement.workers_of(r) for r in range(n)]
    assert [k for workers in mine for k in workers] == list(range(K))
    lengths = [len(workers) for workers in mine]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1
    assert lengths[0] == placement.most and placement.even == (len(set(lengths)) == 1)
    assert all(k in mine[placement.rank_of(k)] for k in range(K))


def test_fewer_workers_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="start at most 3"):
        Placement(3, 4)


@pytest.mark.parametrize(("K", "n"), DEALT)
def test_averages_are_weighted_by_rows(K: int, n: int) -> None:
    same(K, n, lambda world, x: world.mean(x))
    same(K, n, lambda world, x: of_all(world, world.begin_mean(x).wait()))
    same(K, n, lambda world, x: of_all(world, world.begin_mean(x, keep=False).wait()))


@pytest.mark.parametrize(("K", "n"), [*DEALT, (8, 4), (8, 2)])
def test_every_block_that_divides_the_workers_is_averaged(K: int, n: int) -> None:
    for block in range(1, K + 1):
        if K % block == 0:
            same(K, n, lambda world, x, b=block: world.mean(x, b))  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match=f"a block divides {K}"):
        Simulated(K).mean(X[:K].clone(), K + 1)


@pytest.mark.parametrize(("K", "n"), DEALT)
def test_workers_of_a_block_that_ranks_cut_have_the_same_bits(K: int, n: int) -> None:
    block = K // 2 if K % 2 == 0 else K
    x = torch.cat(on_ranks(n, lambda world: world.mean(rows_of(world), block), workers=K))
    assert torch.equal(x, x[::block].repeat_interleave(block, 0))


@pytest.mark.parametrize(("K", "n"), DEALT)
@pytest.mark.parametrize("topology", [ring(), star(), one_peer_exponential()], ids=repr)
def test_mixing_is_the_same(K: int, n: int, topology: object) -> None:
    try:
        W = topology.matrix(K, 1)  # type: ignore[attr-defined]
    except ConfigurationError:
        pytest.skip(f"no such graph of {K} workers")
    same(K, n, lambda world, x: world.mix(x, W))


@pytest.mark.parametrize(("K", "n"), DEALT)
def test_gathered_rows_are_in_the_order_of_workers(K: int, n: int) -> None:
    def gathered(world: World, x: torch.Tensor) -> torch.Tensor:
        assert np.array_equal(world.gather(x.numpy()), X[:K].numpy())
        assert np.array_equal(world.gather(np.array(world.local_workers)), np.arange(K))
        raw = x.view(torch.uint8)
        assert torch.equal(world.gather_bytes(raw), X[:K].view(torch.uint8))
        return x

    on_ranks(n, lambda world: gathered(world, rows_of(world)), workers=K)


@pytest.mark.parametrize(("K", "n"), DEALT)
@pytest.mark.parametrize("codec", [FP16(), BF16()], ids=repr)
def test_a_mean_in_half_precision_is_the_same(K: int, n: int, codec: FP16 | BF16) -> None:
    exact = torch.arange(K, dtype=torch.float64)[:, None].expand(-1, P) * 4.0
    mean = codec.decode(codec.encode(exact.mean(0, keepdim=True), (P,)), (P,), torch.float64)

    def coded(world: World) -> torch.Tensor:
        return world.mean_elementwise(exact[list(world.local_workers)].clone(), codec)

    for rows in on_ranks(n, coded, workers=K):
        assert torch.equal(rows, mean.expand_as(rows))


def test_a_rank_with_one_worker_begins_no_average_that_the_others_do_not() -> None:
    """3 workers on 2 ranks: 2 and 1. Overlap with backward is for one worker on every rank."""
    from hpc_localsgd.algorithms.base import overlapped_mean

    assert on_ranks(2, overlapped_mean, workers=3) == [None, None]
    assert None not in on_ranks(2, overlapped_mean)


def test_the_wire_is_billed_as_sent() -> None:
    def billed(world: ThreadWorld) -> tuple[float, float]:
        world.mean(rows_of(world), 2)  # pairs of 8 workers on 3, 3, 2
        cost = world.ledger.take()
        sent = sum(m for what, m in world.transport.log if what == "exchange")
        return cost.wire_bytes * world.R, sent

    # Rank 0 shares {2, 3} with rank 1, and rank 1 {4, 5} with nobody: one sum of P numbers each.
    assert [wire for wire, _ in on_ranks(3, billed, workers=8)] == [8 * P, 8 * P, 0]
    payload = on_ranks(3, lambda world: _payload(world), workers=8)
    assert [p.tolist() for p in payload] == [[8 * P] * 3, [8 * P] * 3, [8 * P] * 2]


def _payload(world: ThreadWorld) -> np.ndarray:
    world.mean(rows_of(world), 2)
    return world.ledger.take().payload_bytes


@pytest.mark.parametrize("exchanged_bytes", [1, 24, 40])
def test_a_row_that_is_mixed_in_parts_has_the_bits_of_a_whole_one(exchanged_bytes: int) -> None:
    """A part too short for a number has one; the last part is shorter than the others."""
    W, asked = ring().matrix(4), []

    def mixed(world: ThreadWorld, most: int) -> torch.Tensor:
        world.transport.exchanged_bytes = most
        exchange = world.transport.exchange
        world.transport.exchange = lambda *words: asked.append(words[2]) or exchange(*words)  # type: ignore[method-assign]
        x = rows_of(world)
        assert world.mix(x, W) is x
        assert world.ledger.take().payload_bytes.tolist() == [2 * P * 8]
        return x

    whole = torch.cat(on_ranks(4, lambda world: mixed(world, 8 * P)))
    assert [part.shape for part in asked] == 4 * [(1, P)]
    asked.clear()
    parts = torch.cat(on_ranks(4, lambda world: mixed(world, exchanged_bytes)))
    assert len(asked) == 4 * -(-P // max(1, exchanged_bytes // 8))
    assert torch.equal(parts, whole)
    torch.testing.assert_close(whole, torch.tensor(W) @ X[:4], rtol=0, atol=1e-13)
