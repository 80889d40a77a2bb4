"""What all image tasks have in common: the model, its norm, labels and augmentation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, cast

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.samples import Samples
from hpc_localsgd.tasks.vision.models import model_maker
from hpc_localsgd.tasks.vision.norms import Norm

SMOKE_TEST = 4  # test images of a trial, and distinct ones


@dataclass(frozen=True)
class ImageTask(TaskSpec):
    """An image classification task.

    Attributes:
        model: resnet20, resnet8_32 (of width 32), wide_resnet28_10, cifar_vgg16, cnn32, mlp512 and
            similar ones for small images, or any classification model of torchvision: resnet50,
            vgg16_bn, densenet121, vit_b_16, ...
        norm: What is used as the model's norm: batch (BatchNorm), group (GroupNorm), ghost
            (BatchNorm over ghost batches). A perceptron (mlp512) has none.
        groups: Of GroupNorm.
        ghost: Samples in a ghost batch.
        augment: Whether training images are varied at random.
        label_smoothing: Of the training loss.
        label_noise: Probability that a training label is replaced by another class, fresh at every
            step.
        mixup: Alpha of the Beta distribution by which pairs of training images are blended; 0 for
            none.
    """

    model: str = "resnet20"
    norm: Norm = "batch"
    groups: int = 8
    ghost: int = 32
    augment: bool = True
    label_smoothing: float = 0.0
    label_noise: float = 0.0
    mixup: float = 0.0

    def undisturbed(self) -> TaskSpec:
        """Return the undisturbed task, see `TaskSpec.undisturbed`."""
        return replace(self, augment=False, label_noise=0.0, mixup=0.0)

    def smoke(self) -> TaskSpec:
        """Return the same model on synthetic images, of which few are for testing."""
        whole: Any = self.published()
        return cast(TaskSpec, replace(whole, test_samples=SMOKE_TEST, distinct=SMOKE_TEST))

    @abstractmethod
    def published(self) -> TaskSpec:
        """Return the same model on synthetic images, as many and as large as the real ones."""

    def classification(
        self, samples: Samples, size: int, context: TaskContext, channels: int = 3
    ) -> Classification:
        """Return the task of this model on samples of size x size pixels.

        Raises:
            ConfigurationError: The model does not exist, or does not fit the images.
        """
        if self.label_noise and samples.classes < 2:
            raise ConfigurationError("--task.label-noise needs two classes at least")
        make = model_maker(
            self.model, samples.classes, size, self.norm, self.groups, self.ghost, channels
        )
        return Classification(
            make,
            samples,
            context,
            label_smoothing=self.label_smoothing,
            label_noise=self.label_noise,
            mixup=self.mixup,
        )
