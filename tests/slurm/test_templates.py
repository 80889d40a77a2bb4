"""The job templates are sound as texts: shells accept them, and what they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from launching import ROOT

TEMPLATES = sorted((ROOT / "slurm").glob("*.sbatch"))
SCRIPTS = [*TEMPLATES, *sorted((ROOT / "slurm").glob("**/*.sh")), ROOT / "slurm/horovodrun/ssh"]
PAGE = (ROOT / "slurm" / "README.md").read_text()
A_SCREEN = 36  # lines


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_bash_accepts_it(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing: apt-get install shellcheck")
    checked = subprocess.run(
        ["shellcheck", "--external-sources", *map(relative, SCRIPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("template", TEMPLATES, ids=relative)
def test_a_template_is_one_screen_and_survives_its_time_limit(template: Path) -> None:
    text = template.read_text()
    assert len(text.splitlines()) <= A_SCREEN
    options = re.findall(r"^#SBATCH --([\w-]+)(?:=(.+))?$", text, re.MULTILINE)
    given = dict(options)
    ranks = "mincpus" if "-" in given["nodes"] else "ntasks-per-node"  # see count_ranks
    assert {"requeue", "signal", "open-mode", "time", "nodes", ranks} <= given.keys()
    assert not ("-" in given["nodes"] and "ntasks-per-node" in given)
    assert given["open-mode"] == "append"
    assert re.fullmatch(r"B:USR2@\d+", given["signal"])
    assert "set -euo pipefail\nsource slurm/job.sh\n" in text


@pytest.mark.parametrize("template", TEMPLATES, ids=relative)
def test_the_files_a_template_names_exist(template: Path) -> None:
    for name in re.findall(r"\b(?:benchmarks|slurm)/[\w./-]+\w", template.read_text()):
        if name.startswith("benchmarks/configs") and not (ROOT / "benchmarks/configs").exists():
            pytest.skip("the recipes are not in this checkout")
        assert (ROOT / name).exists(), f"{template.name} names {name}"


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_the_page_names_it(path: Path) -> None:
    named = path.parent.name if path.name == "ssh" else path.name
    assert f"`{named}`" in PAGE, f"slurm/README.md does not name {named}"


def test_the_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert "://" in target or (ROOT / "slurm" / target).exists(), target
