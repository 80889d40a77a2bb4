"""Which torch is installed, and whether CUDA and NCCL are there to build Horovod for GPUs.

Reads files only: importing torch takes seconds, and this also runs when nothing is to be done.
Standard library only.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TorchBuild:
    """The torch of this environment."""

    version: str  # "2.13.0+cpu"
    cuda: str | None  # "13.0", or None for a build without CUDA


@dataclass(frozen=True)
class Nccl:
    """Folders of NCCL's header and library."""

    include: Path
    lib: Path


@dataclass(frozen=True)
class Gpu:
    """GPU libraries that Horovod is built with: without CUDA it takes CPU tensors only."""

    cuda: Path | None = None
    nccl: Nccl | None = None


def installed_torch() -> TorchBuild | None:
    """Return the torch this Python would import, or None."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return parse_version(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))


def parse_version(text: str) -> TorchBuild | None:
    """Read torch/version.py without running it."""
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= '([^']+)'", text, re.MULTILINE)
    return TorchBuild(version[1], cuda[1] if cuda else None) if version else None


def find_cuda_home(environ: Mapping[str, str]) -> Path | None:
    """Return a CUDA toolkit with compiler, headers and runtime, or None where one is missing."""
    names = ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX")
    homes = [Path(environ[name]) for name in names if environ.get(name)]
    if nvcc := shutil.which("nvcc", path=environ.get("PATH")):
        homes.append(Path(nvcc).resolve().parent.parent)
    return next(filter(_is_whole, [*homes, Path("/usr/local/cuda")]), None)


def _is_whole(home: Path) -> bool:
    headers = ("include/cuda_runtime.h", "targets/*/include/cuda_runtime.h")
    runtimes = ("lib*/libcudart*", "lib/*/libcudart*", "targets/*/lib/libcudart*")
    has_nvcc = (home / "bin" / "nvcc").exists()
    return has_nvcc and _any(home, headers) and _any(home, runtimes)


def _any(home: Path, patterns: tuple[str, ...]) -> bool:
    return any(True for pattern in patterns for _ in home.glob(pattern))


def find_gpu(environ: Mapping[str, str], prefix: Path) -> Gpu:
    """Return what Horovod can be built with for the torch and the tools that are here."""
    torch = installed_torch()
    cuda = find_cuda_home(environ) if torch and torch.cuda else None
    return Gpu(cuda, find_nccl(environ, prefix, cuda) if cuda else None)


def find_nccl(environ: Mapping[str, str], prefix: Path, cuda: Path) -> Nccl | None:
    """Return the NCCL to build against, or None."""
    for home in _nccl_homes(environ, prefix, cuda):
        if not (home / "include" / "nccl.h").exists():
            continue
        for lib in (home / "lib", home / "lib64", home / "lib" / "x86_64-linux-gnu"):
            if (lib / "libnccl.so").exists() or (lib / "libnccl.so.2").exists():
                return Nccl(home / "include", lib)
    return None


def _nccl_homes(environ: Mapping[str, str], prefix: Path, cuda: Path) -> Iterator[Path]:
    named = ("HOROVOD_NCCL_HOME", "NCCL_HOME", "NCCL_ROOT", "CONDA_PREFIX")
    yield from (Path(environ[name]) for name in named if environ.get(name))
    # The wheel that torch itself loads: the same library at run time, so the best match.
    yield from prefix.glob("lib/python3*/site-packages/nvidia/nccl")
    yield from (prefix, cuda, Path("/usr"))
