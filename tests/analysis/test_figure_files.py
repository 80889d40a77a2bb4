"""A figure is there whole, or the one before it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hpc_localsgd.analysis.figure_files import save


@pytest.mark.parametrize("name", ["a.png", "a.pdf"])
def test_a_figure_that_cannot_be_written_leaves_the_one_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    save(Figure(), path)
    before = path.read_bytes()

    def half(self: Figure, to: Path, **how: object) -> None:
        to.write_bytes(before[:10])
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="full"):
        save(Figure(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
