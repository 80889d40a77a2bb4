"""Whether the model is still the one that was attached, and trained by nothing else."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from hpc_localsgd.attach.storage import Group, replaced
from hpc_localsgd.errors import ConfigurationError

_ATTACHED: weakref.WeakSet[ModelIntegrity] = weakref.WeakSet()
_LOCK = threading.Lock()  # ranks may be threads


class ModelIntegrity:
    """What an attached model and its optimiser consisted of."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: Sequence[Group],
        frozen: Sequence[nn.Parameter],
    ) -> None:
        self._optimizer, self._groups = optimizer, groups
        self._frozen = frozen
        self._ours = {id(p) for group in groups for p in group.parameters}
        self._known = self._ours | {id(p) for p in frozen}
        self._path = _path(model, [name for group in groups for name in group.names])
        # What others may train, and how often each had been written to.
        self._others = [
            (name, p, p._version) for name, p in model.named_parameters() if id(p) not in self._ours
        ]
        self._said = False
        self._writes, self._strange = self._written(), 0
        with _LOCK:
            _ATTACHED.add(self)

    def over(self) -> None:
        """Forget: the run has ended, and the model may be attached again."""
        with _LOCK:
            _ATTACHED.discard(self)
            for each in _ATTACHED:  # what this one trained was exchanged until now
                each._others = [
                    (n, p, p._version if id(p) in self._ours else version)
                    for n, p, version in each._others
                ]

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Return whether any of these is exchanged here."""
        return any(id(p) in self._ours for p in parameters)

    def _written(self) -> int:
        """Count how often the exchanged parameters were written to, by others than exchanges."""
        return sum(p._version for group in self._groups for p in group.parameters)

    def check(self, stepped: bool = True) -> None:
        """Check that what is trained is what is exchanged.

        Args:
            stepped: Whether the optimiser took a step in the round that ends.

        Raises:
            RuntimeError: A parameter was moved, replaced, unfrozen or given to the optimiser later,
                or another optimiser trains them all.
        """
        self._check_trainer(stepped)
        for owner, leaf, child, name in self._path:
            if owner._modules.get(leaf) is not child:
                raise RuntimeError(replaced(name))
        for group in self._groups:
            group.check()
        trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        if any(id(p) not in self._known for p in trained) or any(
            p.requires_grad for p in self._frozen
        ):
            raise RuntimeError(
                "parameters were unfrozen or added to the optimizer after attach, and would not be "
                "exchanged: call sync.finish() and attach again at that point"
            )

    def check_memory(self) -> None:
        """Check that exchanges write where the model's parameters are.

        Raises:
            RuntimeError: A parameter was moved.
        """
        for group in self._groups:
            group.check_memory()

    def _check_trainer(self, stepped: bool) -> None:
        """Check who writes; a checkpoint may be loaded in one round whose steps were skipped."""
        writes = self._written()
        self._strange = self._strange + 1 if not stepped and writes != self._writes else 0
        self._writes = writes
        if self._strange > 1:
            raise RuntimeError(
                "the optimizer given to attach takes no steps, and its parameters are trained by "
                "something else (an optimizer made again after attach?): call sync.finish(), and "
                "attach again with the optimizer that the loop steps"
            )

    def warn_of_others(self) -> None:
        """Warn once of parameters that another optimiser trains and no round exchanges."""
        written = [(n, p) for n, p, version in self._others if p._version != version]
        if self._said or not written:
            return
        with _LOCK:
            attached = set().union(*(each._ours for each in _ATTACHED))
        left = [n for n, p in written if id(p) not in attached and p.grad is not None]
        if left:
            self._said = True
            warnings.warn(
                f"these parameters of the model are trained, but not by the optimizer given to "
                f"attach, and rounds do not exchange them: {', '.join(left[:8])}; attach the "
                "optimizer that trains them too, or give all parameters to one optimizer",
                stacklevel=2,
            )


def check_free(parameters: Sequence[nn.Parameter]) -> None:
    """Check that these parameters are not attached already.

    Raises:
        ConfigurationError: They are: the hooks of both would average.
    """
    if not _taken(parameters):
        return
    gc.collect()  # one that is no longer referenced is in a circle with its optimiser's hooks
    if _taken(parameters):
        raise ConfigurationError(
            "the model is attached already, and both would exchange it: call sync.finish() or "
            "sync.detach() on what the first attach returned, or build model and optimizer again"
        )


def _taken(parameters: Sequence[nn.Parameter]) -> bool:
    with _LOCK:
        return any(each.holds(parameters) for each in _ATTACHED)


def _path(model: nn.Module, names: Sequence[str]) -> list[tuple[nn.Module, str, nn.Module, str]]:
    """Return every module on the way to a parameter once: owner, name there, a parameter."""
    found: dict[tuple[int, str], tuple[nn.Module, str, nn.Module, str]] = {}
    for name in names:
        owner = model
        for leaf in name.split(".")[:-1]:
            child = owner._modules[leaf]
            assert child is not None
            found.setdefault((id(owner), leaf), (owner, leaf, child, name))
            owner = child
    return list(found.values())
