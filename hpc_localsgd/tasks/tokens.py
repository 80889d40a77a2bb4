"""Text as numbers: characters, words or bytes, with a vocabulary of the training part only."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file

Kind = Literal["characters", "words", "bytes"]
UNKNOWN = 0  # the token of what the training part does not have; bytes have none
_MOST_BYTES = 1 << 33  # of a text, which is held in memory several times over
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Tokens:
    """A text in two parts, the end kept for testing.

    Attributes:
        train: int64 [n], the first part.
        test: int64 [m], the last part.
        vocabulary: V; tokens are 0..V-1.
    """

    train: np.ndarray
    test: np.ndarray
    vocabulary: int


def read_tokens(path: Path, kind: Kind, test_fraction: float, most: int) -> Tokens:
    """Return a text file as tokens.

    Args:
        path: UTF-8, or anything if the tokens are bytes.
        kind: What a token is. Words are runs of letters and digits, or one punctuation mark; where
            white space was is forgotten.
        test_fraction: Share of the tokens at the end that are kept for testing.
        most: The largest vocabulary of words; rarer ones are unknown.

    Raises:
        ConfigurationError: There is no such file, or it is not text.
    """
    if kind == "bytes":
        ids = np.frombuffer(_read(path), dtype=np.uint8).astype(np.int64)
        return Tokens(*_cut(ids, test_fraction), 256)
    text = _decoded(path)
    if kind == "characters":
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return _looked_up(*_cut(points, test_fraction), most=None)
    train, test = _cut(np.array(_WORD.findall(text), dtype=object), test_fraction)
    return _looked_up(train, test, most)


def _read(path: Path) -> bytes:
    try:
        return regular_file.read(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read --task.file {path}: {error.strerror}; give a text file, or leave it out "
            "for the bundled one"
        ) from error


def _decoded(path: Path) -> str:
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"--task.file {path} is not UTF-8 (byte {error.start}): convert it, as with "
            "`iconv -t UTF-8`, or take --task.tokens bytes"
        ) from error


def _cut(ids: np.ndarray, test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    begin = len(ids) - round(len(ids) * test_fraction)
    return ids[:begin], ids[begin:]


def _looked_up(train: np.ndarray, test: np.ndarray, most: int | None) -> Tokens:
    """Return tokens ranked by frequency in the training part, from 1; ties in their own order."""
    counted = Counter(train.tolist())
    ordered = sorted(counted, key=lambda token: (-counted[token], token))
    kept = ordered if most is None else ordered[: max(0, most - 1)]
    rank = {token: i for i, token in enumerate(kept, start=1)}

    def numbers(part: np.ndarray) -> np.ndarray:
        found = (rank.get(token, UNKNOWN) for token in part.tolist())
        return np.fromiter(found, dtype=np.int64, count=len(part))

    return Tokens(numbers(train), numbers(test), len(rank) + 1)
