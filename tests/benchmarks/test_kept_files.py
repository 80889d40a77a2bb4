"""Benchmarks leave the files of others where --out names one, before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import collectives
from hpc_localsgd.analysis.own_files import is_foreign


@pytest.mark.parametrize("text", ["seed: 3  # of a run\n", "%PDF-1.7\n"])
def test_a_measured_network_takes_the_place_of_no_other_file(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    monkeypatch.setattr(sys, "argv", ["collectives", f"--out={mine}"])
    with pytest.raises(SystemExit) as ended:
        collectives.main()
    assert ended.value.code == 2
    assert "is no measured network" in capsys.readouterr().err
    assert mine.read_text() == text


def test_it_takes_the_place_of_one_that_was_measured(tmp_path: Path) -> None:
    assert not is_foreign(tmp_path / "new.yaml", collectives.is_measured)
    (tmp_path / "empty.yaml").touch()
    assert not is_foreign(tmp_path / "empty.yaml", collectives.is_measured)
    measured = tmp_path / "measured.yaml"
    measured.write_text("latency_s: 5.0e-5\nbytes_per_s: 1.17e8\n")
    assert not is_foreign(measured, collectives.is_measured)
