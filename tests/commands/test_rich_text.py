"""Pages as text: how wide they are, and whose terminal decides."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from hpc_localsgd.commands.output import LEAST_COLUMNS, columns_of_output
from hpc_localsgd.commands.plan import command
from hpc_localsgd.commands.rich_text import WIDTH, as_text, page_width
from hpc_localsgd.commands.sharpness.page import page as page_of_sharpness
from hpc_localsgd.commands.verify.rows import Row, VerifyReport, as_table
from hpc_localsgd.engine.launch import detect

LAUNCHERS = {
    "mpirun": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
    "torchrun": {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1"},
    "srun": {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"},
}
PLAN = "--parameters 1000 --samples 640 --workers 4 --steps 64 --schedule every".split()
NOTE = "a note of many words " * 20


@contextmanager
def terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a terminal of so many columns, as a person's is."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "__stdout__", stream)
        yield
    os.close(ours)


def widest(text: str) -> int:
    """Columns of the longest line, colours not counted."""
    return max(map(len, re.sub("\x1b\\[[0-9;]*m", "", text).splitlines()))


@pytest.mark.parametrize(("columns", "found"), [(80, 80), (200, 200), (20, LEAST_COLUMNS)])
def test_a_persons_terminal_decides(
    columns: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(columns, monkeypatch):
        assert columns_of_output() == found
        assert columns_of_output(launched=True) is None


def test_a_file_has_no_width(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the command was typed on a terminal, whose size is in the environment."""
    monkeypatch.setenv("COLUMNS", "60")
    with open(os.path.join(tmp_path, "log"), "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        assert columns_of_output() is None


def test_a_page_is_as_wide_as_the_terminal_up_to_its_own_width() -> None:
    assert [page_width(columns) for columns in (None, 80, WIDTH, 200)] == [WIDTH, 80, WIDTH, WIDTH]


def test_lines_have_no_spaces_at_their_ends_and_colours_where_asked() -> None:
    table = Table(show_header=False, box=None)
    table.add_row(Text("one", style="red"), "word " * 10)
    said = as_text(table, 30)
    assert widest(said) <= 30 and len(said.splitlines()) > 1
    assert all(line == line.rstrip() for line in said.splitlines()) and not said.endswith("\n")
    assert "\x1b[31m" in as_text(table, 30, coloured=True) and "\x1b" not in said


@pytest.mark.parametrize("name", ["[bold]", "lr[a]", "[/x]", ":smile:"])
def test_what_a_folder_is_called_is_no_markup(name: str) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("files", f"runs/{name}/trajectory.h5")
    assert f"runs/{name}/trajectory.h5" in as_text(table, 80)


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "none", "salloc"])
def test_a_plan_keeps_to_a_persons_terminal_and_not_to_a_launchers(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of salloc has Slurm's variables, and a person sits before it."""
    launch = detect(LAUNCHERS.get(launcher, {"SLURM_PROCID": "0"} if launcher == "salloc" else {}))
    assert launch.launched == (launcher in LAUNCHERS)
    assert columns_of_output(launch.launched) is None
    with terminal(60, monkeypatch):
        said = command.plan(PLAN, launch)
    assert (widest(said) <= 60) == ("\x1b" in said) == (not launch.launched)
    assert widest(said) <= WIDTH


def test_tables_of_verify_keep_to_a_terminal() -> None:
    rows = [Row("A group", "a check", "mpi", float("nan"), 1e-12, NOTE)]
    report = VerifyReport(["mpi(2 x 2 workers, cpu)"], {}, rows, (), 1.25)
    assert 60 < widest(as_table(report)) <= WIDTH and "\x1b" not in as_table(report)
    assert widest(as_table(report, 60)) <= 60 and "\x1b" in as_table(report, 60)
    assert widest(as_table(report, 200)) <= WIDTH


class _Measured:
    """Results of one snapshot."""

    config: dict[str, object] = {}  # no radii

    def names(self) -> list[str]:
        return ["sharpness/loss", "sharpness/eigenvalues", "sharpness/trace"]

    def series(self, name: str) -> object:
        value = np.asarray([[3.0, 2.0, 1.0]] if name.endswith("eigenvalues") else [0.5])
        return type("Series", (), {"step": np.asarray([30]), "value": value})


def test_tables_of_sharpness_keep_to_a_terminal() -> None:
    def page(terminal: int | None = None) -> str:
        return page_of_sharpness(_Measured(), [30], [NOTE], terminal)  # type: ignore[arg-type]

    assert 60 < widest(page()) <= WIDTH
    assert widest(page(40)) <= 40 and page(40).count("step") == 2 * page().count("step")
    assert widest(page(200)) <= WIDTH
