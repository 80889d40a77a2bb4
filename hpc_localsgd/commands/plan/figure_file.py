"""Where the figure of a plan goes: checked before anything is planned."""

from __future__ import annotations

import os
from pathlib import Path

from hpc_localsgd.analysis.formats import FORMATS
from hpc_localsgd.analysis.own_files import is_foreign
from hpc_localsgd.errors import ConfigurationError


def check_figure(name: str) -> None:
    """Check that a figure can be written, before anything is planned.

    Args:
        name: Of the file.

    Raises:
        ConfigurationError: Its ending is of no format, or its folder cannot be written.
    """
    try:
        _check(name, Path(name))
    except OSError as error:
        raise ConfigurationError(f"--figure {name}: {error.strerror}; give another name") from error


def _check(name: str, path: Path) -> None:
    if path.suffix[1:] not in FORMATS:
        endings = ", ".join(f".{suffix}" for suffix in FORMATS)
        raise ConfigurationError(f"--figure {name}: give a name that ends in {endings}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(
            f"--figure {name}: {path.parent} is not a folder: type a name in a folder that exists"
        )
    if path.is_dir():
        raise ConfigurationError(f"--figure {name}: it is a folder; give the name of a file")
    if is_foreign(path):
        raise ConfigurationError(
            f"--figure {name} is there and is not a figure of this package: give another name"
        )
