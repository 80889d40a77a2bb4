"""What a build needs and pip cannot bring: a C++ compiler, Python's headers, venv.

Each check returns None or one plain sentence that says what to install. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

SUPPORTED = ((3, 10), (3, 13))  # Python versions that torch, Horovod and our pins were tried with

_CXX20_SOURCE = "#include <concepts>\n#include <span>\nint main() { return 0; }\n"
_DEBIAN_COMPILER = "on Debian or Ubuntu: apt-get install g++ make (or load your cluster's gcc)"


def problems(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each problem; none means that the build can begin."""
    answers = [
        python_problem(sys.version_info[:2]),
        venv_problem(importlib.util.find_spec),
        headers_problem(Path(sysconfig.get_paths()["include"])),
        compiler_problem(environ),
    ]
    return [answer for answer in answers if answer]


def python_problem(version: tuple[int, ...]) -> str | None:
    """Say which Pythons are supported, when this is none of them."""
    if SUPPORTED[0] <= tuple(version) <= SUPPORTED[1]:
        return None
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    given = ".".join(map(str, version))
    return (
        f"Python {given} is not supported; {low} to {high} are. Type: make env PYTHON=python{high}"
    )


def venv_problem(find_spec: Callable[[str], object | None]) -> str | None:
    """Say how to get venv, which Debian ships apart from Python."""
    if find_spec("venv") and find_spec("ensurepip"):
        return None
    return "Python's venv is missing; on Debian or Ubuntu: apt-get install python3-venv"


def headers_problem(include: Path) -> str | None:
    """Say how to get Python.h, without which no extension compiles."""
    if (include / "Python.h").exists():
        return None
    return (
        f"Python.h is missing (looked in {include}); on Debian or Ubuntu: "
        "apt-get install python3-dev"
    )


def compiler_problem(environ: Mapping[str, str]) -> str | None:
    """Say what to install when no C++ compiler, or none that knows C++20, is there."""
    compiler = find_compiler(environ)
    if compiler is None:
        named = f" (CXX={environ['CXX']} is not a program)" if environ.get("CXX") else ""
        return f"No C++ compiler was found{named}; {_DEBIAN_COMPILER}."
    if not _compiles_cxx20(compiler):
        return (
            f"{compiler} does not compile C++20, which torch's headers need (gcc 10 or newer); "
            f"{_DEBIAN_COMPILER}, or name another one: CXX=g++-12 make env"
        )
    return None


def find_compiler(environ: Mapping[str, str]) -> str | None:
    """Return the C++ compiler CMake will take: $CXX, else c++, g++ or clang++ on PATH."""
    path = environ.get("PATH")
    if named := environ.get("CXX"):
        return shutil.which(named.split()[0], path=path)
    names = ("c++", "g++", "clang++")
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _compiles_cxx20(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cc")
        source.write_text(_CXX20_SOURCE)
        command = [compiler, "-std=c++20", str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True).returncode == 0
