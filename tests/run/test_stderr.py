"""Sentences on standard error reach the log at once and whole."""

from __future__ import annotations

import io
import sys

import pytest

from hpc_localsgd.run.stderr import say


class Raw(io.RawIOBase):
    """A pipe, and every write that comes to it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        self.writes.append(bytes(content))  # type: ignore[call-overload]
        return len(self.writes[-1])


def test_a_sentence_is_one_write_and_does_not_wait_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = Raw()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    say("rank 1 has gone\nresume with ...")
    assert raw.writes == [b"rank 1 has gone\nresume with ...\n"]
