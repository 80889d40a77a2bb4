"""Two optimisers, accumulation, clipping, an EMA and ReduceLROnPlateau, with local steps.

    torchrun --nproc-per-node 2 examples/whole_loop.py
    python examples/whole_loop.py                         # one worker, to try it out

What is easily done wrong with local steps is said where it is done.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import hpc_localsgd
from hpc_localsgd import post_local

STEPS, MICRO, DECAY = 240, 4, 0.98  # micro-batches of a step; decay of the EMA at a step


def main() -> None:
    """Train a trunk and a head, each with an optimiser of its own."""
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    draw = torch.Generator().manual_seed(rank)  # batches of its own for each rank

    torch.manual_seed(0)
    trunk, head = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 10)
    model = nn.Sequential(trunk, head)
    sgd = torch.optim.SGD(trunk.parameters(), lr=0.1, momentum=0.9)
    adamw = torch.optim.AdamW(head.parameters(), lr=2e-3)
    # One attach for each optimiser, with one schedule: their rounds end together.
    schedule = post_local(switch="50%", every=8)
    of_trunk = hpc_localsgd.attach(trunk, sgd, schedule=schedule, steps=STEPS)
    of_head = hpc_localsgd.attach(head, adamw, schedule=schedule, steps=STEPS)
    plateaus = [ReduceLROnPlateau(each, factor=0.5, patience=2) for each in (sgd, adamw)]
    ema, updated = copy.deepcopy(model), 0

    for t in range(1, STEPS + 1):
        for micro in range(MICRO):
            chosen = torch.randint(1500, (8,), generator=draw)
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen]) / MICRO
            if micro < MICRO - 1:  # gradients are averaged once, with the last micro-batch
                with of_trunk.no_sync(), of_head.no_sync():
                    loss.backward()
            else:
                loss.backward()
        # In rounds of one step this clips the average, in longer ones each worker's own gradient.
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (sgd, adamw):
            optimizer.step()
            optimizer.zero_grad()
        ended = of_trunk.step()
        of_head.step()
        if ended:  # where all ranks hold the same model; H steps at once
            follow(ema, model, DECAY ** (t - updated))
            updated = t
        if t % 20 == 0:
            # The mean model, and one number for all ranks: rates that differ would never heal.
            with of_trunk.averaged(), of_head.averaged():
                validation = mean_over_ranks(
                    loss_of(model, x[1500:][rank::ranks], y[1500:][rank::ranks])
                )
            for plateau in plateaus:
                plateau.step(validation)
    if rank == 0:
        correct = (ema(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
        print(f"test accuracy of the EMA: {correct:.3f}")
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def follow(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the EMA: ema <- decay ema + (1 - decay) model."""
    for of_ema, of_model in zip(ema.parameters(), model.parameters(), strict=True):
        of_ema.lerp_(of_model, 1 - decay)


@torch.no_grad()
def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean loss."""
    return nn.functional.cross_entropy(model(x), y)


def mean_over_ranks(value: torch.Tensor) -> float:
    """Return the mean over ranks, the same number on all."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.item()


if __name__ == "__main__":
    main()
