"""What all ranks must have alike is compared and sent in parts, to fit beside the model."""

from __future__ import annotations

import pytest
import torch
from loops import attached
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks

import hpc_localsgd
from hpc_localsgd import every
from hpc_localsgd.attach import checksum as checksums
from hpc_localsgd.attach import other_tensors
from hpc_localsgd.attach.checksum import checksum
from hpc_localsgd.attach.shards import ShardGroup


def test_parts_are_bounded_and_hold_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_tensors, "PART_BYTES", 64)
    tensors = [torch.arange(5.0) + 10 * i for i in range(6)] + [torch.arange(40.0), torch.empty(0)]
    parts = list(other_tensors._parts(tensors, None))
    nbytes = [sum(4 * piece.numel() for piece in part) for part in parts]
    assert max(nbytes) <= 64 and len(parts) <= 2 * sum(nbytes) // 64 + 1
    together = torch.cat([piece for part in parts for piece in part])
    assert torch.equal(together, torch.cat(tensors))


@pytest.mark.parametrize("option", ["broadcast", "broadcast_optimizer"])
def test_ranks_that_would_wait_for_another_broadcast_are_refused(option: str) -> None:
    def work(world: ThreadWorld) -> None:
        attached(world=world, **{option: world.rank == 0})

    said = errors_on_ranks(2, work)
    assert all("ConfigurationError" in line and option in line for line in said), said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(10), torch.arange(10).flip(0)),
        (torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])),
        (torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])),
        (torch.tensor([True, False]), torch.tensor([False, True])),
        (torch.tensor([2.0, -3.0]).double(), torch.tensor([-2.0, 3.0]).double()),
        (torch.zeros(4), torch.zeros(5)),
    ],
    ids=str,
)
def test_a_checksum_knows_where_each_number_is(one: torch.Tensor, other: torch.Tensor) -> None:
    assert checksum(one) == checksum(one.clone()) != checksum(other)


def test_a_checksum_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50)
    whole = checksum(x)
    monkeypatch.setattr(checksums, "MIXED", 7)
    assert checksum(x) == whole
    flips = [x.view(torch.int32) ^ (1 << bit) for bit in range(31)]  # of all numbers, the same bit
    assert len({whole, *(checksum(flip) for flip in flips)}) == 32


def test_masks_with_as_many_ones_are_not_taken_for_equal() -> None:
    """`finish()` leaves rank 0's integers everywhere, if it sees that they differ."""

    def work(world: ThreadWorld) -> list[int]:
        model = torch.nn.Linear(3, 1)
        model.register_buffer("mask", torch.zeros(3, dtype=torch.long))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world)
        model.mask[world.rank] = 1
        sync.finish()
        return [int(x) for x in model.mask]

    assert on_ranks(2, work) == [[1, 0, 0]] * 2


def test_the_fingerprint_of_shards_knows_which_is_which() -> None:
    """Two layers of one shape whose values are each other's are another model."""
    layers = [torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)]
    owners = tuple((layer, "weight") for layer in layers)
    weights = tuple(layer.weight for layer in layers)
    group = ShardGroup(("a", "b"), weights, owners, 1)
    before = group.fingerprint()
    with torch.no_grad():
        first = weights[0].clone()
        weights[0].copy_(weights[1])
        weights[1].copy_(first)
    assert group.fingerprint() != before
