"""A disk that is really full, in the middle of a run: said, survived, and gone on from.

The disk is a small tmpfs in a mount namespace of its own, which no other process sees.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ends_of_several import SEVERAL
from launching import TRAIN, Job, Outcome, mpirun, started, until
from launching import run as launch

from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import last_complete, number
from hpc_localsgd.trajectory import Trajectory

HERE = Path(__file__).parent
STEPS = 400
RUN = ["--task=slow_digits.slow_digits", "--task.hidden=8", "--batch-per-worker=4", "--world=mpi"]
RUN += [f"--steps={STEPS}", "--schedule=every", "--schedule.steps=8", "--evaluate-every=50"]
RUN += ["--figures=false", "--checkpoint-every=0.3 s", "--resume=auto", "--snapshot-every=25"]
SLOW = "--task.step-s=0.2"
SIZE = "4m"
PATIENCE_S = 60


@dataclass(frozen=True)
class SmallDisk:
    """A disk of a few MB.

    Attributes:
        inside: Its folder, as the jobs on it see it.
        outside: The same, as this process sees it.
        launcher: Goes in front of a launcher.
    """

    inside: Path
    outside: Path
    launcher: list[str]

    def fill(self) -> None:
        """Leave no room, not for what was given back since the last call either."""
        with (self.outside / "filler").open("ab", buffering=0) as file:
            end = time.monotonic() + 1.0
            for size in (65536, 4096, 64):
                try:
                    while time.monotonic() < end:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def says(self, job: Job, words: str) -> bool:
        """Check whether a job without room has said something yet."""
        self.fill()
        return words in job.stderr.read_text()

    def make_space(self) -> None:
        (self.outside / "filler").unlink()


@contextmanager
def small_disk(inside: Path) -> Iterator[SmallDisk]:
    """Mount one; skips the test where that cannot be done."""
    inside.mkdir()
    mount = f"mount -t tmpfs -o size={SIZE} none {inside} && echo mounted && exec sleep 1000"
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("a private disk needs unshare and nsenter (package util-linux)")
    holder = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            why = holder.stderr.read().decode().strip()
            pytest.skip(f"this system lets nobody mount a tmpfs of their own ({why})")
        enter = ["nsenter", "-t", str(holder.pid), "-m", "-U", "--preserve-credentials"]
        yield SmallDisk(inside, Path(f"/proc/{holder.pid}/root{inside}"), enter)
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture(scope="module", autouse=True)
def the_slow_task_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        yield


@pytest.fixture(scope="module")
def emptied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """A run whose disk was full for a while, and in the same launch the one with room enough.

    What was said, and both folders.
    """
    folder = tmp_path_factory.mktemp("emptied")
    whole, hurry, files = folder / "whole", folder / "hurry", []
    with small_disk(folder / "disk") as disk:
        for i, words in enumerate([[SLOW, f"--out={disk.inside / 'run'}"], [f"--out={whole}"]]):
            files.append(folder / f"{i}.options")
            files[-1].write_text("\n".join([*RUN, *words]))
        given = [SEVERAL, *map(str, files)]
        with started([*until_told(hurry), *disk.launcher, *mpirun(2)], given) as job:
            until(lambda: last_complete(disk.outside / "run"), PATIENCE_S, "a checkpoint")
            # Filled again and again: a checkpoint that is thrown away would make room for the next.
            until(lambda: disk.says(job, "no checkpoint of step"), PATIENCE_S, "refused")
            until(lambda: disk.says(job, "Training continues."), PATIENCE_S, "rows wait")
            disk.make_space()
            hurry.touch()
            said = job.wait().succeeded().stderr
        yield said, disk.outside / "run", whole


def until_told(hurry: Path) -> list[str]:
    """Go in front of a launcher: until that file is there, a run of SLOW is far from its end."""
    return ["env", f"HURRY={hurry}"]


def same(one: Path, other: Path) -> None:
    """Two finished runs: parameters, rounds, series and snapshots, every bit."""
    parameters = []
    for out in (one, other):
        found = last_complete(out)
        assert found is not None and number(found[0]) == STEPS
        parameters.append([shard.read(path)["x"] for path in sorted(found[0].glob("*.pt"))])
    assert torch.equal(torch.cat(parameters[0]), torch.cat(parameters[1]))
    a, b = Trajectory(one), Trajectory(other)
    np.testing.assert_array_equal(a.rounds.step_end, b.rounds.step_end)
    np.testing.assert_array_equal(a.snapshot_steps, b.snapshot_steps)
    assert a.names() == b.names()
    for name in a.names():
        np.testing.assert_array_equal(a.series(name).value, b.series(name).value)


def test_space_that_comes_back_in_time_leaves_no_trace(emptied: tuple[str, Path, Path]) -> None:
    said, run, whole = emptied
    assert "disk is full" in said, said
    assert said.count("Training continues.") < 20, said  # not at every row
    same(whole, run)


@pytest.fixture(scope="module")
def stayed_full(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SmallDisk, list[str], list[str], Outcome]]:
    """A run whose disk was full until its end: the disk, its command, and how it ended."""
    folder = tmp_path_factory.mktemp("full")
    hurry = folder / "hurry"
    with small_disk(folder / "disk") as disk:
        arguments = [*TRAIN, *RUN, SLOW, f"--out={disk.inside / 'run'}"]
        launcher = [*until_told(hurry), *disk.launcher, *mpirun(2)]
        with started(launcher, arguments) as job:
            until(lambda: last_complete(disk.outside / "run"), PATIENCE_S, "a checkpoint")
            disk.fill()
            hurry.touch()
            outcome = job.wait()
        yield disk, launcher, arguments, outcome


def test_a_disk_that_stays_full_costs_what_was_not_on_it_and_no_more(
    stayed_full: tuple[SmallDisk, list[str], list[str], Outcome],
) -> None:
    disk, _, _, outcome = stayed_full
    assert outcome.status not in (0, 2, 3), outcome.text
    assert "Traceback" not in outcome.stderr, outcome.stderr[-3000:]
    assert "make space" in outcome.stderr, outcome.stderr[-3000:]
    found = last_complete(disk.outside / "run")
    assert found is not None and number(found[0]) < STEPS
    assert (Trajectory(disk.outside / "run").rounds.step_end <= STEPS).all()  # can be read


def test_the_run_goes_on_when_there_is_space(
    emptied: tuple[str, Path, Path],
    stayed_full: tuple[SmallDisk, list[str], list[str], Outcome],
) -> None:
    disk, launcher, arguments, _ = stayed_full
    disk.make_space()
    launch(launcher, arguments).succeeded()
    same(emptied[2], disk.outside / "run")
