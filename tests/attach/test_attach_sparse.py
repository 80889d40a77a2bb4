"""Sparse gradients, as nn.Embedding(sparse=True) makes them and SparseAdam asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import everyone_equal
from rank_threads import ThreadWorld, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import AllReduce, GradientTracking, LocalSGD, every, post_local
from hpc_localsgd.attach.checks import check_sparse
from hpc_localsgd.compressors import Sign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

ROWS = 12


def embedding() -> nn.Embedding:
    weight = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)


def loss_of(model: nn.Module, rank: int, t: int) -> torch.Tensor:
    """Some rows on each rank, others at each step; none at all on rank 1 at some steps."""
    draws = torch.Generator().manual_seed(10 * t + rank)
    x = model(torch.randint(0, ROWS, (0 if rank and t % 3 == 0 else 4,), generator=draws))
    return (x.pow(2).sum() + x.sum()) / 4


def needs_no_backward(rank: int, t: int) -> bool:
    return bool(rank) and t % 3 == 0


@pytest.mark.parametrize("bucket_bytes", [1, 8 * 2**20])
@pytest.mark.parametrize("schedule", [every(1), post_local(switch=4, every=2)], ids=str)
@pytest.mark.parametrize("algorithm", [LocalSGD(), AllReduce()], ids=str)
def test_sparse_gradients_are_averaged_and_stay_sparse(
    algorithm: Any, schedule: Any, bucket_bytes: int
) -> None:
    """Four steps as SparseAdam takes them with the average of the ranks' gradients."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model = nn.ModuleList([embedding(), embedding()])
        optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(
            model,
            optimizer,
            algorithm=algorithm,
            schedule=schedule,
            world=world,
            bucket_bytes=bucket_bytes,
        )
        for t in range(4):
            optimizer.zero_grad()
            if not needs_no_backward(world.rank, t):
                (loss_of(model[0], world.rank, t) + loss_of(model[1], world.rank, t)).backward()
            optimizer.step()
            sync.step()
        sync.finish()
        return model[0].weight.detach().clone()

    plain = embedding()
    optimizer = torch.optim.SparseAdam(plain.parameters(), lr=0.1)
    for t in range(4):
        optimizer.zero_grad()
        (sum(loss_of(plain, rank, t) for rank in range(2)) / 2).backward()
        optimizer.step()
    torch.testing.assert_close(everyone_equal(on_ranks(2, work)), plain.weight.detach())


@pytest.mark.parametrize("algorithm", [GradientTracking(), AllReduce(compressor=Sign())], ids=str)
def test_algorithms_that_make_dense_gradients_are_refused(algorithm: Any) -> None:
    model = embedding()
    with pytest.raises(ConfigurationError, match="SparseAdam takes sparse gradients only"):
        hpc_localsgd.attach(
            model,
            torch.optim.SparseAdam(model.parameters()),
            algorithm=algorithm,
            schedule=every(1),
        )
    check_sparse(algorithm, torch.optim.SGD(model.parameters(), lr=0.1), Simulated(1), [])


def test_a_gradient_that_is_dense_on_one_rank_is_dense_on_all() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = embedding()
        model.sparse = world.rank == 0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(1), world=world)
        loss_of(model, world.rank, 1).backward()
        assert not model.weight.grad.is_sparse
        optimizer.step()
        sync.step()
        return model.weight.detach().clone()

    everyone_equal(on_ranks(2, work))
