"""Local steps in a Hugging Face Trainer, by a callback.

    pip install transformers accelerate
    torchrun --nproc-per-node 2 examples/trainers/hugging_face.py
    python examples/trainers/hugging_face.py              # one worker, to try it out

The trainer wraps the model in DistributedDataParallel, which would average gradients at every step:
the callback lets it do nothing. Evaluations and saved models are of the mean model.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import hpc_localsgd
from hpc_localsgd import post_local
from hpc_localsgd.schedules.base import Schedule


class LocalSteps(TrainerCallback):
    """Rounds of local steps: `trainer.add_callback(LocalSteps(trainer, schedule))`."""

    def __init__(self, trainer: Trainer, schedule: Schedule) -> None:
        """Keep them; the optimizer is made when training begins."""
        self.trainer, self.schedule = trainer, schedule
        self.mean = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        """Attach model and optimizer, as they are inside their wrappers."""
        wrapped = self.trainer.model_wrapped
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.require_backward_grad_sync = False
        optimizer = getattr(of["optimizer"], "optimizer", of["optimizer"])
        self.sync = hpc_localsgd.attach(
            of["model"], optimizer, schedule=self.schedule, steps=state.max_steps
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        """Count the step; show the mean model to an evaluation or save that follows."""
        self.sync.step()
        if control.should_evaluate or control.should_save:
            self.mean.enter_context(self.sync.averaged())

    def on_step_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        """Give every worker its own parameters back."""
        self.mean.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        """Leave the mean model on every rank."""
        self.mean.close()
        self.sync.finish()


class Digits(Dataset):
    """Handwritten digits as the trainer wants them."""

    def __init__(self, first: int, last: int) -> None:
        """Take some of the 1797 images."""
        images, labels = load_digits(return_X_y=True)
        self.x = torch.tensor(images[first:last] / 16, dtype=torch.float32)
        self.y = torch.tensor(labels[first:last])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[i], "labels": self.y[i]}


class Perceptron(nn.Module):
    """A model that returns its loss, as those of transformers do."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss, and the logits."""
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main() -> None:
    """Train, and look at the mean model."""
    arguments = TrainingArguments(
        output_dir="runs/hugging_face",
        num_train_epochs=6,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        Perceptron(), arguments, train_dataset=Digits(0, 1500), eval_dataset=Digits(1500, 1797)
    )
    callback = LocalSteps(trainer, post_local(switch="50%", every=8))
    trainer.add_callback(callback)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        print(f"test loss of the mean model: {loss:.3f}, {callback.sync.ledger.rounds} exchanges")


if __name__ == "__main__":
    main()
