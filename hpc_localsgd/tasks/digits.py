"""scikit-learn's handwritten digits: 1797 real 8x8 images, bundled, no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from torch import nn

from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.digit_images import load, stratified

SIDE = 8  # pixels of an image, each way


@dataclass(frozen=True)
class digits(TaskSpec):
    """Ten handwritten digits, 8x8 pixels (Alpaydin & Kaynak, UCI, 1998), from scikit-learn.

    Attributes:
        model: "mlp" (64-hidden-10, ReLU), "tanh" (the same with tanh), "deep" (64-hidden-hidden-10,
            ReLU), "conv" (two 3x3 convolutions, 16 and 32 channels), or "linear" (64-10, logistic
            regression: a convex loss).
        norm: Of the convolutional net: "group", "batch" or "none". BatchNorm's running statistics
            are the classic trap of Local SGD; see `--batchnorm`.
        hidden: Width of a hidden layer; "linear" has none.
        test_fraction: Share of the images kept for testing, stratified by digit.
        split_seed: Chooses the test images, independently of the run's seed.
        label_smoothing: Of the training loss.
        label_noise: Probability that a training label is replaced by another digit, fresh at every
            step: what makes local steps move to flatter minima (Gu et al. 2023).
    """

    target: ClassVar[float | None] = 0.95

    model: Literal["mlp", "tanh", "deep", "conv", "linear"] = "mlp"
    norm: Literal["group", "batch", "none"] = "group"
    hidden: int = 128
    test_fraction: float = 0.2
    split_seed: int = 0
    label_smoothing: float = 0.0
    label_noise: float = 0.0

    def undisturbed(self) -> TaskSpec:
        """Return the undisturbed task, see `TaskSpec.undisturbed`."""
        return replace(self, label_noise=0.0)

    def build(self, context: TaskContext) -> Classification:
        """Load and standardise the images, and make the task of this process's workers."""
        make: dict[str, Callable[[], nn.Module]] = {
            "mlp": lambda: mlp(self.hidden),
            "tanh": lambda: mlp(self.hidden, activation=nn.Tanh),
            "deep": lambda: mlp(self.hidden, self.hidden),
            "conv": lambda: conv(self.norm, self.hidden),
            "linear": mlp,
        }
        return Classification(
            make[self.model],
            self.splits(),
            context,
            label_smoothing=self.label_smoothing,
            label_noise=self.label_noise,
        )

    def splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return standardised images [N, 1, 8, 8] and labels [N] of "train" and "test"."""
        images, labels = load()
        images = images.reshape(-1, 1, SIDE, SIDE)
        of_train, of_test = stratified(labels, self.test_fraction, self.split_seed)
        train, test = images[of_train], images[of_test]
        mean, std = train.mean(), train.std()
        return {
            "train": ((train - mean) / std, labels[of_train]),
            "test": ((test - mean) / std, labels[of_test]),
        }


def mlp(*hidden: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Return a perceptron 64 - hidden - ... - 10, with `activation` behind each hidden layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip((64, *hidden), hidden, strict=False):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers, nn.Linear((64, *hidden)[-1], 10))


def conv(norm: str, hidden: int) -> nn.Module:
    """Return two 3x3 convolutions with a norm each, one pooling, one hidden layer."""
    return nn.Sequential(
        *_block(1, 16, norm),
        *_block(16, 32, norm),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


def _block(inputs: int, outputs: int, norm: str) -> list[nn.Module]:
    norms: dict[str, Callable[[], nn.Module]] = {
        "group": lambda: nn.GroupNorm(4, outputs),
        "batch": lambda: nn.BatchNorm2d(outputs),
        "none": nn.Identity,
    }
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
    return [convolution, norms[norm](), nn.ReLU()]
