"""examples/analysis.ipynb: its cells run, one that fails is noticed, its outputs are theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import notebooks
import numpy as np
import pytest
from launching import ROOT

from hpc_localsgd.train import main

NOTEBOOK = ROOT / "examples" / "analysis.ipynb"
NUMBER = re.compile(r"-?\d+([.,]\d+)*(e[+-]?\d+)?|nan|kB|MB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a notebook lies that reads `../runs/local`: a short run like the tutorial's."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "examples").mkdir()
    options = ("--workers=3", "--steps=12", "--schedule.every=3", "--snapshot-every=50%")
    files = ("--figures=false", "--save-model=false", f"--out={folder}/runs/local")
    assert main([*options, *files]) == 0
    return folder / "examples"


def test_its_cells_run(folder: Path) -> None:
    names, outputs = notebooks.execute(NOTEBOOK, folder)
    # Post-local: six rounds of one step, then two of three; the workers send float32.
    assert names["H"].tolist() == [1] * 6 + [3] * 2
    assert np.isclose(names["sent"][-1], 8 / 12 * names["parallel"])
    assert names["local"].sum() == 2 and (names["ratio"] > 0).all()
    assert names["bytes_sent"][0] == 0 and names["bytes_sent"][-1] == names["sent"][-1]
    assert names["path"].shape == (len(names["steps"]), names["run"].P)
    assert [o["output_type"] for o in outputs[-1]] == ["display_data"]


def test_a_cell_that_fails_is_an_error_with_its_number(tmp_path: Path) -> None:
    whole = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    cells[0]["source"], cells[1]["source"] = ["x = 1\n"], ["print(x)\n", "x / 0\n"]
    (tmp_path / "wrong.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(ZeroDivisionError) as error:
        notebooks.execute(tmp_path / "wrong.ipynb", tmp_path)
    assert "wrong.ipynb, cell of code 2" in str(error.traceback[-1].path)


def test_it_holds_what_its_cells_print(folder: Path) -> None:
    """The words of every line, for numbers are those of another run; and every figure."""
    made = notebooks.execute(NOTEBOOK, folder)[1]
    kept = [cell["outputs"] for cell in notebooks.code_cells(NOTEBOOK)]
    assert [lines(one) for one in kept] == [lines(one) for one in made]
    assert len(NOTEBOOK.read_bytes()) < 100_000


def test_its_numbers_are_those_of_the_tutorial() -> None:
    kept = "".join(line for cell in notebooks.code_cells(NOTEBOOK) for line in printed(cell))
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    for number in re.findall(r"(?:MB; by parallel SGD|worker:) (\d\.\d\d MB)", kept):
        assert number in tutorial
    assert "120 rounds, H from 1 to 16" in kept and re.search(r"225 +120", tutorial)
    command = re.search(r"python -m hpc_localsgd\.train .*--out runs/local", tutorial)
    assert command and command[0] in NOTEBOOK.read_text()


def printed(cell: dict[str, Any]) -> list[str]:
    return [line for each in cell["outputs"] for line in each.get("text", ())]


def lines(outputs: list[dict[str, Any]]) -> list[str]:
    """Each distinct line without its numbers; the name of what is no text."""
    found = [
        NUMBER.sub("#", re.sub(r" +", " ", line))
        for each in outputs
        for line in each.get("text", [each["output_type"]])
    ]
    return list(dict.fromkeys(found))
