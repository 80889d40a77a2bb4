"""Pages as a browser shows them: wide and narrow, light and dark, on paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.commands.report import main as report

from .synthetic import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
    ),
]
DARK = "--blink-settings=preferredColorScheme=0"
PATIENCE_S = 300


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    synthetic(folder / "run", steps=200, switch=80)
    assert report([str(folder / "run"), "--out", str(folder / "out"), "--formats", "png"]) == 0
    return folder / "out" / "report.html"


def opened(page: Path, folder: Path, *options: str) -> None:
    """Open the page without a screen, and end."""
    assert CHROMIUM is not None
    # Root needs --no-sandbox, as in a container; the page is our own.
    start = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    start += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000"]
    subprocess.run(
        [*start, *options, page.as_uri()], check=True, capture_output=True, timeout=PATIENCE_S
    )


def seen(page: Path, folder: Path, width: int, *options: str) -> np.ndarray:
    """A picture of the page, [height, width, 3], 0..255."""
    from PIL import Image

    shot = folder / "shot.png"
    opened(page, folder, f"--window-size={width},1600", f"--screenshot={shot}", *options)
    with Image.open(shot) as picture:
        return np.asarray(picture.convert("RGB"), dtype=int)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_its_window(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    picture = seen(page, tmp_path, width, *([DARK] if scheme == "dark" else []))
    assert picture.shape[1] == width
    background = np.median(picture.reshape(-1, 3), axis=0)
    assert background.max() < 60 if scheme == "dark" else background.min() > 240
    # Nothing is cut at the edges: they show the background alone.
    for edge in (picture[:, :4], picture[:, -4:]):
        assert (np.abs(edge - background) < 12).all()
    # And something is in between, up to the widths of the margins.
    ink = (np.abs(picture - background) > 60).any(axis=2).any(axis=0)
    assert ink[: width // 4].any() and ink[width // 2 :].any()


def test_a_printed_page_is_white(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    opened(page, tmp_path, DARK, f"--print-to-pdf={paper}")
    printed = paper.read_bytes()
    assert printed.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20
