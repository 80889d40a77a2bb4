"""`make gpu`, tried without a GPU: every part runs, and needs no more than it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_NEEDED = (  # networkx comes with torch
    *("horovod", "mpi4py", "scipy", "sklearn", "matplotlib", "rich", "jinja2"),
    *("safetensors", "torchvision", "PIL", "hdf5plugin", "pytest"),
)


def started(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)


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


def test_a_part_that_fails_is_reported_and_the_others_run(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    program = """
import sys, gpu
from on_gpu.section import Section
def broken(bench): raise RuntimeError("no kernel image")
gpu.PARTS = {"First": broken, "Second": lambda bench: Section("fine", {"number": 3})}
sys.exit(gpu.main(sys.argv[1:]))
"""
    done = started(program, "--device", "cpu", "--out", str(out))
    assert done.returncode == 1
    assert "- First: failed: no kernel image" in out.read_text() and "fine" in out.read_text()
    assert json.loads(out.with_suffix(".json").read_text())["Second"] == {"number": 3}


def test_without_a_gpu_it_says_how_it_can_be_tried(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = started("import sys, gpu; gpu.main([])")
    assert done.returncode == 2 and "--device cpu --quick tries the script" in done.stderr


def test_every_run_that_is_measured_on_a_gpu_can_be_made() -> None:
    """Their options are right, and `plan` foretells their memory; only small tensors are made."""
    program = """
from on_gpu import whole_runs
for name, words in whole_runs.RUNS.items():
    found = whole_runs.foretold([*words, "--workers=1", "--steps=4"])
    assert found.total > found.checkpointed > found.parameters > 0, (name, found)
"""
    done = started(program)
    assert done.returncode == 0, done.stderr
