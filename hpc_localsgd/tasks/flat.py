"""A torch module as a function of one flat vector, without copies.

The R workers of a process are R copies of the module whose parameters, gradients and
floating-point buffers are views into three matrices x [R, P], g [R, P] and buffers [R, Q]. Forward
and backward then work as in any torch program, and everything else sees flat vectors.

`Layout` says what lies where. Frozen parameters (`requires_grad` is False) are in none of it:
they are never sent, decayed or saved, and the R copies share them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.buckets import Begin
from hpc_localsgd.tasks.draws import Draws
from hpc_localsgd.tasks.execution import Execution, LossScale, check_compiler
from hpc_localsgd.tasks.gradient_parts import GradientParts
from hpc_localsgd.tasks.layout import Layout, bind
from hpc_localsgd.tasks.without_compiler import gradients_without_it

ALIGNED = 64  # numbers
SLOW_ON_CPU = (nn.modules.conv._ConvNd, nn.MultiheadAttention)  # by vmap

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits, targets -> mean []


class Replicas:
    """R copies of a module over flat storage, and their gradients, by a loop or by vmap.

    The loop is exact for every module. vmap runs all workers in one batched program: 4-7 times
    faster for 16 small MLPs, slower for LSTMs and, on a CPU, for convolutions and attention, and
    impossible with BatchNorm's running statistics; `Execution.replicas` chooses. A test holds both
    equal. A loss that has a method `in_vmap` for the same is called by that in vmap.

    Attributes:
        vmapped: Whether vmap is used; None until the first batch has shown which is faster.

    Raises:
        ConfigurationError: vmap is asked for, and the module has BatchNorm's running statistics.
    """

    def __init__(
        self,
        module: nn.Module,
        R: int,
        loss: LossFunction,
        device: torch.device,
        dtype: torch.dtype,
        vmapped: bool | None = None,
        execution: Execution | None = None,
        draws: Draws | None = None,
    ) -> None:
        module = module.to(device=device, dtype=dtype)
        self.layout = Layout.of(module)
        self.dim = sum(self.layout.sizes)
        self.criterion = loss
        self._criterion_in_vmap: LossFunction = getattr(loss, "in_vmap", loss)
        self.execution = execution or Execution()
        self.draws = draws or Draws(0, range(R), device)
        Q = sum(self.layout.buffer_sizes)
        rows = _aligned_rows if self.execution.compile else torch.empty
        self.x = rows(R, self.dim, device=device, dtype=dtype)
        self.g = torch.zeros_like(self.x)
        self.buffers = rows(R, Q, device=device, dtype=dtype)
        self.x[:] = self.layout.flatten(module)
        self.buffers[:] = self.layout.flatten_buffers(module).to(self.buffers)
        frozen = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.modules = [
            bind(
                copy.deepcopy(module, dict(frozen)),
                self.layout,
                self.x[r],
                self.buffers[r],
                self.g[r],
            )
            for r in range(R)
        ]
        self.scale = LossScale(R, device) if self.execution.precision == "fp16" else None
        self._run: Sequence[Callable[[torch.Tensor], torch.Tensor]] = self.modules
        if self.execution.compile:
            check_compiler(device)
            self._run = [torch.compile(module) for module in self.modules]
        worth = worth_vmapping(module, R, device)
        asked = self.execution.replicas if vmapped is None else "vmap" if vmapped else "loop"
        if asked == "vmap" and has_running_statistics(module):
            raise ConfigurationError(
                "--replicas vmap: BatchNorm's running statistics cannot be kept by vmap: leave it "
                "out, or take a model with another norm"
            )
        self._chosen = asked == "auto"
        self.vmapped = worth if self._chosen else asked == "vmap"
        self._parts: GradientParts | None = None

    def loss_and_grad(
        self, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses [R], gradients [R, P] (in `self.g`) of inputs and targets [R, B, ...]."""
        if self._chosen and self.vmapped is not False:
            self.vmapped = self._choose(inputs, targets)
        self._chosen = False
        losses = self._vmap(inputs, targets) if self.vmapped else self._loop(inputs, targets)
        if self.scale is not None:
            self.scale.unscale(self.g)
        return losses, self.g

    def loss_and_mean_grad(
        self, inputs: torch.Tensor, targets: torch.Tensor, begin: Begin
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same of one worker, the gradient averaged; see `Task.loss_and_mean_grad`."""
        if self.execution.accumulate > 1 or self.scale is not None:  # not final during backward
            losses, g = self.loss_and_grad(inputs, targets)
            begin(g).wait()
            return losses, g
        if self._parts is None:
            named = dict(self.modules[0].named_parameters())
            ordered = [named[name] for name in self.layout.names]
            self._parts = GradientParts(ordered, sum(p.ndim >= 2 for p in ordered), self.g)
        with self._parts.averaged(begin):
            return self.loss_and_grad(inputs, targets)

    def _choose(self, inputs: torch.Tensor, targets: torch.Tensor) -> bool:
        """Return whether vmap is possible and, where unknown, faster on this batch."""
        devices = [self.x.device] if self.x.is_cuda else []
        with torch.random.fork_rng(devices):  # dropout draws as if nothing had been tried
            before = self.draws.now()
            try:
                self._vmap(inputs, targets)
            except (RuntimeError, NotImplementedError, ValueError):
                return False  # a module that vmap cannot run goes through the loop
            if not all(map(torch.equal, before, self.draws.now())):
                return False  # in one program workers cannot draw from streams of their own
            if self.vmapped:
                return True
            self._loop(inputs, targets)
            return self._seconds(self._vmap, inputs, targets) < self._seconds(
                self._loop, inputs, targets
            )

    def _seconds(self, way: Callable[..., torch.Tensor], *batch: torch.Tensor) -> float:
        """Return the seconds of the faster of two calls."""
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            way(*batch)[0].item()  # waits for a GPU
            if self.x.is_cuda:
                torch.cuda.synchronize(self.x.device)
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    def _loop(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.g.zero_()
        losses = []
        with self.draws.apart():
            for r in range(len(self.modules)):
                with self.draws.of(r):
                    losses.append(self._one(r, inputs[r], targets[r]))
        return torch.stack(losses)

    def _one(self, r: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss [] of a worker; add its gradient to g[r], one micro-batch at a time."""
        n = self.execution.accumulate
        if n == 1 and self.scale is None:  # nothing else between the bare loop and ours
            inputs = self.execution.arranged(inputs)
            loss = self._loss(self._run[r], inputs, targets, self.criterion)
            loss.backward()
            return loss.detach()
        each = torch.full((), 1.0 / n, device=self.g.device, dtype=self.g.dtype)
        each = each if self.scale is None else each * self.scale.factor[r]
        total = torch.zeros_like(each)
        for batch, target in zip(inputs.chunk(n), targets.chunk(n), strict=True):
            batch = self.execution.arranged(batch)
            loss = self._loss(self._run[r], batch, target, self.criterion)
            loss.backward(each)
            total += loss.detach()
        return total / n

    def _vmap(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        gradients_without_it()
        gradient = vmap(grad_and_value(self._loss_of, has_aux=True), randomness="different")
        parts = self.x.split(self.layout.sizes, dim=1)
        shapes, names = self.layout.shapes, self.layout.names
        stacked = {n: p.reshape(-1, *s) for n, p, s in zip(names, parts, shapes, strict=True)}
        n = self.execution.accumulate
        factor = torch.ones_like(self.x[:, 0]) if self.scale is None else self.scale.factor
        total = torch.zeros_like(factor)
        for i, batch in enumerate(zip(inputs.chunk(n, 1), targets.chunk(n, 1), strict=True)):
            gradients, (_, losses) = gradient(stacked, *batch, factor / n)
            flat = [gradients[name].flatten(1) for name in names]
            if i == 0:
                torch.cat(flat, dim=1, out=self.g)
            else:
                self.g += torch.cat(flat, dim=1)
            total += losses.detach()
        return total / n

    def _loss_of(
        self,
        parameters: dict[str, torch.Tensor],
        inputs: torch.Tensor,
        targets: torch.Tensor,
        factor: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss [] times a factor, to be differentiated, and the loss itself."""

        def module(inputs: torch.Tensor) -> torch.Tensor:
            called: torch.Tensor = functional_call(self.modules[0], parameters, inputs)
            return called

        loss = self._loss(module, inputs, targets, self._criterion_in_vmap)
        return loss * factor, loss

    def _loss(
        self,
        module: Callable[[torch.Tensor], torch.Tensor],
        inputs: torch.Tensor,
        targets: torch.Tensor,
        criterion: LossFunction,
    ) -> torch.Tensor:
        with self.execution.autocast(self.x.device):
            logits = module(inputs)
        return criterion(logits.to(self.x.dtype), targets)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs beside parameters and buffers to be bitwise equal."""
        state = {} if self._chosen else {"vmapped": torch.tensor(bool(self.vmapped))}
        if self.scale is not None:
            state |= {"factor": self.scale.factor, "good": self.scale.good}
        return state | self.draws.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a saved state."""
        if "vmapped" in state:
            self.vmapped, self._chosen = bool(state["vmapped"]), False
        if self.scale is not None and "factor" in state:
            self.scale.factor.copy_(state["factor"])
            self.scale.good.copy_(state["good"])
        self.draws.load_state_dict(state)


def worth_vmapping(module: nn.Module, R: int, device: torch.device) -> bool | None:
    """Return whether R workers in one batched program are possible and faster; None: measure."""
    if R == 1 or has_running_statistics(module):
        return False
    kinds = list(module.modules())
    if any(isinstance(m, nn.RNNBase) for m in kinds):
        return False
    if device.type == "cuda":
        return None
    return not any(isinstance(m, SLOW_ON_CPU) for m in kinds)


def _aligned_rows(R: int, P: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Make an empty [R, P] with gaps between rows, which all begin at a multiple of 64 numbers.

    torch.compile makes one program for all replicas, by how the first of them is aligned.
    """
    pitch = -(-P // ALIGNED) * ALIGNED if R > 1 else P
    return torch.empty(R, pitch, device=device, dtype=dtype)[:, :P]


def has_running_statistics(module: nn.Module) -> bool:
    """Return whether the model has running statistics, which only a loop over workers updates."""
    return any(getattr(m, "track_running_stats", False) for m in module.modules())
