"""A recurrent net on bundled data: scikit-learn's digits, read as sequences of pixel rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.digits import SIDE, digits
from hpc_localsgd.tasks.gru import GRU


@dataclass(frozen=True)
class sequences(TaskSpec):
    """Handwritten digits as sequences of 8 rows of 8 pixels, classified by an LSTM or a GRU.

    Zhang et al. (2021) study decentralised SGD on convolutional nets and on bidirectional LSTMs
    for speech; this is a recurrent net on real data that is there without a download.

    Attributes:
        hidden: Width of the hidden state.
        layers: Recurrent layers.
        bidirectional: Read the rows in both directions, as the nets for speech do.
        test_fraction: Share of the images kept for testing, stratified by digit.
        split_seed: Chooses the test images, independently of the run's seed.
        cell: "lstm" is torch's, whose workers run one after another; "gru" is made of plain
            products, and many small workers of a process run at once. One direction only.
    """

    hidden: int = 64
    layers: int = 1
    bidirectional: bool = False
    test_fraction: float = 0.2
    split_seed: int = 0
    cell: Literal["lstm", "gru"] = "lstm"

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers) < 1:
            raise ConfigurationError(f"{self}: --task.hidden and --task.layers are at least 1")
        if self.cell == "gru" and self.bidirectional:
            raise ConfigurationError(
                "--task.cell gru reads in one direction: leave --task.bidirectional out"
            )

    def build(self, context: TaskContext) -> Classification:
        """Load the images, and make the task of this process's workers."""
        images = digits(test_fraction=self.test_fraction, split_seed=self.split_seed).splits()
        rows = {name: (x.reshape(-1, SIDE, SIDE), labels) for name, (x, labels) in images.items()}
        return Classification(self._model, rows, context)

    def _model(self) -> nn.Module:
        if self.cell == "gru":
            return GatedRowReader(self.hidden, self.layers)
        return RowReader(self.hidden, self.layers, self.bidirectional)


class RowReader(nn.Module):
    """An LSTM over the rows of an image, and a linear classifier of where it ends."""

    def __init__(self, hidden: int, layers: int, bidirectional: bool) -> None:
        """Make the layers."""
        super().__init__()
        self.lstm = nn.LSTM(SIDE, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.readout = nn.Linear(hidden * (1 + bidirectional), 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 10] of rows [B, 8, 8]."""
        _, (last, _) = self.lstm(rows)
        ends = last[-2:] if self.lstm.bidirectional else last[-1:]  # of the top layer
        return self.readout(ends.transpose(0, 1).flatten(1))


class GatedRowReader(nn.Module):
    """A GRU over the rows of an image, and a linear classifier of where it ends."""

    def __init__(self, hidden: int, layers: int) -> None:
        """Make the layers."""
        super().__init__()
        self.gru = GRU(SIDE, hidden, layers)
        self.readout = nn.Linear(hidden, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 10] of rows [B, 8, 8]."""
        logits: torch.Tensor = self.readout(self.gru(rows)[:, -1])
        return logits
