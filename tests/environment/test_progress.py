from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpc_localsgd.environment import end_of_file, progress


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("[  7%] Building CXX object", "7 %"),
        ("  [100%] Built target pytorch", "100 %"),
        ("[30/120] Building CXX object", "25 %"),
        ("-- Found MPI", None),
    ],
)
def test_how_far_a_compilation_is(line: str, note: str | None) -> None:
    assert progress.compile_note(line) == note


def test_what_pip_is_busy_with() -> None:
    assert progress.pip_note("Collecting torch==2.13.0 (from -c x)") == "Collecting torch==2.13.0"
    assert progress.pip_note("Installing collected packages: a, b") == "installing"
    assert progress.pip_note("nothing to see") is None


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_goes_to_the_log_and_seconds_to_the_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    progress.run(python("print('deep inside')"), title="Work", usually="a second", log=log)
    assert "deep inside" in log.read_text()
    shown = capsys.readouterr().out
    assert "usually a second" in shown and "Work: done, " in shown
    assert "deep inside" not in shown


def test_a_failure_shows_the_last_lines_and_the_log(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(100): print('line', i)\nsys.exit(3)"
    with pytest.raises(progress.StageFailed) as failure:
        progress.run(python(code), title="Work", usually="a second", log=tmp_path / "log")
    text = str(failure.value)
    assert "line 99" in text and "line 70" in text and "line 69" not in text
    assert text.endswith(f"The whole log: {tmp_path / 'log'}")
    assert "status 3" in text


def test_what_pip_says_after_the_error_is_left_out() -> None:
    log = ["no such header", "  error: subprocess-exited-with-error", "clean", "bye"]
    assert progress.last_words(log) == log[:2]


@pytest.mark.parametrize(
    ("text", "ended"), [(b"", b""), (b"a", b"a\n"), (b"a\n\n\n", b"a\n"), (b"\n", b"")]
)
def test_the_end_of_a_file(text: bytes, ended: bytes) -> None:
    assert end_of_file.ended(text) == ended
