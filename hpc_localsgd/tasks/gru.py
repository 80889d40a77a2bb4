"""A gated recurrent unit made of plain products, so that several workers run as one program.

torch's own recurrent layers are single calls, which vmap cannot batch: 16 workers go through them
one after another.
"""

from __future__ import annotations

import torch
from torch import nn


class GRU(nn.Module):
    """Layers of gated recurrent units, from state zero; the equations and gates are torch's.

        r, z = sigmoid(W x + b + U h + c)        n = tanh(W x + b + r (U h + c))
        h <- (1 - z) n + z h

    each with rows of W, U, b and c of its own, in the order r, z, n.

    Source: Cho et al., EMNLP 2014, arXiv:1406.1078, with the reset after the product (cuDNN).
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1) -> None:
        """Make the layers; all numbers are drawn evenly up to 1 / sqrt(hidden), as torch does."""
        super().__init__()
        sizes = (inputs, *[hidden] * (layers - 1))
        self.of_input = nn.ModuleList(nn.Linear(n, 3 * hidden) for n in sizes)
        self.of_state = nn.ModuleList(nn.Linear(hidden, 3 * hidden) for _ in sizes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the top layer's states [B, T, hidden] after each of x [B, T, inputs]."""
        for of_input, of_state in zip(self.of_input, self.of_state, strict=True):
            given, states = of_input(x), []
            h = given.new_zeros(len(given), given.shape[2] // 3)
            for part in given.unbind(1):
                r, z, n = part.chunk(3, dim=1)
                of_r, of_z, of_n = of_state(h).chunk(3, dim=1)
                n = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
                h = n + torch.sigmoid(z + of_z) * (h - n)
                states.append(h)
            x = torch.stack(states, dim=1)
        return x
