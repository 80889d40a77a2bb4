"""Post-local SGD in a Horovod script of one's own, on real handwritten digits.

    horovodrun -np 2 python examples/attach_horovod.py

The first half of the run averages gradients at every step, the second half averages parameters
every 16 steps. What it was before, with hvd.DistributedOptimizer, is in docs/migrating.md.
"""

from __future__ import annotations

import argparse

import horovod.torch as hvd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import hpc_localsgd
from hpc_localsgd import post_local


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 1500 images to train on and 297 to test, standardised."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)
    x, y = (x - x.mean()) / x.std(), torch.tensor(labels)
    return TensorDataset(x[:1500], y[:1500]), TensorDataset(x[1500:], y[1500:])


def make_model() -> nn.Module:
    """Make a small convolutional net with BatchNorm."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Share of the images that are recognised."""
    x, y = data.tensors
    model.eval()
    correct = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return correct


def main() -> None:
    """Train, and look at the mean model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    hvd.init()
    torch.set_num_threads(1)
    torch.manual_seed(hvd.rank())
    train, test = digits()
    sampler = DistributedSampler(train, hvd.size(), hvd.rank(), drop_last=True)
    loader = DataLoader(train, batch_size=32, sampler=sampler, drop_last=True)

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    schedule = post_local(switch="50%", every=16)
    sync = hpc_localsgd.attach(model, optimizer, schedule=schedule, steps=steps)
    if hvd.rank() == 0:
        print(sync)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            sync.step()
    with sync.averaged(batches=loader) as mean:
        correct = accuracy(mean, test)
    if hvd.rank() == 0:
        sent = sync.ledger
        parallel = steps * 4 * sum(p.numel() for p in model.parameters())
        print(f"test accuracy of the mean model: {correct:.3f}")
        print(
            f"{sent.rounds} exchanges in {steps} steps, {sent.payload_bytes / 1e6:.1f} MB a worker "
            f"({parallel / 1e6:.1f} MB with gradients at every step), {sent.seconds:.2f} s"
        )


if __name__ == "__main__":
    main()
