"""The scripts of examples/ run, and train something."""

from __future__ import annotations

import importlib.util
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import ROOT, Job, behind_tests, forked, started

FOLDER = ROOT / "examples"
SCRIPTS = ("torchrun.py", "whole_loop.py")
# Script -> what must be installed, and what it must reach.
TRAINERS = {"hugging_face": ("transformers", "accelerate"), "lightning_module": ("lightning",)}
# Both import torchvision where it is; PyPI's, linked against CUDA, needs help beside a CPU's torch.
BESIDE_ANY_TORCH = """
from contextlib import suppress
from hpc_localsgd.tasks.torchvision_import import import_torchvision
with suppress(ImportError):
    import_torchvision()
"""


def reached(text: str, before: str = "", what: str = "accuracy") -> float:
    """The number that a script printed at its end."""
    found = re.search(rf"{before}test {what} of the \S+(?: model)?: (\d\.\d+)", text)
    assert found, text
    return float(found[1])


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """All scripts on two ranks each, one after another, forked from one process.

    They have the variables of `torchrun`.
    """
    trainers = [f"trainers/{name}.py" for name in TRAINERS if not missing(name)]
    scripts = [str(FOLDER / script) for script in (*SCRIPTS, *trainers)]
    words = ["--first", BESIDE_ANY_TORCH, *" + ".join(scripts).split()]
    with started(behind_tests(forked(2)), words) as job:
        yield job


def missing(name: str) -> list[str]:
    """What is not installed that a script with a trainer needs."""
    return [each for each in TRAINERS[name] if not importlib.util.find_spec(each)]


def said_by(job: Job, script: str) -> str:
    """What the ranks of a script said, when all of them have ended well."""
    job.until(lambda: f"{script} ended: " in job.stdout.read_text(), 100, f"{script} has ended")
    so_far = job.stdout.read_text()
    assert f"{script} ended: [0, 0]" in so_far, so_far + job.stderr.read_text()
    return re.split(r"\S+\.py ended: .*\n", so_far.partition(f"{script} ended: ")[0])[-1]


@pytest.mark.launched
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_two_workers(script: str, job: Job) -> None:
    assert reached(said_by(job, script)) > 0.8


@pytest.mark.launched
@pytest.mark.parametrize("script", TRAINERS)
def test_callbacks_of_trainers(script: str, job: Job) -> None:
    if names := missing(script):
        pytest.skip(f"{' and '.join(names)} not installed: `make extras`")
    said = said_by(job, f"{script}.py")
    good = reached(said) > 0.8 if script == "lightning_module" else reached(said, what="loss") < 1.0
    assert good, said


@pytest.mark.launched
def test_the_ranks_of_all_scripts_end_well(job: Job) -> None:
    job.wait().succeeded()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_one_worker(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert reached(capsys.readouterr().out) > 0.8
