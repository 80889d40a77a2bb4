"""How the numbers of a step are computed: precision, micro-batches, memory layout, compilation.

None of it changes what is computed, only how fast, how exactly and in how much memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from hpc_localsgd.errors import ConfigurationError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """Settings of the computation of losses and gradients. The parameters stay in the run's dtype.

    Attributes:
        precision: Of convolutions and matrix products, by `torch.autocast`; what needs more
            (norms, losses) is kept in float32. fp16 scales each worker's loss, see `LossScale`.
        accumulate: Micro-batches a worker's batch is cut into. The gradient is their mean: that of
            the whole batch for models without BatchNorm, with the activations of one micro-batch.
        channels_last: Images in NHWC order, which tensor cores want. The flat vector of parameters
            keeps its order; filters are rearranged on the fly.
        compile: `torch.compile` the model for training, where workers are looped over. Evaluations
            and the vmapped form are not compiled.
        replicas: Several workers of one process in one batched program (vmap) or one after another
            (loop). auto: on a GPU whichever is faster on the first batch, remembered in
            checkpoints; on a CPU, where runs repeat bitwise, by a rule: vmap without convolutions.
            A model that draws random numbers (dropout) is looped over, so that a worker draws the
            same ones on whatever rank it lives; with vmap they depend on the workers beside it.
    """

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    replicas: Literal["auto", "vmap", "loop"] = "auto"

    def check(self, batch: int, dtype: torch.dtype) -> None:
        """Check that a worker's batch can be computed this way.

        Raises:
            ConfigurationError: It cannot be cut, or the parameters are not in float32.
        """
        if self.accumulate < 1 or batch % self.accumulate:
            divisors = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise ConfigurationError(
                f"--accumulate {self.accumulate}: the {batch} samples of a worker and step cannot "
                f"be cut into so many equal micro-batches: give one of {divisors}"
            )
        if self.precision != "float32" and dtype != torch.float32:
            raise ConfigurationError(
                f"--precision {self.precision} is for parameters in float32: leave --dtype out"
            )

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, HALF[self.precision])

    def arranged(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs [B, ...] in the memory layout asked for."""
        if self.channels_last and inputs.ndim == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs


class LossScale:
    """A factor on each worker's loss that keeps small gradients alive in fp16.

    Source: Micikevicius et al. 2018, with the numbers of `torch.amp.GradScaler`: halved when a
    gradient overflows, doubled after 2000 steps without. Differs from it: a worker whose gradient
    overflowed takes its step with gradient zero instead of none, so that all workers keep in step
    and the device need not be asked. And it is never below 1, as in DeepSpeed: a gradient that is
    not finite without a factor was not caused by it, and is left as it is, so that the run detects
    it; a factor that kept falling to 0 would hide it, and small gradients too.

    Attributes:
        factor: [R].
        good: [R], steps since the factor was changed.
    """

    FIRST, LEAST, EVERY = 2.0**16, 1.0, 2000

    def __init__(self, R: int, device: torch.device) -> None:
        self.factor = torch.full((R,), self.FIRST, device=device)
        self.good = torch.zeros(R, device=device)

    def unscale(self, g: torch.Tensor) -> None:
        """Divide the gradients g [R, P] by the factors, in place, and adapt the factors."""
        finite = g.sum(1).isfinite()
        overflow = ~finite & (self.factor > self.LEAST)
        g.div_(self.factor[:, None]).masked_fill_(overflow[:, None], 0.0)
        good = torch.where(finite, self.good + 1, 0.0)
        grown = good >= self.EVERY
        halved = (self.factor / 2).clamp_(min=self.LEAST)
        factor = torch.where(finite, self.factor, halved)
        self.factor.copy_(torch.where(grown, factor * 2, factor))
        self.good.copy_(torch.where(grown, 0.0, good))


def check_compiler(device: torch.device) -> None:
    """Check that `torch.compile` works on this machine, tried on one line.

    Raises:
        ConfigurationError: It does not; the text says why.
    """
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(2, device=device))
    except Exception as error:  # a missing compiler shows in many ways
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigurationError(
            f"--compile: torch.compile does not work here ({why[0][:200]}); on a CPU it needs a "
            "C++ compiler, on a GPU triton; or leave --compile out"
        ) from error
