"""Cross entropy, and the operations it is made of."""

from __future__ import annotations

import torch
from torch import nn

IGNORED = -100  # a label that does not count, as torch has it


class CrossEntropy:
    """Mean cross entropy of logits [B, C, ...] and labels [B, ...].

    Targets may be probabilities [B, C, ...], too.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """Make it.

        Args:
            label_smoothing: Szegedy et al. 2016.
        """
        self._smoothing = label_smoothing

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean []."""
        return nn.functional.cross_entropy(logits, targets, label_smoothing=self._smoothing)

    def in_vmap(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the same bits within vmap, sooner.

        There torch takes its own apart into operations, by a program in Python that checks them
        with sympy, whose import takes half a second of a processor. These are the operations.
        """
        if self._smoothing or targets.is_floating_point():
            return self(logits, targets)
        counts = targets != IGNORED
        index = torch.where(counts, targets, 0).unsqueeze(1)
        each = -logits.log_softmax(1).gather(1, index).squeeze(1)
        mean: torch.Tensor = torch.where(counts, each, 0).sum() / counts.sum().to(logits)
        return mean
