"""Commands that only read records end in one line where the system refuses a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_localsgd.__main__ import main
from hpc_localsgd.commands.record_command import attempt


@pytest.mark.parametrize("command", ["summary", "cite"])
def test_a_command_that_writes_nothing_does_not_say_that_it_cannot_write(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, 5000 * "x"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("File name too long\n") and said.count("\n") == 1
    assert "write" not in said and "--out" not in said


def test_one_that_writes_says_where_it_could_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gone" / "page.html"
    assert attempt("report", lambda: file.write_text("page"), writes=True) == 2
    said = f"report: cannot write {file}: No such file or directory; give --out a folder\n"
    assert capsys.readouterr().err == said


def test_what_is_of_no_file_is_not_hidden() -> None:
    def work() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        attempt("report", work, writes=True)
