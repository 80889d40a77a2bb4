"""One measured run predicts the others: the five lengths of a round, through their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.valley import LENGTHS, LR, START, STEPS, K, ways
from hpc_localsgd.analysis.draw.slow_sde import draw_slow_sde, measured
from hpc_localsgd.analysis.slow_sde import predict, way
from hpc_localsgd.analysis.slow_sde.conditions import foreign
from hpc_localsgd.commands.report import main as report
from hpc_localsgd.trajectory import Header, Trajectory, Writer

SNAPSHOTS = range(0, STEPS + 1, 1000)


def header(H: int, momentum: float = 0.0) -> Header:
    config = (
        "batch_per_worker: 1\noptimizer:\n  class_path: torch.optim.SGD\n"
        f"  init_args: {{momentum: {momentum}}}\n"
    )
    return Header(config, "valley", "local_sgd()", f"every({H})", "simulated(8)", K=K, P=2, seed=1)


def recorded(folder: Path, H: int, x: np.ndarray) -> tuple[Trajectory, Trajectory]:
    """The run's file, and the one `sharpness` would have made: tr H = 1 + x^2."""
    folder.mkdir()
    with Writer(folder, header(H)) as writer:
        ends = list(range(H, STEPS, H)) + [STEPS]
        zeros = np.zeros(K)
        for begin, end in zip([0, *ends], ends, strict=False):
            writer.round(
                step_begin=begin,
                step_end=end,
                lr=LR,
                compute_s=zeros,
                wait_s=zeros,
                transfer_s=zeros,
                payload_bytes=zeros,
                wire_bytes=zeros,
            )
    with Writer(folder / "sharpness.h5", header(H)) as writer:
        for step, at in zip(SNAPSHOTS, x, strict=True):
            writer.series("sharpness/trace", step, 1 + at**2)
            writer.series("sharpness/eigenvalues", step, np.array([1 + at**2, 0.0]), dims="eigen")
    return Trajectory(folder), Trajectory(folder / "sharpness.h5", segments=False)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, tuple[Trajectory, Trajectory, np.ndarray]]:
    folder = tmp_path_factory.mktemp("valley")
    found = {}
    for H, rest in ways(SNAPSHOTS[1:]).items():
        x = np.array([START, *rest])
        found[H] = (*recorded(folder / str(H), H, x), 1 + x**2)
    return found


@pytest.mark.parametrize("H", LENGTHS)
def test_the_longest_run_predicts_all_five_within_three_percent(H: int, runs) -> None:  # type: ignore[no-untyped-def]
    """K, H and eta come from the files; the way from H = 64, which goes the furthest."""
    run, _, measured = runs[H]
    along = way(*runs[64][:2])
    found = predict(run, along, np.array(SNAPSHOTS))
    np.testing.assert_allclose(found.trace, measured, rtol=0.03)
    if H <= 4:  # and not because nothing moves
        assert measured[-1] < 0.6 * measured[0]
        assert abs(found.trace[-1] - runs[64][2][-1]) > 0.1 * measured[-1]


def test_beyond_what_was_followed_there_is_no_prediction(runs) -> None:  # type: ignore[no-untyped-def]
    """Parallel SGD goes a part of the way only."""
    along = way(*runs[1][:2])
    found = predict(runs[64][0], along, np.array(SNAPSHOTS))
    known = np.isfinite(found.trace)
    assert known[:3].all() and not known[-1]
    np.testing.assert_allclose(found.trace[known], runs[64][2][known], rtol=0.03)


def test_a_report_on_several_runs_overlays_them(tmp_path: Path, runs) -> None:  # type: ignore[no-untyped-def]
    folders = [str(runs[H][0].path.parent) for H in (4, 64)]
    assert report([*folders, f"--out={tmp_path}", "--formats", "png"]) == 0
    assert (tmp_path / "slow_sde.png").exists()
    assert "Sharpness and the Slow SDE" in (tmp_path / "report.html").read_text()
    found = measured([(str(H), *runs[H][:2]) for H in (1, 64, 4)])
    assert [m.name for m in found] == ["64", "4", "1"]  # the one that went furthest leads
    figure = draw_slow_sde(found)
    assert figure is not None
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for H in (1, 4, 64):
        np.testing.assert_allclose(lines[str(H)], runs[H][2], rtol=0.03)


def test_one_run_or_runs_that_began_apart_are_not_overlaid(runs) -> None:  # type: ignore[no-untyped-def]
    one, other = measured([(str(H), *runs[H][:2]) for H in (1, 64)])
    assert draw_slow_sde([one]) is None
    elsewhere = replace(other, way=replace(other.way, trace=2 * other.way.trace))
    assert draw_slow_sde([one, elsewhere]) is None
    assert measured([("no sharpness", runs[1][0], None)]) == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("algorithm: {class_path: hpc_localsgd.Gossip}", "the algorithm Gossip"),
        (
            "algorithm: {class_path: hpc_localsgd.LocalSGD, init_args: {compressor: {a: b}}}",
            "a compressor",
        ),
        ("optimizer: {class_path: torch.optim.AdamW}", "the optimizer AdamW"),
        ("gradient: {class_path: hpc_localsgd.gradients.sam.sam}", "the gradient sam"),
    ],
)
def test_runs_that_the_theory_is_not_about_are_left_out(
    tmp_path: Path, runs: Any, said: str, why: str
) -> None:
    with Writer(tmp_path, replace(header(4), config=f"{header(4).config}\n{said}\n")) as writer:
        writer.series("spread", 0, 1.0)
    assert foreign(Trajectory(tmp_path)) == why and not foreign(runs[4][0])
    with pytest.raises(ValueError, match=f"of Local SGD, and this run has {why}"):
        way(Trajectory(tmp_path), runs[4][1])
    assert measured([("it", Trajectory(tmp_path), runs[4][1])]) == []


def test_momentum_is_a_larger_step(tmp_path: Path, runs) -> None:  # type: ignore[no-untyped-def]
    run, along = runs[4][0], way(*runs[64][:2])
    path = tmp_path / "with_momentum"
    path.mkdir()
    with Writer(path, header(4, momentum=0.5)) as writer:
        rounds, zeros = run.rounds, np.zeros(K)
        for i in range(200):
            writer.round(
                step_begin=int(rounds.step_begin[i]),
                step_end=int(rounds.step_end[i]),
                lr=LR / 2,
                compute_s=zeros,
                wait_s=zeros,
                transfer_s=zeros,
                payload_bytes=zeros,
                wire_bytes=zeros,
            )
    steps = np.array([0, 400, 800])
    same = predict(Trajectory(path), along, steps).trace
    np.testing.assert_allclose(same, predict(run, along, steps).trace, rtol=1e-12)


def test_steps_of_a_warm_up_from_nothing_go_nowhere(tmp_path: Path) -> None:
    with Writer(tmp_path / "run", header(1)) as writer:
        for t, lr in enumerate((0.0, 0.0, LR, LR)):
            zeros = np.zeros(K)
            writer.round(
                step_begin=t,
                step_end=t + 1,
                lr=lr,
                compute_s=zeros,
                wait_s=zeros,
                transfer_s=zeros,
                payload_bytes=zeros,
            )
    with Writer(tmp_path / "s.h5", header(1)) as writer:
        for step in range(5):
            writer.series("sharpness/trace", step, 2.0)
            writer.series("sharpness/eigenvalues", step, np.ones(2), dims="eigen")
    gone = way(Trajectory(tmp_path / "run"), Trajectory(tmp_path / "s.h5", segments=False)).gone
    assert gone[:3].tolist() == [0, 0, 0] and 0 < gone[3] < gone[4]


def test_what_is_missing_is_said(tmp_path: Path, runs) -> None:  # type: ignore[no-untyped-def]
    run, results, _ = runs[4]
    along = way(run, results)
    with pytest.raises(ValueError, match="rounds of steps 0 to 20000, not of 0 to 20001"):
        predict(run, along, np.array([0, STEPS + 1]))
    with pytest.raises(ValueError, match="has no sharpness/eigenvalues: measure it first"):
        way(run, run)
    with Writer(tmp_path / "s.h5", header(1)) as writer:
        writer.series("sharpness/trace", 0, 1.0)
        writer.series("sharpness/eigenvalues", 0, np.ones(2), dims="eigen")
    with pytest.raises(ValueError, match="has 1 snapshot: a path has at least two"):
        way(run, Trajectory(tmp_path / "s.h5", segments=False))
