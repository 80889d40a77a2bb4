"""The wheel and what is said of it elsewhere: conda's recipe, CITATION.cff."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import hpc_localsgd

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the files that git knows, as a release is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    copied(source, "hpc_localsgd", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def copied(folder: Path, *what: str) -> set[str]:
    """Copy what git knows; give the names."""
    known = subprocess.run(
        ["git", "ls-files", "-z", *what], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, known):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return set(known) - {""}


def needed(wheel: Path) -> dict[str, set[str]]:
    """Extra ("" for none) -> the names of what it brings."""
    with zipfile.ZipFile(wheel) as files:
        inside = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        lines = email.message_from_bytes(files.read(inside)).get_all("Requires-Dist") or []
    found: dict[str, set[str]] = {}
    for each in map(Requirement, lines):
        extra = re.search(r'extra == "(\w+)"', str(each.marker or ""))
        found.setdefault(extra[1] if extra else "", set()).add(each.name)
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "hpc_localsgd"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel) as files:
        missing = set(listed.stdout.split()) - set(files.namelist())
    assert not missing, f"not in the wheel: {sorted(missing)} (package_data in setup.py)"


@pytest.mark.slow
def test_the_source_distribution_is_a_checkout(tmp_path: Path) -> None:
    known = copied(tmp_path / "source")
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "source", capture_output=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not known - held, f"not in the sdist: {sorted(known - held)} (MANIFEST.in)"


@pytest.mark.slow
def test_nothing_of_training_comes_unasked(wheel: Path) -> None:
    found = needed(wheel)
    assert not found[""] & {"torch", "mpi4py", "scikit-learn", "horovod", "safetensors"}
    assert "torch" in found["train"] and found["mpi"] == {"mpi4py"} and found["horovod"]
    assert {"tensorboard", "wandb", "mlflow"} <= set(found)


@pytest.mark.slow
def test_conda_needs_the_same(wheel: Path) -> None:
    text = (ROOT / "slurm" / "conda" / "meta.yaml").read_text()
    recipe = yaml.safe_load(re.sub(r"{%.*%}\n|{{.*?}}", "", text))
    run = {
        line.split()[0].replace("matplotlib-base", "matplotlib")
        for line in recipe["requirements"]["run"]
    }
    of_signatures = {"docstring_parser", "typeshed_client"}  # of jsonargparse[signatures]
    assert run - {"python"} - of_signatures == needed(wheel)[""]


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == hpc_localsgd.__version__
    recipe = (ROOT / "slurm" / "conda" / "meta.yaml").read_text()
    assert f'version = "{hpc_localsgd.__version__}"' in recipe


@pytest.mark.parametrize("file", ["Dockerfile", "hpc_localsgd.def"])
def test_the_containers_install_what_the_readme_asks_for(file: str) -> None:
    recipe = (ROOT / "slurm" / "containers" / file).read_text()
    asked = re.search(r"`apt-get install (.+?)`", (ROOT / "README.md").read_text())
    assert asked and set(asked[1].split()) <= set(recipe.split())
    assert "make env" in recipe


@pytest.mark.parametrize("file", ["Dockerfile", "hpc_localsgd.def"])
def test_what_a_container_recipe_names_exists(file: str) -> None:
    """Files of the checkout, targets of make, commands of the package, PyTorch's index."""
    path = ROOT / "slurm" / "containers" / file
    recipe, readme = path.read_text(), (ROOT / "README.md").read_text()
    named = re.findall(r"\b(?:slurm|docs|examples)/[\w./]+\w", recipe)
    assert f"slurm/containers/{file}" in named
    assert [name for name in named if not (ROOT / name).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)$", recipe, re.MULTILINE)) == {"env"} <= set(targets)
    commands = re.findall(r"hpc_localsgd[\", .]+([a-z]+)\b", recipe)
    assert {"doctor"} <= set(commands)
    assert "https://download.pytorch.org/whl/cpu" in recipe and "pytorch.org/whl/cpu" in readme


def test_both_containers_are_of_one_debian_whose_python_we_support() -> None:
    folder = ROOT / "slurm" / "containers"
    bases = {
        re.search(r"(?:ARG BASE=|From: )(\S+)", (folder / file).read_text())[1]  # type: ignore[index]
        for file in ("Dockerfile", "hpc_localsgd.def")
    }
    assert bases == {"debian:12-slim"}  # its Python is 3.11, its compiler gcc 12
    assert "Python 3.10 to 3.13" in (ROOT / "README.md").read_text()


def test_what_the_site_file_binds_is_what_the_image_is_called() -> None:
    image = re.search(r"apptainer build ~/(\S+)", recipe_of("hpc_localsgd.def"))
    site = (ROOT / "slurm" / "sites" / "container.sh").read_text()
    assert image and f"$HOME/{image[1]}" in site


def test_images_leave_out_what_is_built_here() -> None:
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "runs"} <= set(left_out)
    assert "rm -rf .venv build runs" in recipe_of("hpc_localsgd.def")  # Apptainer copies all


def test_conda_environment_has_the_versions_of_the_tests() -> None:
    """`numpy=2.4` in environment.yml is the numpy of constraints.txt."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    of_conda = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    stated = [re.fullmatch(r"([\w-]+)=([\d.]+)", str(each)) for each in environment["dependencies"]]
    compared = 0
    for found in filter(None, stated):
        version = pinned.get(of_conda.get(found[1], found[1]))
        if version:
            assert (version + ".").startswith(found[2] + "."), (
                f"{found[0]}, but {version} is tested"
            )
            compared += 1
    assert compared > 8


def recipe_of(file: str) -> str:
    return (ROOT / "slurm" / "containers" / file).read_text()
