"""What all ranks must have alike is compared and sent in parts, to fit beside the model."""

from __future__ import annotations

import pytest
import torch
from loops import attached
from rank_threads import ThreadWorld, errors_on_ranks

from hpc_localsgd.attach import same


def test_parts_are_bounded_and_hold_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same, "PART_BYTES", 64)
    tensors = [torch.arange(5.0) + 10 * i for i in range(6)] + [torch.arange(40.0), torch.empty(0)]
    parts = list(same._parts(tensors, None))
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
