"""A command line of a run as it is read: its configuration, or why it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_localsgd.commands.configuration.config import Config, parse
from hpc_localsgd.errors import ConfigurationError


def config(*argv: str) -> Config:
    return parse(argv).config


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(argv)
    return str(caught.value)


def in_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return f"--config={path}"
