"""Each run of a launch of several, `several_runs.py`, waited for alone; or of several commands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launching import Job

HERE = Path(__file__).parent
SEVERAL = str(HERE / "several_runs.py")
COMMANDS = str(HERE / "several_commands.py")
# What `several_runs.py` imports, for ranks that are forked behind it.
FIRST = "import hpc_localsgd.commands.assembly.job, hpc_localsgd.commands.configuration.config"


def options_of(out: Path) -> Path:
    """Where the options of the run in a folder are: beside it."""
    return out.with_name(f"{out.name}.options")


def has_ended(job: Job, options: Path, timeout_s: float = 200) -> None:
    """Wait for the run with these options."""
    said = f"{options}: ended"
    job.until(lambda: said in job.stderr.read_text(), timeout_s, f"{options.stem} has ended")


def commands(folder: Path, words: Mapping[str, Sequence[str]]) -> list[str]:
    """What several commands are as one: the words of each, by its name, go to a file."""
    files = {name: folder / f"{name}.words" for name in words}
    for name, file in files.items():
        file.write_text("\n".join(words[name]))
    return [COMMANDS, *map(str, files.values())]


def ended(job: Job, folder: Path, name: str, timeout_s: float = 200) -> list[int]:
    """Wait until two ranks have ended one of several commands; their statuses."""

    def found() -> list[int]:
        return statuses(job.stderr.read_text(), folder, name)

    job.until(lambda: len(found()) == 2, timeout_s, f"{name} has ended on both ranks")
    return found()


def statuses(said: str, folder: Path, name: str) -> list[int]:
    """With what the ranks have ended one of several commands, in any order."""
    line = re.escape(f"{folder / name}.words: ended with status ")
    return [int(status) for status in re.findall(line + r"(\d+)\n", said)]
