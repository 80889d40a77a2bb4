"""`python -m hpc_localsgd summary`: what it says of one run, of several, and to a script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from launching import ROOT

from hpc_localsgd.analysis.compare import MEASURES
from hpc_localsgd.analysis.report.numbers import tiles_of
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands import record_command, summary
from hpc_localsgd.commands.summary import main
from hpc_localsgd.trajectory import Header, Trajectory, Writer


def record(
    folder: Path,
    status: str = "complete",
    t0: int = 0,
    clock: Literal["measured", "modelled"] = "measured",
    algorithm: str = "LocalSGD",
    steps: int = 0,
) -> Path:
    """Ten rounds of 4 steps of two workers: each computes 3 s, waits and transfers 0.5 s."""
    names = ("digits", algorithm, "every(4)", "mpi(2)")
    header = Header("seed: 0", *names, 2, 100, 0, steps=steps, t0=t0, clock=clock)
    with Writer(folder, header, mode="resume" if t0 else "new") as writer:
        for s in range(t0 // 4, 10):
            writer.round(
                step_begin=4 * s,
                step_end=4 * s + 4,
                lr=0.1,
                compute_s=np.full(2, 3.0),
                wait_s=np.full(2, 0.5),
                transfer_s=np.full(2, 0.5),
                payload_bytes=np.full(2, 400.0),
                wire_bytes=np.full(2, 400.0),
            )
        writer.series("eval/test/accuracy", 40, 0.875)
        writer.close(status)
    return folder


def figures(text: str) -> dict[str, str]:
    return {line[:23].strip(): line[23:].strip() for line in text.splitlines()[1:]}


def test_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(record(tmp_path / "run"))]) == 0
    said = figures(capsys.readouterr().out)
    assert said["status"] == "complete" and said["steps"] == "40"
    assert said["rounds"] == "10, against 40 of parallel SGD"
    assert said["communication"] == "25.0 % of the time"
    assert said["sent by a worker"] == "4 kB" and said["test accuracy"] == "87.50 %"


@pytest.mark.parametrize("algorithm", ["AllReduce", "AllReduce(compressor=Sign())"])
def test_parallel_sgd_exchanges_at_every_step_whatever_its_schedule(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--algorithm allreduce` with the default schedule was said to have as few as Local SGD."""
    run = record(tmp_path, algorithm=algorithm)
    assert main([str(run)]) == 0
    assert figures(capsys.readouterr().out)["rounds"] == "40, one a step: parallel SGD"
    (source,) = open_runs([run])
    (rounds,) = [measure for measure in MEASURES if measure.name == "rounds"]
    assert rounds.of(source) == 40
    assert ("40", "averages of gradients, one a step") in tiles_of(source)


def test_a_resumed_run_says_how_often(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, "stopped")
    record(tmp_path, t0=20)
    main([str(tmp_path)])
    assert figures(capsys.readouterr().out)["status"] == "complete, resumed once"


def test_several_runs_are_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(record(tmp_path / "a")), str(record(tmp_path / "b", "diverged"))]
    assert main([*runs, str(tmp_path)]) == 0  # a folder without a record is no run
    _, a, b = capsys.readouterr().out.splitlines()
    assert a.split() == [*[runs[0], "complete", "2", "40", "10"], *"87.50 % 1 s 25.0 %".split()]
    assert b.split()[:2] == [runs[1], "diverged"]


def test_what_is_modelled_is_marked_beside_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(record(tmp_path / "a")), str(record(tmp_path / "b", clock="modelled"))]
    assert main(runs) == 0
    _, a, b = capsys.readouterr().out.splitlines()
    assert a.endswith(" 25.0 %") and b.endswith(" 25.0 %, modelled")


def test_a_word_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(record(tmp_path / "a", "stopped")), str(tmp_path / "nothing")]
    assert main(["--status", *runs]) == 0
    assert capsys.readouterr().out.split() == ["stopped", "none"]


def test_the_step_at_which_the_last_start_began_for_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "a", "stopped")
    record(tmp_path / "a", "stopped", t0=20)
    runs = [tmp_path / "a", record(tmp_path / "b"), tmp_path / "nothing"]
    assert main(["--began", *map(str, runs)]) == 0
    assert capsys.readouterr().out.split() == ["20", "0", "none"]


def test_a_record_that_is_damaged_says_nothing_to_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path)
    (tmp_path / "trajectory-0001.h5").write_bytes(b"")
    assert main(["--began", str(tmp_path)]) == 2
    assert capsys.readouterr().out == ""


def test_a_run_without_a_round_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = Header("seed: 0", "digits", "LocalSGD", "every(4)", "mpi(2)", 2, 100, 0)
    Writer(tmp_path, header).close("stopped")
    assert main([str(tmp_path)]) == 0
    said = figures(capsys.readouterr().out)
    assert said["steps"] == "0" and said["communication"] == "-" and said["test accuracy"] == "-"


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no such trajectory" in capsys.readouterr().err


def test_of_runs_none_of_which_is_there_every_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "one") in said and str(tmp_path / "other") in said
    assert "no such trajectory" in said


def test_it_loads_neither_torch_nor_a_transport(tmp_path: Path) -> None:
    code = (
        "import sys; from hpc_localsgd.commands.summary import main\n"
        f"main([{str(record(tmp_path))!r}])\n"
        "assert not {'torch', 'mpi4py', 'horovod'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=240)


def test_watching_prints_a_line_whenever_a_run_has_moved_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record(tmp_path / "run", "running")
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:  # the first time nothing has changed
            shutil.rmtree(run)
            record(run, "complete")

    monkeypatch.setattr(summary.time, "sleep", sleep)
    assert main(["--watch", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rest = "step 40, test accuracy 87.50 %, communication 25.0 % of the time"
    assert lines == [f"{run}: running, {rest}", f"{run}: complete, {rest}"]
    assert slept == [summary.AGAIN_S] * 2


def test_a_run_that_has_not_ended_is_not_at_100_per_cent(tmp_path: Path) -> None:
    run = record(tmp_path, "running", steps=41)  # 97.6 %
    assert "step 40 of 41, 97 %" in summary.status_line(Trajectory(run))


def test_watching_looks_again_where_a_read_fell_into_a_flush(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record(tmp_path / "run", "running")
    whole = (run / "trajectory.h5").read_bytes()
    contents = [whole[:-900], whole[:-900], whole, *[whole[:-900]] * (record_command.MISSES + 1)]
    monkeypatch.setattr(
        summary.time, "sleep", lambda s: (run / "trajectory.h5").write_bytes(contents.pop(0))
    )
    assert main(["--watch", str(run)]) == 2 and not contents
    assert "cut short" in capsys.readouterr().err


def test_watching_passes_over_folders_without_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep has its logs beside the folders of its runs."""
    (tmp_path / "logs").mkdir()
    run = record(tmp_path / "run", "complete")
    assert main(["--watch", str(tmp_path / "logs"), str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}: complete")
    assert main(["--watch", str(tmp_path / "logs")]) == 2
