"""Turns of a watch that take no time."""

from __future__ import annotations

import pytest

from hpc_localsgd.run.rollcall import watch as watches


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches.time, "sleep", lambda _: None)
