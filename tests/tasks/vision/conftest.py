"""A tree of images and the file it is packed into: made once, and copies to do harm to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_tasks import write_folder

from hpc_localsgd.commands.pack import main as pack_command


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    write_folder(folder / "images")
    assert pack_command([str(folder / "images"), str(folder / "images.h5")]) == 0
    return folder


@pytest.fixture
def tree(intact: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(intact / "images", tmp_path / "images"))


@pytest.fixture
def packed(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(intact / "images.h5", tmp_path))
