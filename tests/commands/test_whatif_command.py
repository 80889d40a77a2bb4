"""`python -m hpc_localsgd whatif` as it is typed: pages, tables, refusals, and SimGrid."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked_runs import BYTES, record

from hpc_localsgd.__main__ import main as door
from hpc_localsgd.commands.whatif import command
from hpc_localsgd.commands.whatif.answers import answers
from hpc_localsgd.commands.whatif.basis import basis
from hpc_localsgd.commands.whatif.page import about
from hpc_localsgd.trajectory import Trajectory


def test_a_step_is_shown_with_its_deviation_in_its_own_unit(tmp_path: Path) -> None:
    known = basis(Trajectory(record(tmp_path)), [], None)
    varied = replace(known, times=replace(known.times, off=0.2))  # of 0.1 s
    assert "12 steps of 100 ms ± 20 ms, " in about(varied)[0]


def test_on_a_terminal_no_line_is_wider_than_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # a long path would not be broken
    words = ["whatif", "run", "--workers", "64", "4096"]
    assert door(words) == 0
    whole = capfd.readouterr().out
    monkeypatch.setattr(command, "columns_of_output", lambda: 80)
    assert door(words) == 0
    narrow = capfd.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    assert set(whole.split()) <= set(narrow.split())


def test_tables_are_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, out = record(tmp_path / "run"), tmp_path / "tables"
    words = [run, "--fabric", "1GbE", "--every", "1", "6", "--out", str(out)]
    assert door(["whatif", *words]) == 0
    said = capfd.readouterr().out
    assert "4 workers, LocalSGD, every(3), 12 steps of 100 ms" in said and "whatif.csv" in said
    assert "transferring 800 ms (measured)" in said
    rows = list(csv.DictReader((out / "whatif.csv").open()))
    assert [row["rounds"] for row in rows] == ["12", "2"]
    for row in rows:
        parts = [float(row[f"{name}_s"]) for name in ("computing", "waiting", "transferring")]
        assert sum(parts) == pytest.approx(float(row["total_s"]))
        assert float(row["parallel_total_s"]) / float(row["total_s"]) == float(row["speed_up"])
        assert all(math.isfinite(float(row[name])) for name in list(row)[4:])
    assert (out / "whatif.md").read_text().count("| 1GbE |") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fabric", "moon"], "unknown network 'moon'"),
        (["--fabric", "10GbE,moon=3"], "'moon=3' is not understood"),
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--workers", "10000000000"], "give at most 65536"),
        (["--step-time", "inf"], "--step-time must be positive"),
        (["--every", "-3"], "--every -3: give 1 or more"),
        (["--step-time", "0"], "--step-time must be positive"),
        (["--algorithm", "gosip"], "did you mean 'gossip'"),
        (["--", "--batch-per-worker", "4"], "--batch-per-worker: the seconds of a step"),
        (["--", "--task", "mnist"], "--task: the seconds of a step"),
        (["--", "--precision", "bf16"], "--precision: the seconds of a step"),
        (["--", "--workers", "8"], "--workers behind -- is not looked at: type --workers K before"),
        (["--", "--nonsense", "3"], "(see python -m hpc_localsgd.train --help)"),
        (["--", "--fabric", "10GbE"], "--fabric behind -- is not looked at"),
        (["--", "--steps", "999"], "--steps behind -- is not looked at: the steps are those of"),
        (["--algorithm", "d2", "--topology", "exponential"], "symmetric"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main([record(tmp_path), *words]) == 2
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1 and err.startswith("python -m hpc_localsgd whatif:")


def test_a_record_without_rounds_or_none_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "nowhere")]) == 2
    assert command.main([record(tmp_path / "run", lengths=())]) == 2
    assert "no round has seconds of computing" in capfd.readouterr().err


def test_simgrid_is_asked_for_every_exchange_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpc_localsgd.commands.whatif.replay import replayed
    from hpc_localsgd.cost import simgrid

    asked_for: list[simgrid.Collective] = []

    def seconds(network: object, exchange: simgrid.Collective, folder: Path) -> float:
        asked_for.append(exchange)
        return 7.0 if exchange.kind == "mix" else 5.0

    monkeypatch.setattr(simgrid, "seconds", seconds)
    run = record(tmp_path / "run")
    known = basis(Trajectory(run), [], None)
    options = command.parser().parse_args([run, "--fabric", "1GbE", "--every", "3", "1"])
    for words, each_s in (([], 5.0), (["--algorithm=gossip"], 7.0)):
        question = command.question(known, options, words)
        twice = replace(question, networks=[replayed(question.networks[0], tmp_path)])
        found = list(answers(known, twice))
        assert [a.plan.exchange_s for a in found] == pytest.approx([4 * each_s, 12 * each_s])
        assert [a.plan.parallel_s for a in found] == pytest.approx([12 * 5.0] * 2)
        assert len(asked_for) == len(set(asked_for))
        assert {e.nbytes for e in asked_for} == {BYTES}
        asked_for.clear()


def test_simgrid_is_asked_for_as_many_bytes_as_a_small_model_stands_for() -> None:
    from hpc_localsgd.commands.whatif.replay import Replayed

    by_bytes = Replayed("by bytes", 0.0, 1.0, replay=lambda exchange: float(exchange.nbytes))
    larger = by_bytes.dearer(2.5)
    W = np.full((4, 4), 0.25)
    assert [larger.mean_s(4, 100), larger.mix_s(W, 100), larger.gather_s(4, 100)] == [250.0] * 3


@pytest.mark.skipif(shutil.which("smpirun") is None, reason="apt-get install libsimgrid-dev")
def test_simgrid_answers_beside_the_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, out = record(tmp_path / "run"), tmp_path / "tables"
    words = ["--fabric", "10us,1MB/s,core=1.5MB/s", "--simgrid", "--out", str(out)]
    assert command.main([run, *words, "--every", "3"]) == 0
    rows = list(csv.DictReader((out / "whatif.csv").open()))
    assert [row["network"].endswith(", SimGrid") for row in rows] == [False, True]
    model, engine = (float(row["transferring_s"]) for row in rows)
    assert engine == pytest.approx(model, rel=0.01) and engine > 4 * 2 * 3 / 4 * BYTES / 1e6 * 1.5
    assert (out / "simgrid" / "0" / "0" / "platform.xml").exists()


def test_without_simgrid_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main([run, "--fabric", "1GbE", "--simgrid"]) == 2
    assert "apt-get install libsimgrid-dev" in capfd.readouterr().err
