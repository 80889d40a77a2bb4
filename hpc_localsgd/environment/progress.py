"""Run one long command: its output into a log, one moving line for the user who waits.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PLAIN_LINE_EVERY_S = 20.0  # in a log file: a line now and then, never overwritten
TERMINAL_LINE_EVERY_S = 0.5
TAIL_LINES = 30

_PERCENT = re.compile(r"\[\s*(\d{1,3})%\]")  # make, as CMake writes it
_FRACTION = re.compile(r"\[(\d+)/(\d+)\]")  # ninja
_PIP_GAVE_UP = "subprocess-exited-with-error"
_PIP_VERBS = ("Collecting", "Downloading", "Building", "Installing", "Preparing")


class StageFailed(Exception):
    """A stage failed; the text is the whole message for the user."""


def compile_note(line: str) -> str | None:
    """Return how far a compilation is, such as "37 %", or None when the line does not tell."""
    if percent := _PERCENT.search(line):
        return f"{int(percent[1])} %"
    if (fraction := _FRACTION.search(line)) and int(fraction[2]) > 0:
        return f"{100 * int(fraction[1]) // int(fraction[2])} %"
    return None


def pip_note(line: str) -> str | None:
    """Return what pip is busy with, shortened, or None when the line does not tell."""
    words = line.split()
    if len(words) < 2 or words[0] not in _PIP_VERBS:
        return None
    return "installing" if words[0] == "Installing" else " ".join(words[:2])[:48]


def run(
    command: Sequence[str],
    *,
    title: str,
    usually: str,
    log: Path,
    note_of: Callable[[str], str | None] = pip_note,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run `command` with its output in `log`, and show `title` with the seconds that have passed.

    Args:
        command: The program and its arguments.
        title: What is being done, in a few words.
        usually: How long it usually takes, such as "2 to 5 minutes".
        log: The file that gets every line; it is appended to.
        note_of: Turns a line of output into a note about progress, or None.
        env: The environment of the command; ours by default.

    Raises:
        StageFailed: The command failed; the text ends with its last lines and the path of the log.
    """
    line = _Line(title, usually)
    with log.open("a", encoding="utf-8", errors="replace") as sink:
        sink.write(f"\n$ {' '.join(command)}\n")
        status = _stream(command, sink.write, line, note_of, env)
    if status != 0:
        line.end("failed")
        raise StageFailed(_failure(title, status, log))
    line.end("done")


def _stream(
    command: Sequence[str],
    write: Callable[[str], object],
    line: _Line,
    note_of: Callable[[str], str | None],
    env: Mapping[str, str] | None,
) -> int:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=None if env is None else dict(env),
    )
    assert process.stdout is not None  # it is a pipe
    line.tick_until(process)
    try:
        for text in process.stdout:
            write(text)
            line.show(note_of(text))
        return process.wait()
    except BaseException:  # Ctrl-C included: leave no compiler running
        process.terminate()
        process.wait()
        raise


def _failure(title: str, status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    quoted = "\n".join("    " + text for text in last_words(lines))
    return f"{quoted}\n\n{title} failed (status {status}). The whole log: {log}"


def last_words(lines: Sequence[str]) -> list[str]:
    """Return the last lines before pip, after an error, begins its long clean-up."""
    ends = [i for i, text in enumerate(lines) if _PIP_GAVE_UP in text]
    return list(lines[: ends[0] + 1 if ends else None][-TAIL_LINES:])


class _Line:
    """One line that is overwritten on a terminal, and repeated now and then elsewhere."""

    def __init__(self, title: str, usually: str) -> None:
        self.title, self.note = title, ""
        self.ended = False
        self.moving = sys.stdout.isatty()
        self.every_s = TERMINAL_LINE_EVERY_S if self.moving else PLAIN_LINE_EVERY_S
        self.began = self.shown = time.monotonic()
        self._print(f"{title} ... (usually {usually})", last=not self.moving)

    def show(self, note: str | None) -> None:
        """Record a note about progress, and print it if the last print is long enough ago."""
        self.note = note or self.note
        if not self.ended and time.monotonic() - self.shown >= self.every_s:
            self.shown = time.monotonic()
            self._print(f"{self.title} ... {self._elapsed()} {self.note}", last=not self.moving)

    def tick_until(self, process: subprocess.Popen[str]) -> None:
        """Keep the seconds moving while the command is silent, as a linker may be."""

        def tick() -> None:
            while process.poll() is None:
                time.sleep(TERMINAL_LINE_EVERY_S)
                self.show(None)

        threading.Thread(target=tick, daemon=True).start()

    def end(self, word: str) -> None:
        """Print the closing line."""
        self.ended = True
        self._print(f"{self.title}: {word}, {self._elapsed()}", last=True)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self.began:.0f} s"

    def _print(self, text: str, *, last: bool) -> None:
        clear = "\r\033[K" if self.moving else ""
        print(f"{clear}  {text}", end="\n" if last else "", flush=True)
