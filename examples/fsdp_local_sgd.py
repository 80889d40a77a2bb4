"""Local steps across, shards inside: two workers of two ranks, which share a model by fully_shard.

    torchrun --nproc-per-node 4 examples/fsdp_local_sgd.py

A worker's two ranks each hold half of the model (torch's FSDP2 gathers it layer by layer and
averages their gradients); every 8 steps each rank averages its half with the rank that holds the
same half of the other worker. The run is broken off in the middle of a round, and goes on from its
checkpoint; the same run with whole models, on two ranks, ends with the same numbers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import hpc_localsgd
from hpc_localsgd import every
from hpc_localsgd.attach import Sync
from hpc_localsgd.worlds.torch import Torch

BATCH = 32  # images of a worker at a step, which its ranks share


def make_model(mesh: DeviceMesh | None, device: str) -> nn.Sequential:
    """Make a perceptron of a hidden layer of 128, sharded where there is a mesh of shards."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = model.to(device, torch.float64)  # so that both runs can be compared to the last digits
    if mesh is not None:
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


class Training:
    """A model that is trained in rounds of 8 steps: by all ranks in shards, or whole by two."""

    def __init__(self, mesh: DeviceMesh, in_shards: bool) -> None:
        """Build model and optimizer, and attach."""
        device = mesh.device_type
        self.worker, self.workers = mesh["replicate"].get_local_rank(), mesh.size(0)
        self.model = make_model(mesh["shard"] if in_shards else None, device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        shards, self.place = (mesh.size(1), mesh["shard"].get_local_rank()) if in_shards else (1, 0)
        self.images = BATCH // shards  # of this rank
        # The line that differs from an unsharded script: which ranks repeat the model.
        where: dict[str, Any] = {"mesh": mesh["replicate"]}
        if not in_shards:
            where = {"world": Torch(device=device, group=mesh["replicate"].get_group())}
        self.sync: Sync = hpc_localsgd.attach(
            self.model, self.optimizer, schedule=every(8), **where
        )

    def batch(self, x: torch.Tensor, y: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this rank's part of its worker's images at a step."""
        mine = torch.arange(self.worker, 1500, self.workers)
        order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(t))
        begin = self.place * self.images
        chosen = mine[order[begin : begin + self.images]]
        return x[chosen], y[chosen]

    def train(self, x: torch.Tensor, y: torch.Tensor, steps: range) -> None:
        """Take steps."""
        for t in steps:
            inputs, labels = self.batch(x, y, t)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # of the whole model
            self.optimizer.step()
            self.sync.step()

    def save(self, folder: Path) -> None:
        """Save the shards of each worker under its own name, and each rank's place in the run."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        dcp.save(
            {f"worker-{self.worker}": {"model": model, "optimizer": optimizer}},
            checkpoint_id=folder,
        )
        torch.save(self.sync.state_dict(), folder / f"sync-{dist.get_rank()}.pt")

    def load(self, folder: Path) -> None:
        """Continue from there, with other objects."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        saved = {f"worker-{self.worker}": {"model": model, "optimizer": optimizer}}
        dcp.load(saved, checkpoint_id=folder)
        set_state_dict(
            self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer
        )
        place = torch.load(folder / f"sync-{dist.get_rank()}.pt", weights_only=True)
        self.sync.load_state_dict(place)

    def parameters(self) -> torch.Tensor:
        """Return the whole model, [P]."""
        parts = [getattr(p.detach(), "full_tensor", p.detach)() for p in self.model.parameters()]
        return torch.cat([part.reshape(-1) for part in parts])


def digits(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images, [1797, 64] and standardised, and their labels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float64, device=device)
    return (x - x.mean()) / x.std(), torch.tensor(labels, device=device)


@torch.no_grad()
def accuracy(training: Training, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of images that the mean model recognises; all ranks together."""
    with training.sync.averaged() as mean:
        return float((mean(x).argmax(1) == y).double().mean())


def main() -> None:
    """Train in shards with an interruption, and whole without one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (2, 2), mesh_dim_names=("replicate", "shard"))
    x, y = digits(device)
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)  # a folder that all ranks see

    broken_off = Training(mesh, in_shards=True)
    stopped = steps // 2 // 8 * 8 + 3  # in the middle of a round
    broken_off.train(x, y, range(stopped))
    broken_off.save(Path(folder[0]))
    broken_off.sync.detach()

    training = Training(mesh, in_shards=True)
    training.load(Path(folder[0]))
    training.train(x, y, range(stopped, steps))
    whole = Training(mesh, in_shards=False)
    whole.train(x, y, range(steps))

    recognised = [accuracy(each, x[1500:], y[1500:]) for each in (training, whole)]
    for each in (training, whole):
        each.sync.finish()
    apart = float((training.parameters() - whole.parameters()).abs().max())
    if dist.get_rank() == 0:
        sent = [broken_off.sync.ledger, training.sync.ledger]
        print(f"resumed after {stopped} steps, in the middle of a round")
        print(f"test accuracy: {recognised[0]:.3f} in shards, {recognised[1]:.3f} whole")
        print(f"largest difference of a parameter: {apart:.1e}")
        print(
            f"{sum(each.rounds for each in sent)} exchanges, a rank sent "
            f"{sum(each.payload_bytes for each in sent)} bytes of its shards "
            f"({whole.sync.ledger.payload_bytes} of whole models)"
        )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
