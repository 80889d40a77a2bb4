"""Three models of the next token: an LSTM, a GRU and a decoder-only Transformer.

All take tokens [B, T] and give logits [B, V, T], the classes second, as `cross_entropy` wants
them. None has dropout: what a worker computes depends on its parameters and batch alone.
"""

from __future__ import annotations

import torch
from torch import nn

from hpc_localsgd.tasks.gru import GRU


class LSTM(nn.Module):
    """Embedding, LSTM layers, and a linear read-out at every place."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        """Make the layers; `width` is that of the embedding and of the hidden state."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.readout = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [B, V, T] of the token after each of tokens [B, T], from state zero."""
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.readout(hidden).transpose(1, 2)


class TokenGRU(nn.Module):
    """Embedding, GRU layers that several workers run at once, and a linear read-out."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        """Make the layers; `width` is that of the embedding and of the hidden state."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.gru = GRU(width, width, layers)
        self.readout = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [B, V, T] of the token after each of tokens [B, T], from state zero."""
        return self.readout(self.gru(self.embedding(tokens))).transpose(1, 2)


class Transformer(nn.Module):
    """Decoder-only Transformer: learned positions, norms first, GELU (GPT-2, Radford 2019)."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, length: int) -> None:
        """Make the layers; `length` is the longest sequence."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [B, V, T] of the token after each of tokens [B, T]."""
        T = tokens.shape[1]
        places = torch.arange(T, device=tokens.device)
        hidden = self.embedding(tokens) + self.position(places)
        later = torch.ones(T, T, dtype=torch.bool, device=tokens.device).triu(1)  # not looked at
        hidden = self.blocks(hidden, mask=later, is_causal=True)
        return self.readout(self.norm(hidden)).transpose(1, 2)
