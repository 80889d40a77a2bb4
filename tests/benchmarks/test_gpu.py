"""`make gpu`, tried without a GPU: every part runs, and needs no more than it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # as its scripts see each other

from on_gpu import whole_runs

ROOT = Path(__file__).parents[2]
NOT_NEEDED = (  # networkx comes with torch
    *("horovod", "mpi4py", "scipy", "sklearn", "matplotlib", "rich", "jinja2"),
    *("safetensors", "torchvision", "PIL", "hdf5plugin", "pytest"),
)
# A part that fails before one that does not; and then no words at all.
BROKEN = """
import sys, gpu
from on_gpu.section import Section
def broken(bench): raise RuntimeError("no kernel image")
gpu.PARTS = {"First": broken, "Second": lambda bench: Section("fine", {"number": 3})}
print("ended with", gpu.main(sys.argv[1:]))
sys.exit(gpu.main([]))
"""


def started(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The report of which a part failed, and what was said."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.md"
    return out, started(BROKEN, "--device", "cpu", "--out", str(out))


def test_every_part_runs_without_what_is_not_needed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED!r}))"
    program = f"{blocked}; import gpu; sys.exit(gpu.main(sys.argv[1:]))"
    done = started(program, "--device", "cpu", "--quick", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["Runs that are continued"] == {"ResNet-8": "yes"}
    assert found["A step between two syncs"]["conv, attach"]["ms"] > 0
    assert found["Averages and codecs"]["mean of 8 workers"] > 0
    workers = found["Many workers on one device"]["Transformer, 2 workers, bf16"]
    assert workers["loop"] > 0 and workers["vmap"] > 0
    assert "Nothing is wrong." in out.read_text()


def test_a_part_that_fails_is_reported_and_the_others_run(
    broken: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = broken
    assert "ended with 1" in done.stdout, done.stderr
    assert "- First: failed: no kernel image" in out.read_text() and "fine" in out.read_text()
    assert json.loads(out.with_suffix(".json").read_text())["Second"] == {"number": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_it_can_be_tried(
    broken: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert broken[1].returncode == 2
    assert "--device cpu --quick tries the script" in broken[1].stderr


@pytest.mark.parametrize("name", whole_runs.RUNS)
def test_every_run_that_is_measured_on_a_gpu_can_be_made(name: str) -> None:
    """Its options are right, and `plan` foretells its memory; only small tensors are made."""
    found = whole_runs.foretold([*whole_runs.RUNS[name], "--workers=1", "--steps=4"])
    assert found.total > found.checkpointed > found.parameters > 0, found
