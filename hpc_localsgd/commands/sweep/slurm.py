"""A sweep as a Slurm job array: an element of the array is a run that is still to be done.

The array reads its runs from a list that is written here and does not change, so that a grid may be
edited while jobs wait. Submitting again is harmless: what is complete is left out, what a waiting
job has done meanwhile it skips, and two jobs never write into one folder.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import hpc_localsgd
from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.errors import ConfigurationError

TEMPLATE = "slurm/sweep.sbatch"
PATIENCE_S = 120.0  # of sbatch


def written(members: Sequence[Member], out: Path) -> Path:
    """Write the list of runs of an array, a line of quoted options each.

    Args:
        members: The runs that are to be done.
        out: Folder of the sweep.
    """
    lines = [shlex.join(_options(member, out)) for member in members]
    text = "\n".join([f"# {len(lines)} runs of a sweep, written by it; a line each", *lines, ""])
    file = out / f"array-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
    file.write_text(text, encoding="utf-8")
    return file


def _options(member: Member, out: Path) -> list[str]:
    words = [word for word in member.words(out) if word != "--resume=auto"]  # as the template does
    if any("\n" in word for word in words):
        raise ConfigurationError(f"{member.title}: an option with a line break cannot be submitted")
    return words


def command(count: int, jobs: int, sbatch: Sequence[str]) -> list[str]:
    """Return the command that submits an array; SWEEP names the list of its runs.

    Args:
        count: How many they are.
        jobs: How many run at a time; 0 for as many as Slurm starts.
        sbatch: Further options of sbatch.
    """
    array = f"--array=1-{count}{f'%{jobs}' if jobs else ''}"
    return ["sbatch", array, *sbatch, TEMPLATE]


def root() -> Path:
    """Return the folder of the job templates' checkout, which jobs are submitted from.

    Raises:
        ConfigurationError: The package is installed without them.
    """
    found = Path(hpc_localsgd.__file__).resolve().parents[1]
    if not (found / TEMPLATE).is_file():
        raise ConfigurationError(
            f"--slurm submits {TEMPLATE}, which is in a checkout of the repository and not beside "
            f"{found}: run it from there"
        )
    return found


def submit(words: Sequence[str], file: Path, folder: Path) -> str:
    """Submit; return what Slurm says.

    Args:
        words: The command.
        file: The list of its runs.
        folder: Where it is typed.

    Raises:
        ConfigurationError: There is no Slurm here, or it refuses.
    """
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "SWEEP": str(file)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no sbatch here: type --slurm=write to get the command for a login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"Slurm did not answer within {PATIENCE_S:g} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise ConfigurationError(f"Slurm refuses the sweep: {said[-1]}")
    return done.stdout.strip()
