"""The digits through dropout; a launched run gets it by class path."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.digits import digits, mlp


@dataclass(frozen=True)
class dropping_digits(digits):
    """The digits; half of what is hidden is dropped."""

    def build(self, context: TaskContext) -> Classification:
        def model() -> nn.Module:
            *layers, last = mlp(self.hidden)
            return nn.Sequential(*layers, nn.Dropout(0.5), last)

        return Classification(model, self.splits(), context)
