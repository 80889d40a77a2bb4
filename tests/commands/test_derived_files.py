"""A run that is replaced goes with all that was made of it, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_localsgd.commands.report import main as report
from hpc_localsgd.commands.sharpness.command import main as sharpness
from hpc_localsgd.train import main as train

RUN = ["--workers=2", "--task.hidden=4", "--steps=20", "--overwrite", "--snapshot-every=10"]
MINE = ("notes.txt", "accuracy.csv", "mine.png", "report/notes.html", "report/mine.pdf")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_overwrite_leaves_no_figure_or_page_of_the_run_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*RUN, "--figures=true", f"--out={tmp_path}"]) == 0
    record = files(tmp_path) - {"accuracy.png", "spread.png", "time.png"}
    assert report([str(tmp_path)]) == 0
    assert sharpness([str(tmp_path), "--samples=20", "--eigenvalues=1"]) == 0
    (tmp_path / "landscape-plane.h5").touch()
    made = files(tmp_path) - record
    assert {"report/report.html", "report/time.png", "report/time.pdf", "sharpness.h5"} < made
    for name in MINE:
        (tmp_path / name).write_text("a person's")
    assert train([*RUN, "--figures=false", f"--out={tmp_path}"]) == 0
    assert files(tmp_path) == record | set(MINE)


def test_the_folder_of_the_report_goes_when_nothing_else_is_in_it(tmp_path: Path) -> None:
    assert train([*RUN, "--figures=false", f"--out={tmp_path}"]) == 0
    assert report([str(tmp_path)]) == 0
    assert train([*RUN, "--figures=false", f"--out={tmp_path}"]) == 0
    assert not (tmp_path / "report").exists()


def test_overwrite_leaves_no_checkpoints_of_other_workers(tmp_path: Path) -> None:
    anew = [*RUN, "--figures=false", f"--out={tmp_path}"]
    assert train(anew) == 0
    before = files(tmp_path)
    more = [option for option in anew if option not in ("--workers=2", "--overwrite")]
    assert train([*more, "--workers=4", "--resume-from-mean"]) == 0
    assert (tmp_path / "checkpoints-of-other-workers").is_dir()
    (tmp_path / "checkpoints-new").mkdir()  # of a job that was killed while it wrote them
    (tmp_path / "checkpoints-new" / "rank-0-of-1.pt").touch()
    assert train(anew) == 0
    assert files(tmp_path) == before and not (tmp_path / "checkpoints-new").exists()
