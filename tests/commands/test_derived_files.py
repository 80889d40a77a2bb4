"""A run that is replaced goes with all that was made of it, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_localsgd.commands.landscape import main as landscape
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.commands.sharpness.command import main as sharpness
from hpc_localsgd.train import main as train

pytestmark = pytest.mark.usefixtures("undrawn")
RUN = ["--workers=2", "--task.hidden=4", "--steps=20", "--overwrite", "--snapshot-every=10"]
MINE = (
    "notes.txt",
    "landscape-mine.png",
    "report/mine.csv",
    "accuracy.csv",
    "mine.png",
    "report/notes.html",
    "report/mine.pdf",
)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_overwrite_leaves_no_figure_or_page_of_the_run_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*RUN, "--figures=true", f"--out={tmp_path}"]) == 0
    record = files(tmp_path) - {"accuracy.png", "spread.png", "time.png"}
    formats = ("--formats", "png", "pdf", "svg", "csv")
    assert report([str(tmp_path), "--width=3.25in", "--trace", *formats]) == 0
    assert sharpness([str(tmp_path), "--samples=20", "--eigenvalues=1"]) == 0
    assert landscape([str(tmp_path), "--samples=20", "--points=2"]) == 0
    made = files(tmp_path) - record
    kinds = ("html", "png", "pdf", "svg", "csv", "json", "h5")
    assert {name.rpartition(".")[2] for name in made} == set(kinds)
    assert {"report/paper/time.pdf", "report/trace.json", "landscape-pca.csv"} < made
    for name in MINE:
        (tmp_path / name).write_text("a person's")
    assert train([*RUN, "--figures=false", f"--out={tmp_path}"]) == 0
    assert files(tmp_path) == record | set(MINE)


def test_the_folder_of_the_report_goes_when_nothing_else_is_in_it(tmp_path: Path) -> None:
    assert train([*RUN, "--figures=false", f"--out={tmp_path}"]) == 0
    assert report([str(tmp_path), "--formats", "csv"]) == 0
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
