"""Post-local SGD under torchrun, on real handwritten digits.

torchrun --nproc-per-node 2 examples/torchrun.py
python examples/torchrun.py                           # one worker, to try it out
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import hpc_localsgd
from hpc_localsgd import post_local

EPOCHS = 8


def main() -> None:
    """Train, and look at the mean model."""
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    sampler = DistributedSampler(TensorDataset(x[:1500], y[:1500]), ranks, rank, drop_last=True)
    loader = DataLoader(sampler.dataset, batch_size=32, sampler=sampler, drop_last=True)

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = EPOCHS * len(loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    sync = hpc_localsgd.attach(model, optimizer, schedule=post_local("50%", every=8), steps=steps)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
            sync.step()  # the last of `steps` makes all ranks hold the mean model
    if rank == 0:
        correct = (model(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
        print(f"test accuracy of the mean model: {correct:.3f}, {sync.ledger.rounds} exchanges")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
