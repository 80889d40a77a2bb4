"""setup.py, constraints.txt, environment.yml and the code must tell the same story."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from hpc_localsgd.environment import patches, stages
from hpc_localsgd.run.loggers import NEEDS

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# What conda-forge calls differently, and what it brings instead of our own steps.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
CONDA_ONLY = {"python", "pip", "cxx-compiler", "make"}
# Compiled by our own script, and parts of jsonargparse[signatures].
NOT_IN_CONDA = {"horovod", "docstring-parser", "typeshed-client"}
(LISTED,) = re.findall(r"^EXTRAS = (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
EXTRAS = set(LISTED.split())  # of `make extras`
NOT_IN_CONDA |= EXTRAS  # whoever wants one of them adds it


def constants() -> dict[str, object]:
    """The lists of setup.py, read without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    wanted = ("REQUIRES", "EXTRAS")
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    named = {node.targets[0].id: node.value for node in assigned if hasattr(node.targets[0], "id")}
    return {name: ast.literal_eval(named[name]) for name in wanted}


def required() -> list[Requirement]:
    lists = constants()
    extras = [text for texts in lists["EXTRAS"].values() for text in texts]
    return [Requirement(text) for text in [*lists["REQUIRES"], *extras]]


def pins(python: str = "3.11") -> dict[str, str]:
    """Name -> exact version, for one Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    texts = [line for line in lines if line and not line.startswith("#")]
    environment = {**default_environment(), "python_version": python, "extra": ""}
    here = [r for r in map(Requirement, texts) if not r.marker or r.marker.evaluate(environment)]
    found = {canonical(r.name): str(r.specifier) for r in here}
    assert len(found) == len(here), "a name is pinned twice"
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def conda() -> dict[str, str]:
    """Name on PyPI -> version as conda writes it ("" for any), the pip part included."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    texts = [text for text in listed if isinstance(text, str)]
    texts += [text for part in listed if isinstance(part, dict) for text in part["pip"]]
    split = (re.match(r"([\w-]+)(?:\[\w+\])?(.*)", text) for text in texts)
    return {CONDA_NAMES.get(m[1], m[1]): m[2] for m in split if m}


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_required_is_pinned_within_its_bounds(python: str) -> None:
    pinned = pins(python)
    for requirement in required():
        version = pinned[canonical(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_is_exact(python: str) -> None:
    assert all(re.fullmatch(r"==[\w.+]+", version) for version in pins(python).values())


def test_conda_gives_the_same_packages() -> None:
    assert set(conda()) - CONDA_ONLY == set(pins()) - NOT_IN_CONDA


def test_conda_does_not_contradict_the_pins() -> None:
    for name, version in conda().items():
        if name in CONDA_ONLY or not version.startswith("="):
            continue
        pinned = pins()[name].removeprefix("==")
        wanted = version.lstrip("=")
        assert pinned == wanted or pinned.startswith(wanted + "."), (name, pinned, wanted)


def test_the_horovod_that_is_built_is_the_one_that_is_pinned() -> None:
    assert pins()["horovod"] == f"=={patches.HOROVOD_VERSION}"


def test_make_env_asks_for_extras_that_exist() -> None:
    assert set(stages.EXTRAS.split(",")) <= set(constants()["EXTRAS"])


def test_make_extras_installs_every_logger_and_every_trainer_of_the_examples() -> None:
    shown = (ROOT / "examples").rglob("*.py")
    asked = {name for path in shown for name in re.findall(r"pip install (.+)", path.read_text())}
    trainers = {name for names in asked for name in names.split()}
    loggers = {IMPORTED_AS.get(name, name) for name in NEEDS.values()}
    assert trainers and EXTRAS == loggers | trainers
    assert set(pins()) >= EXTRAS


def test_the_version_is_said_once_and_the_same_everywhere() -> None:
    import hpc_localsgd

    assert f'version="{hpc_localsgd.__version__}"' in (ROOT / "setup.py").read_text()


# What a module is imported as, where that differs from the name it is installed by.
IMPORTED_AS = {
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
}


def imported() -> set[str]:
    """The packages that ours imports anywhere, as they are called on PyPI."""
    found: set[str] = set()
    for path in (ROOT / "hpc_localsgd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    ours = {*sys.stdlib_module_names, "hpc_localsgd", "horovod"}
    return {canonical(IMPORTED_AS.get(name, name)) for name in found - ours}


def test_what_is_imported_is_required() -> None:
    assert imported() <= {canonical(requirement.name) for requirement in required()}


def test_files_that_are_not_python_are_installed_too() -> None:
    package = ROOT / "hpc_localsgd"
    found = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    (listed,) = re.findall(r"package_data=(\{.*?\})", (ROOT / "setup.py").read_text(), re.S)
    patterns = ast.literal_eval(listed)["hpc_localsgd"]
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {p for p in found if p.suffix != ".py"} == installed
