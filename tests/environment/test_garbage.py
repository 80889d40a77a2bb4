"""What a process of ours imports is looked through by no collection; another's is left alone."""

from __future__ import annotations

import gc

import pytest

from hpc_localsgd.environment import garbage


@pytest.mark.parametrize("ours", [False, True])
def test_what_is_imported_stays_for_good_in_a_process_of_ours_alone(
    monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    frozen = list[bool]()
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    monkeypatch.setattr(garbage.atexit, "register", lambda last: last)
    monkeypatch.setattr(garbage, "_in_own_process", False)
    if ours:
        garbage.leave_at_exit()
    with garbage.paused():
        assert not gc.isenabled()
    assert frozen == [] and gc.isenabled()
    with garbage.importing():
        assert not gc.isenabled()
    assert frozen == [False] * ours and gc.isenabled()
