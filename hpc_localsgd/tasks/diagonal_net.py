"""A regression with a sparse answer, where the flat minimisers are the ones that generalise.

    f(x) = sum_j (u_j^2 - v_j^2) x_j        L = mean (f(x) - y)^2 / 2

There are fewer samples than coordinates, so that a manifold of parameters fits all of them, and on
it tr H = 4 sum_j mean(x_j^2) (u_j^2 + v_j^2): flat minimisers are sparse. Fresh label noise drives
every method there; Local SGD with long rounds up to K times as fast as SGD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Batch, TaskContext, TaskSpec
from hpc_localsgd.tasks.formula import Formula

if TYPE_CHECKING:
    from hpc_localsgd.types import Vector

_DATA = 7  # a stream of its own for the samples, beside that of the batches


@dataclass(frozen=True)
class diagonal_net(TaskSpec):
    """The diagonal linear net w = u^2 - v^2 on samples of a sparse linear function.

    Inputs are normal, labels those of a w* with `sparse` coordinates of 1. Samples are drawn with
    replacement, whatever `sampling` says, and a label is then moved by +-noise. The seed of the run
    chooses the samples. The test loss is that of a fresh sample without noise, |w - w*|^2 / 2.

    Source: Woodworth et al., Kernel and rich regimes, COLT 2020 (the net); HaoChen et al., Shape
    matters, COLT 2021 (with label noise).

    Attributes:
        dim: Coordinates d; P is 2 d.
        samples: n.
        sparse: Coordinates of w* that are not 0.
        noise: Size of the label noise.
        start: Size of u and of v at the beginning, in every coordinate.
    """

    dim: int = 60
    samples: int = 24
    sparse: int = 3
    noise: float = 1.0
    start: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sparse <= self.dim or self.samples < 1 or self.noise < 0:
            raise ConfigurationError(
                f"{self}: samples are positive, sparse from 1 to dim, and noise not negative"
            )

    def undisturbed(self) -> diagonal_net:
        """Return the regression without label noise."""
        return replace(self, noise=0.0)

    def build(self, context: TaskContext) -> DiagonalNet:
        """Draw the samples, and return the nets of this process's workers."""
        return DiagonalNet(self, context)


class DiagonalNet(Formula):
    """The nets of R workers.

    Attributes:
        inputs: [n, d].
        answer: w*, [d].
    """

    def __init__(self, spec: diagonal_net, context: TaskContext) -> None:
        """Draw the samples by the seed of the run."""
        super().__init__(2 * spec.dim, spec.samples, context)
        self.spec = spec
        drawn = np.random.default_rng([_DATA, context.seed]).standard_normal
        self.inputs = torch.from_numpy(drawn((spec.samples, spec.dim))).to(self.x)
        self.answer = (torch.arange(spec.dim) < spec.sparse).to(self.x)

    def draw(self, stream: np.random.Generator, batch: int) -> np.ndarray:
        """Return samples and the noise of their labels, [B, 2]."""
        which = stream.integers(self.spec.samples, size=batch)
        return np.stack([which, self.spec.noise * stream.choice([-1.0, 1.0], size=batch)], axis=1)

    def undisturbed(self, worker: int, t: int) -> Batch:
        """Return a worker's samples without the noise of their labels."""
        numbers, workers = self.batch([worker], t)
        return numbers[0] * numbers.new_tensor([1.0, 0.0]), workers[0]

    def losses(self, x: torch.Tensor, numbers: torch.Tensor, workers: torch.Tensor) -> torch.Tensor:
        """Return the mean of (f - y - noise)^2 / 2 over a batch."""
        del workers
        which, noise = numbers.unbind(-1)
        error = (self.inputs[which.long()] * self.off(x)[..., None, :]).sum(-1) - noise
        return 0.5 * error.square().mean(-1)

    def off(self, x: torch.Tensor) -> torch.Tensor:
        """Return w - w* [..., d] of parameters [..., P]."""
        u, v = x.chunk(2, -1)
        return u.square() - v.square() - self.answer

    def risk(self, x: Vector) -> torch.Tensor:
        """Return the loss on the n samples, without noise."""
        return 0.5 * (self.inputs @ self.off(x)).square().mean()

    @torch.no_grad()
    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Return the loss on the samples, or for "test" that of a fresh one, for each row."""
        found = super().evaluate(x, split, rows, buffers)
        if split == "test":
            found[0] = 0.5 * float(self.off(x).square().sum()) * len(rows)
        return found

    def start(self, stream: np.random.Generator) -> np.ndarray:
        """Return u and v of equal sizes, so w = 0; their signs are drawn, and do not matter."""
        return self.spec.start * stream.choice([-1.0, 1.0], size=self.dim)
