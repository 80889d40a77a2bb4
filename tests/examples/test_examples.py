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
OURS = ("torchrun.py", "whole_loop.py")
# Script of two workers -> what must be installed.
SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(OURS, ()),
    "migrating/accelerate_before.py": ("accelerate",),
    "migrating/accelerate_after.py": ("accelerate",),
    "trainers/hugging_face.py": ("transformers", "accelerate"),
    "trainers/lightning_module.py": ("lightning",),
}
MAY_ABORT = "accelerate_before.py"  # now and then, in accelerate, as the interpreter ends
# Trainers import torchvision where it is; PyPI's, linked to CUDA, needs help beside a CPU's torch.
BESIDE_ANY_TORCH = """
from contextlib import suppress
from hpc_localsgd.tasks.torchvision_import import import_torchvision
with suppress(ImportError):
    import_torchvision()
"""


def reached(text: str, what: str = "accuracy") -> float:
    """The number that a script printed at its end."""
    found = re.search(rf"test {what}(?: of the \S+(?: model)?)?: (\d\.\d+)", text)
    assert found, text
    return float(found[1])


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """All scripts on two ranks each, one after another, forked from one process.

    They have the variables of `torchrun`.
    """
    scripts = [str(FOLDER / script) for script in SCRIPTS if not missing(script)]
    words = ["--first", BESIDE_ANY_TORCH, *" + ".join(scripts).split()]
    with started(behind_tests(forked(2)), words) as job:
        yield job


def missing(script: str) -> list[str]:
    """What a script needs that is not installed."""
    return [each for each in SCRIPTS[script] if not importlib.util.find_spec(each)]


@pytest.mark.launched
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_two_workers(script: str, job: Job) -> None:
    if names := missing(script):
        pytest.skip(f"{' and '.join(names)} not installed: `make extras`")
    name = Path(script).name
    job.until(lambda: f"{name} ended: " in job.stdout.read_text(), 100, f"{name} has ended")
    before, _, after = job.stdout.read_text().partition(f"{name} ended: ")
    said = re.split(r"\S+\.py ended: .*\n", before)[-1]
    if name != MAY_ABORT:
        assert after.startswith("[0, 0]"), said + job.stderr.read_text()
    if name == "hugging_face.py":
        assert reached(said, "loss") < 1.0
    else:
        assert reached(said) > (0.85 if "migrating" in script else 0.8)


@pytest.mark.launched
def test_nothing_else_runs(job: Job) -> None:
    ended = re.findall(r"(\S+\.py) ended", job.wait().stdout)
    assert ended == [Path(script).name for script in SCRIPTS if not missing(script)]


@pytest.mark.parametrize("script", OURS)
def test_scripts_of_one_worker(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert reached(capsys.readouterr().out) > 0.8
