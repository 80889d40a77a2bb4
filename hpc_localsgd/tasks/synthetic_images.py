"""Images made of random numbers, of any size and number of classes: benchmarks without files."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.vision.image_task import ImageTask
from hpc_localsgd.tasks.vision.in_memory import Images8, InMemory


@dataclass(frozen=True)
class synthetic_images(ImageTask):
    """Noise added to one random picture a class: easy to learn, and as costly as real images.

    Attributes:
        size: Height and width in pixels.
        classes: Number of classes.
        samples: Training images.
        test_samples: Test images.
        distinct: Images kept in memory, which are repeated; the same for all seeds.
        channels: 3 for colours, 1 for grey.
    """

    size: int = 32
    classes: int = 10
    samples: int = 50_000
    test_samples: int = 10_000
    distinct: int = 512
    channels: int = 3

    def build(self, context: TaskContext) -> Classification:
        """Draw the images, and make the task of this process's workers.

        Raises:
            ConfigurationError: A number that must be positive is not, or the model does not fit.
        """
        for name in ("size", "classes", "samples", "test_samples", "distinct", "channels"):
            if getattr(self, name) < 1:
                option = "--task." + name.replace("_", "-")
                raise ConfigurationError(f"{option} must be at least 1, got {getattr(self, name)}")
        nominal = {"train": self.samples, "test": self.test_samples}
        samples = InMemory(
            {name: self._drawn(i, nominal[name]) for i, name in enumerate(nominal)},
            self.classes,
            context,
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
            pad=min(4, self.size // 8) if self.augment else None,
            repeated=nominal,
        )
        return self.classification(samples, self.size, context, self.channels)

    def published(self) -> synthetic_images:
        """Return itself: no files are needed."""
        return self

    def _drawn(self, split: int, nominal: int) -> Images8:
        """Draw at most `distinct` images and their labels, in turn through the classes."""
        n, shape = min(self.distinct, nominal), (self.channels, self.size, self.size)
        labels = np.arange(n) % self.classes
        pictures = np.stack(
            [
                np.random.default_rng(c).integers(0, 128, shape, dtype=np.uint8)
                for c in range(min(n, self.classes))
            ]
        )
        noise = np.random.default_rng([split, n]).integers(0, 128, (n, *shape), dtype=np.uint8)
        return pictures[labels] + noise, labels


def like(
    task: ImageTask, size: int, classes: int, samples: int, channels: int = 3
) -> synthetic_images:
    """Return a task of the same model, norm and labels on synthetic images.

    Args:
        task: Whose model and labels.
        size: Height and width in pixels.
        classes: Number of classes.
        samples: Training images.
        channels: 3 for colours, 1 for grey.
    """
    shared = {field.name: getattr(task, field.name) for field in fields(ImageTask)}
    return synthetic_images(
        **shared, size=size, classes=classes, samples=samples, channels=channels
    )
