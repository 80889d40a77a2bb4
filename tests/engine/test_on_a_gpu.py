"""The same runs on a GPU as on the processor; `make gpu` runs these, and measures besides."""

from __future__ import annotations

import pytest
import torch
from small_runs import go, small_run
from torch import nn

import hpc_localsgd
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.worlds.simulated import Simulated

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: `make gpu`"),
]
DEVICE = "cuda"


@pytest.mark.parametrize("algorithm", [LocalSGD(), SlowMo(), DiLoCo(), Gossip()], ids=repr)
def test_a_run_ends_as_on_the_processor(algorithm: Algorithm) -> None:
    ends = []
    for device in ("cpu", DEVICE):
        run = small_run(world=Simulated(4, device), algorithm=algorithm, H=3, steps=12)
        p, memory = go(run)
        ends.append((p.x.cpu(), sum(row["payload_bytes"].sum() for row in memory.rounds)))
    (x, sent), (other, sent_there) = ends
    torch.testing.assert_close(other, x, rtol=1e-9, atol=1e-11)
    assert sent_there == sent > 0


def test_attach_changes_no_bit_between_two_syncs() -> None:
    ends = []
    for attached in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        sync = None
        if attached:
            world = Simulated(1, DEVICE)
            sync = hpc_localsgd.attach(model, optimizer, schedule="every", world=world)
        inputs = torch.randn(6, 32, 8, device=DEVICE)
        for x in inputs:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if sync is not None:
                sync.step()
        ends.append([p.detach().clone() for p in model.parameters()])
        if sync is not None:
            sync.detach()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
