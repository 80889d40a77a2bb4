"""Notebooks are executed without Jupyter: cells are Python, figures are drawn without a screen.

python tests/examples/notebooks.py NOTEBOOK        # execute it where it lies, and keep its outputs
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of code, as they are in the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def execute(path: Path, folder: Path) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """The names that the cells leave, and what each cell prints and draws.

    A cell that fails is an error with its number; those behind it do not run.
    """
    names: dict[str, Any] = {}
    outputs = []
    cells = code_cells(path)
    with working_in(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg")  # plt.show(), without a screen
        for number, cell in enumerate(cells, start=1):
            printed = io.StringIO()
            code = compile("".join(cell["source"]), f"{path.name}, cell of code {number}", "exec")
            with redirect_stdout(printed):
                exec(code, names)
            outputs.append(_text(printed.getvalue()) + _figures())
    return names, outputs


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the folder, as `contextlib.chdir` of Python 3.11 does."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _text(printed: str) -> list[dict[str, Any]]:
    lines = printed.splitlines(keepends=True)
    return [{"name": "stdout", "output_type": "stream", "text": lines}] if printed else []


def _figures() -> list[dict[str, Any]]:
    """What is open in pyplot, each closed, as a notebook holds it."""
    import matplotlib.pyplot as plt

    found = []
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=100, metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode() + "\n"}
        found.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return found


def keep_outputs(path: Path) -> None:
    """Execute the notebook in its own folder and write its outputs into it."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    made = iter(execute(path, path.parent)[1])
    for number, cell in enumerate(c for c in whole["cells"] if c["cell_type"] == "code"):
        cell |= {"outputs": next(made), "execution_count": number + 1}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    keep_outputs(Path(sys.argv[1]))
