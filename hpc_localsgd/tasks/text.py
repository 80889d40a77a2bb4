"""Language modelling on any local text: predict the next character, word or byte.

The bundled text is Alice's Adventures in Wonderland (Lewis Carroll, 1865; public domain), 144 kB
of plain ASCII, so that the task runs without a download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.language_models import LSTM, TokenGRU, Transformer
from hpc_localsgd.tasks.tokens import read_tokens

BUNDLED = Path(__file__).with_name("alice.txt")


@dataclass(frozen=True)
class text(TaskSpec):
    """The next token of a text file, with an LSTM, a GRU or a small decoder-only Transformer.

    A sample is a sequence of `length` tokens; the loss is the mean over them, in nat a token, and
    the accuracy the share of tokens that are guessed.

    Attributes:
        file: A text file in UTF-8 (of any kind if tokens are bytes). Default: the bundled one.
        tokens: What is predicted: characters, words (and punctuation marks) or bytes.
        model: "transformer", "lstm", or "gru", whose workers in a process run at once.
        length: Tokens in a sample.
        width: Of the embedding and the hidden state.
        layers: Of the recurrent net, or blocks of the Transformer.
        heads: Of the Transformer's attention; divides `width`.
        vocabulary: Most words that are told apart; the rarer ones are one unknown word.
        test_fraction: Share of the text, its end, that is kept for testing.
    """

    file: str | None = None
    tokens: Literal["characters", "words", "bytes"] = "characters"
    model: Literal["transformer", "lstm", "gru"] = "transformer"
    length: int = 64
    width: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 2000
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        sizes = (self.length, self.width, self.layers, self.heads, self.vocabulary)
        if min(sizes) < 1 or not 0 < self.test_fraction < 1:
            raise ConfigurationError(
                f"{self}: sizes must be at least 1 and --task.test_fraction between 0 and 1"
            )
        if self.model == "transformer" and self.width % self.heads:
            raise ConfigurationError(
                f"--task.width {self.width} is not a multiple of --task.heads {self.heads}"
            )

    def build(self, context: TaskContext) -> Classification:
        """Read and cut the text, and make the task of this process's workers.

        Raises:
            ConfigurationError: There is no such file, it is not text, or it is too short.
        """
        path = BUNDLED if self.file is None else Path(self.file)
        found = read_tokens(path, self.tokens, self.test_fraction, self.vocabulary)
        splits = {
            "train": sequences(found.train, self.length),
            "test": sequences(found.test, self.length),
        }
        for name, (inputs, _) in splits.items():
            if not len(inputs):
                raise ConfigurationError(
                    f"{path} has no sequence of {self.length} {self.tokens} in its {name} part: "
                    "take a longer text, a smaller --task.length or another --task.test_fraction"
                )
        V = found.vocabulary
        make: dict[str, Callable[[], nn.Module]] = {
            "gru": lambda: TokenGRU(V, self.width, self.layers),
            "lstm": lambda: LSTM(V, self.width, self.layers),
            "transformer": lambda: Transformer(V, self.width, self.layers, self.heads, self.length),
        }
        return Classification(make[self.model], splits, context)

    def smoke(self) -> text:
        """Return the same model on the bundled text, of which little is kept for testing."""
        return replace(self, file=None, test_fraction=min(0.02, self.test_fraction))


def sequences(ids: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return disjoint sequences [N, length] of tokens, and the tokens that follow each."""
    N = max(0, len(ids) - 1) // length
    return ids[: N * length].reshape(N, length), ids[1 : N * length + 1].reshape(N, length)
