"""No command replaces a file that another program, or another command, has written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import h5py
import pytest
import torch

from hpc_localsgd.__main__ import main
from hpc_localsgd.commands.export import main as export
from hpc_localsgd.commands.landscape import main as landscape
from hpc_localsgd.commands.sharpness.command import main as sharpness
from hpc_localsgd.trajectory import Trajectory

RUN = ["--workers=2", "--task.hidden=4", "--steps=8", "--snapshot-every=4", "--checkpoint-every=4"]
RUN = ["train", *RUN, "--figures=false"]
FEW = ["--samples=20", "--eigenvalues=1", "--trace-probes=0", "--steps=last"]
PLANE = ["--samples=20", "--points=2"]
Command = Callable[[list[str]], int]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "run"
    assert main([*RUN, f"--out={out}"]) == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["coordinates"] = [1.0, 2.0]


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ((sharpness, FEW), "trajectory.h5"),
        ((sharpness, FEW), "mine.h5"),
        ((sharpness, FEW), "new"),
        ((sharpness, FEW), "new.png"),
        ((landscape, PLANE), "trajectory.h5"),
        ((landscape, PLANE), "mine.h5"),
        ((landscape, PLANE), "new.png"),
        ((landscape, PLANE), "notes.h5"),
        ((export, []), "trajectory.h5"),
        ((export, []), "config.yaml"),
        ((export, ["--format=torch"]), "trajectory.h5"),
        ((export, ["--format=torch"]), "checkpoints/step-00000004/rank-0-of-1.pt"),
        ((export, ["--format=torch"]), "checkpoints"),
        ((export, ["--format=dcp"]), "."),
        ((export, ["--format=dcp"]), "checkpoints"),
        ((export, ["--format=dcp"]), "config.yaml"),
    ],
)
def test_overwrite_replaces_only_what_the_command_writes(
    command: tuple[Command, list[str]],
    out: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    third = Path(shutil.copytree(run, tmp_path / "third"))
    foreign_hdf5(third / "mine.h5")
    (third / "notes.csv").write_text("a person's")  # beside notes.h5 of a landscape
    before = files(third)
    work, options = command
    assert work([str(run), *options, f"--out={third / out}", "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "--out" in said and "Traceback" not in said
    assert files(third) == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ((sharpness, FEW), "new.h5"),
        ((landscape, PLANE), "new.h5"),
        ((export, []), "new.safetensors"),
        ((export, ["--format=torch"]), "new.pt"),
        ((export, ["--format=dcp"]), "new"),
    ],
)
def test_what_it_has_written_it_replaces(
    command: tuple[Command, list[str]], name: str, run: Path, tmp_path: Path
) -> None:
    work, options = command
    if name != "new":
        (tmp_path / name).touch()  # of mktemp, say: nothing is lost
    for _ in range(2):
        assert work([str(run), *options, f"--out={tmp_path / name}", "--overwrite"]) == 0
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_keeps_the_state_dict_before(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(named: object, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    words = [str(run), "--format=torch", f"--out={tmp_path / 'm.pt'}", "--overwrite"]
    assert export(words) == 0
    before = files(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    assert export(words) == 2
    assert "No space left" in capsys.readouterr().err
    assert files(tmp_path) == before


def other_weights(out: Path) -> None:
    (out / "model.safetensors").write_bytes(b"another program's")


def other_checkpoints(out: Path) -> None:
    (out / "checkpoints" / "epoch=1").mkdir(parents=True)
    (out / "checkpoints" / "epoch=1" / "weights.pt").write_bytes(b"another program's")


def other_record(out: Path) -> None:
    foreign_hdf5(out / "trajectory.h5")


def other_figure(out: Path) -> None:
    (out / "accuracy.png").write_bytes(b"another program's")


@pytest.mark.parametrize("put", [other_weights, other_checkpoints, other_record, other_figure])
@pytest.mark.parametrize("how", ["", "--overwrite", "--resume=auto"])
def test_a_run_leaves_the_files_of_another_program(
    put: Callable[[Path], None], how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path)
    before = files(tmp_path)
    assert main([*RUN, f"--out={tmp_path}", *([how] if how else [])]) == 2
    assert files(tmp_path) == before
    said = capsys.readouterr().err
    assert ("is not of a run of this package" in said) or (not how and "holds a run" in said)


def test_what_a_killed_run_left_among_its_checkpoints_is_no_hindrance(tmp_path: Path) -> None:
    assert main([*RUN, f"--out={tmp_path}"]) == 0
    left = ("damaged-step-00000004", "making-step-00000008", "finished-step-00000008", ".nfs0001")
    for name in left:
        (tmp_path / "checkpoints" / name).mkdir()
    assert main([*RUN, f"--out={tmp_path}", "--overwrite"]) == 0
    assert not {file.name for file in (tmp_path / "checkpoints").iterdir()}.intersection(left)


def test_an_export_that_fails_in_its_middle_leaves_no_mixture_of_two_models(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **options: object) -> None:
        raise OSError("the disk is full")

    words = [str(run), "--format=dcp", f"--out={tmp_path / 'dcp'}"]
    assert export(words) == 0 and (tmp_path / "dcp" / ".metadata").exists()
    monkeypatch.setattr("torch.distributed.checkpoint.save", fail)
    assert export([*words, "--overwrite"]) == 2
    assert not (tmp_path / "dcp" / ".metadata").exists()  # without which torch loads nothing


def test_a_run_keeps_the_configuration_it_is_started_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = "# chosen after a week\nseed: 3\n"
    (tmp_path / "config.yaml").write_text(mine)
    words = [*RUN, f"--config={tmp_path / 'config.yaml'}", f"--out={tmp_path}"]
    assert main(words) == 0
    assert "config.yaml as it was is config-1.yaml now" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert main([*words, "--overwrite", "--seed=4"]) == 0
    assert [p.name for p in sorted(tmp_path.glob("config*"))] == ["config-1.yaml", "config.yaml"]
    assert (tmp_path / "config-1.yaml").read_text() == mine
    assert (tmp_path / "config.yaml").read_text() == Trajectory(tmp_path).config_text


def test_overwrite_replaces_checkpoints_that_lie_elsewhere(tmp_path: Path) -> None:
    out, scratch = tmp_path / "run", tmp_path / "scratch"
    out.mkdir(), scratch.mkdir()
    (out / "checkpoints").symlink_to(scratch)
    assert main([*RUN, f"--out={out}"]) == 0
    assert main([*RUN, f"--out={out}", "--overwrite", "--seed=7", "--steps=4"]) == 0
    assert [place.name for place in scratch.iterdir()] == ["step-00000004"]
    assert main([*RUN, f"--out={out}", "--resume", "--seed=7", "--steps=4"]) == 0


def test_overwrite_refuses_where_a_checkpoint_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, f"--out={tmp_path}"]) == 0
    before = files(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda place, ignore_errors: None)
    assert main([*RUN, f"--out={tmp_path}", "--overwrite", "--seed=4"]) == 2
    assert "checkpoints/step-00000004 of the run before cannot" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_overwrite_leaves_no_live_curves_of_the_run_before(tmp_path: Path) -> None:
    assert main([*RUN, f"--out={tmp_path}"]) == 0
    events = tmp_path / "tensorboard"
    events.mkdir()
    for name in ("events.out.tfevents.1.host.2.0", "mine.txt"):
        (events / name).touch()
    assert main([*RUN, f"--out={tmp_path}", "--overwrite"]) == 0
    assert [file.name for file in events.iterdir()] == ["mine.txt"]


def test_a_sweep_keeps_a_grid_of_the_name_of_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "sweep.json"
    grid.write_text('{"options": {"steps": 2}, "grid": {"workers": [2]}}')
    before = files(tmp_path)
    assert main(["sweep", str(grid), f"--out={tmp_path}"]) == 2
    assert "is not the list of a sweep's runs" in capsys.readouterr().err
    assert {**files(tmp_path), "sweep.lock": b""} == {**before, "sweep.lock": b""}


@pytest.mark.parametrize("name", ["report.html", "time.csv", "time.png", "trace.json"])
def test_a_page_leaves_files_of_another_program(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("a person's")
    formats = [name[-3:]] if name.startswith("time") else []
    assert main(["report", str(run), "--trace", f"--out={tmp_path}", "--formats", *formats]) == 2
    assert f"cannot write {tmp_path / name}: what is there is not" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "a person's"


@pytest.mark.parametrize(
    "name", ["compare.html", "compare.csv", "compare.md", "compare.tex", "whatif.csv", "whatif.md"]
)
def test_tables_leave_files_of_another_program(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("a person's\n")
    assert main(tabled(name.partition(".")[0], run, tmp_path)) == 2
    assert f"cannot write {tmp_path / name}: what is there is not" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "a person's\n"


@pytest.mark.parametrize("command", ["compare", "whatif"])
def test_tables_replace_those_before(command: str, run: Path, tmp_path: Path) -> None:
    words = tabled(command, run, tmp_path)
    assert main(words) == 0 == main(words)


def tabled(command: str, run: Path, out: Path) -> list[str]:
    no_figures = ["--formats"] if command == "compare" else []
    return [command, str(run), f"--out={out}", *no_figures]


@pytest.mark.parametrize("suffix", ["csv", "png"])
def test_figures_replace_those_before(suffix: str, tmp_path: Path) -> None:
    words = ["plan", "--steps=8", "--task.hidden=4", f"--figure={tmp_path / 'a'}.{suffix}"]
    assert main(words) == 0 == main(words)


def test_the_report_of_a_run_is_replaced_also_where_version_0_1_marked_nothing(run: Path) -> None:
    words = ["report", str(run), "--formats", "png"]
    assert main(words) == 0
    page = run / "report" / "report.html"
    for file in (page, page.with_name("time.png")):
        file.write_text("without a mark")
    assert main(words) == 0 and b"Made by" in page.read_bytes()


def test_the_figure_of_a_plan_leaves_files_of_another_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--steps=8", "--task.hidden=4", f"--figure={tmp_path / 'a.csv'}"]
    (tmp_path / "a.csv").write_text("a person's\n")
    assert main(words) == 2
    assert "not a figure of this package" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == "a person's\n"
