"""Local steps in a Lightning Trainer, by a callback.

    pip install lightning
    torchrun --nproc-per-node 2 examples/trainers/lightning_module.py
    python examples/trainers/lightning_module.py          # one worker, to try it out

`Replicas` is Lightning's own strategy of several ranks without DistributedDataParallel, which would
average gradients at every step. Validations are of the mean model.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hpc_localsgd
from hpc_localsgd import post_local
from hpc_localsgd.schedules.base import Schedule


class Replicas(DDPStrategy):
    """One model a rank, which nobody wraps."""

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


class LocalSteps(lightning.Callback):
    """Rounds of local steps, for a module with one optimizer."""

    def __init__(self, schedule: Schedule) -> None:
        """Keep the schedule; the optimizer is made when training begins."""
        self.schedule, self.steps, self.mean = schedule, 0, ExitStack()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the module and its optimizer."""
        (optimizer,) = trainer.optimizers
        self.sync = hpc_localsgd.attach(
            pl_module, optimizer, schedule=self.schedule, steps=trainer.estimated_stepping_batches
        )

    def on_train_batch_end(self, trainer: Any, *of: Any) -> None:
        """Count the step, if this batch ended one: it does not where gradients accumulate."""
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.sync.step()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the mean model, but not to the check before training."""
        if not trainer.sanity_checking:
            self.mean.enter_context(self.sync.averaged())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Give every worker its own parameters back."""
        self.mean.close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the mean model on every rank."""
        self.sync.finish()


class Perceptron(lightning.LightningModule):
    """A small classifier."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Any, i: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: Any, i: int) -> None:
        """Log the accuracy of the mean model."""
        correct = (self.layers(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", correct, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the local optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def digits(first: int, last: int) -> TensorDataset:
    """Return some of the 1797 handwritten digits."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[first:last] / 16, dtype=torch.float32)
    return TensorDataset(x, torch.tensor(labels[first:last]))


def main() -> None:
    """Train, and look at the mean model."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    callback = LocalSteps(post_local(switch="50%", every=8))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=Replicas() if ranks > 1 else "auto",
        max_epochs=6,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(digits(0, 1500), batch_size=16, shuffle=True, drop_last=True)
    trainer.fit(Perceptron(), train, DataLoader(digits(1500, 1797), batch_size=297))
    if trainer.is_global_zero:
        correct = float(trainer.callback_metrics["accuracy"])
        rounds = callback.sync.ledger.rounds
        print(f"test accuracy of the mean model: {correct:.3f}, {rounds} exchanges")


if __name__ == "__main__":
    main()
