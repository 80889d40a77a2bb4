"""`benchmarks/comm_vs_accuracy.py`: points, prices on a network, fronts, figure and table."""

from __future__ import annotations

import csv
import io
import math
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from small_runs import go

from hpc_localsgd.analysis.compare import SeedGroup, Summary, grouped_runs
from hpc_localsgd.analysis.report.source import open_runs
from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.sweep import manifest
from hpc_localsgd.commands.sweep.members import members
from hpc_localsgd.cost.cost_model import NETWORKS, Network
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.trajectory import Header, Writer
from hpc_localsgd.worlds.simulated import Simulated

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import comm_vs_accuracy  # noqa: E402
from frontier import draw, emulated, pricing, tables  # noqa: E402
from frontier.labels import NEAR  # noqa: E402
from frontier.points import SENT, TALKED, TOTAL, Point, first_at, on_front, point  # noqa: E402

OPTIONS = "--task.hidden 8 --workers 4 --steps 12 --schedule every --schedule.steps 3".split()


def record(
    folder: Path,
    accuracies: list[float],
    sent: float = 100.0,
    seed: int = 0,
    H: int = 3,
    *words: str,
) -> str:
    """A run of 12 steps of the digits; an evaluation after each round."""
    options = [*OPTIONS, f"--schedule.steps={H}", f"--seed={seed}", *words]
    text = config.parse(options).text
    names = ("digits", "LocalSGD", f"every({H})", "simulated(4 workers)")
    header = Header(text, *names, K=4, P=9000, seed=seed, clock="modelled", steps=12)
    with Writer(folder, header) as writer:
        for s, accuracy in enumerate(accuracies):
            row = {"compute_s": 0.4, "wait_s": 0.0, "transfer_s": 0.2, "payload_bytes": sent}
            writer.round(step_begin=H * s, step_end=H * (s + 1), lr=0.1, **row)
            writer.series("eval/test/accuracy", H * (s + 1), accuracy, samples=400)
        writer.close("complete")
    return str(folder)


def group(paths: list[str]) -> SeedGroup:
    (found,) = grouped_runs(open_runs(paths))
    return found


def test_a_point_has_the_costs_of_the_run_and_of_the_way_to_the_target(tmp_path: Path) -> None:
    runs = group([
        record(tmp_path / "a", [0.5, 0.8, 0.9, 0.9]),
        record(tmp_path / "b", [0.5, 0.7, 0.79, 0.7], seed=1),
        record(tmp_path / "c", [0.85, 0.7, 0.9, 0.8], seed=2),
    ])  # fmt: skip
    found = point("x", runs, lambda source: pricing.as_recorded(source.run), target=0.8)
    assert (found.runs, found.reached) == (3, 2)
    assert [s.mean for s in found.costs] == pytest.approx([400, 0.8, 2.4])
    assert [s.mean for s in found.to_target] == pytest.approx([150, 0.3, 0.9])
    assert [first_at(s, 0.8) for s in runs.runs] == [6, None, 3]
    np.testing.assert_allclose(found.off, np.std([0.9, 0.7, 0.8], ddof=1))
    never = point("x", runs, lambda source: pricing.as_recorded(source.run), target=0.99)
    assert never.reached == 0 and never.to_target == ()


@pytest.mark.parametrize(
    "algorithm", ["local_sgd", "allreduce", "gossip", "slowmo", "hierarchical"]
)
def test_a_run_is_priced_as_the_simulated_world_bills_it(algorithm: str, tmp_path: Path) -> None:
    more = {"hierarchical": ["--algorithm.blocks=[2]", "--algorithm.rounds=[2]"]}
    words = [f"--algorithm={algorithm}", *more.get(algorithm, [])]
    for name in ("1GbE", "hdr200"):
        made, _ = make_run(config.parse([*OPTIONS, *words]), Simulated(4, network=NETWORKS[name]))
        _, memory = go(made)
        billed = [row["transfer_s"].mean() for row in memory.rounds]
        run = group([record(tmp_path / name, [0.9] * 4, 100.0, 0, 3, *words)]).runs[0].run
        found = pricing.priced(run, NETWORKS[name], 0.01, [])
        np.testing.assert_allclose(found.talked_s, billed)
        np.testing.assert_allclose(found.total_s, 0.03 + found.talked_s)


def test_an_average_under_way_is_hidden_behind_the_steps_meanwhile(tmp_path: Path) -> None:
    """CoCoD: an exchange of c seconds, begun at the end of a round, is used three steps later."""
    paths = [record(tmp_path / "run", [0.9] * 4, 100.0, 0, 3, "--algorithm=cocod")]
    run, slow = group(paths).runs[0].run, Network("slow", 0.0, 1e5)
    (whole,) = {round(x, 9) for x in pricing.priced(run, slow, 1e-9, []).talked_s[1:3]}
    assert whole > 0.01
    for share in (0.0, 0.2, 0.5, 2.0):
        found = pricing.priced(run, slow, max(1e-12, share * whole / 3), []).talked_s
        left = max(0.0, (1 - share) * whole)
        # The first round waits for nobody; the last waits for what is under way, and once more.
        np.testing.assert_allclose(found, [0, left, left, left + whole], rtol=1e-6, atol=1e-9)


def test_the_time_of_a_step_is_that_of_the_fastest_run(tmp_path: Path) -> None:
    runs = [s.run for s in group([record(tmp_path / "a", [0.9] * 4)]).runs]
    np.testing.assert_allclose(pricing.step_seconds(runs), 0.4 / 3)


def points(count: int, seed: int = 0) -> list[Point]:
    """Methods whose costs span decades, some of them close together."""
    random, made = np.random.default_rng(seed), []
    for i in range(count):
        sent = 1e5 * 10 ** (3 * i / count)
        costs = (sent, 1e-8 * sent, 1 + 1e-8 * sent)
        accuracy = 0.8 + 0.1 * i / count + 0.005 * random.normal()
        summaries = [Summary(x, 0.01 * x, 3) for x in costs]
        kind = ("AllReduce", "LocalSGD", "Gossip(topology=ring)", "DiLoCo", "CoCoD")[i % 5]
        mean = Summary(accuracy, 0.002, 3)
        made.append(
            Point(f"method number {i}", kind, 3, mean, 0.002, tuple(summaries), 3, tuple(summaries))
        )  # type: ignore[arg-type]
    return made


def test_the_figure_prints_no_name_over_another_or_over_a_symbol() -> None:
    for count, low in ((2, 0), (9, 0), (24, 3)):
        found = points(count)
        for i in range(low):  # far below, and close together
            found[i] = replace(found[i], accuracy=Summary(0.3 + 0.1 * i, 0.01, 3))
        figure = draw.draw({"1GbE": found, "10GbE": found}, ["facts"], 0.7 if low else 0.0)
        figure.canvas.draw()
        shown = [axes for axes in figure.axes if axes.axison]
        assert len(shown) == 5 and len(figure.axes) == 6
        names = {p.label for p in found}
        legend = figure.axes[3].get_legend()
        assert legend is not None
        told = [text.get_text() for text in legend.get_texts()]
        assert told[:count] == [p.label for p in found]
        assert ("hollow: below the axis" in told) == bool(low), "a symbol that nobody explains"
        for axes in shown:
            assert axes.get_xscale() == "log" or axes.get_xlabel().startswith("training")
            boxes = [text.get_window_extent() for text in axes.texts]
            said = {text.get_text() for text in axes.texts}
            assert said <= names | {"30 %", "40 %", "50 %"} and boxes
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
            labels = [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
            spans = [t.get_window_extent() for t in labels]
            assert not any(a.overlaps(b) for a, b in combinations(spans, 2)), count
    looks = draw.looks_of(points(24))
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 24


def test_a_name_that_is_not_beside_its_symbol_has_a_line_to_it() -> None:
    figure, led, far = draw.draw({"1GbE": points(24)}, ["facts"], 0.0), [], []
    for axes in figure.axes[:3]:
        lines = [line.get_xydata() for line in axes.lines if line.get_linewidth() == 0.5]
        led += [tuple(line[0]) for line in lines]
        far += [text.xy for text in axes.texts if abs(text.xyann[1]) > NEAR]
    assert sorted(led) == sorted(far) and far


def test_methods_far_below_stand_at_the_edge_with_their_number() -> None:
    found = points(9)
    assert draw.floor_of(found) == 0.0
    low = replace(found[3], accuracy=Summary(0.4, 0.01, 3))
    found[3] = low
    floor = draw.floor_of(found)
    assert floor == pytest.approx(max(p.accuracy.mean for p in found) - 0.1)
    axes = draw.draw({"1GbE": found}, ["facts"], floor).axes[0]
    assert axes.get_ylim()[0] > 0.7 and "40 %" in {text.get_text() for text in axes.texts}


def test_the_front_of_the_figure_is_a_staircase_through_the_best() -> None:
    found = points(9)
    best = on_front(found, SENT)
    line = draw.draw({"1GbE": found}, ["facts"], 0.0).axes[0].lines[0]
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(line.get_xdata()[:-1], [found[i].costs[SENT].mean for i in best])
    np.testing.assert_allclose(line.get_ydata()[:-1], [found[i].accuracy.mean for i in best])


def test_the_table_says_what_it_took_and_what_is_on_a_front(tmp_path: Path) -> None:
    runs = group(
        [record(tmp_path / "a", [0.5, 0.9, 0.9, 0.9]), record(tmp_path / "b", [0.5] * 4, seed=1)]
    )
    other = group([record(tmp_path / "c", [0.95] * 4, sent=300.0, H=2)])
    price = lambda source: pricing.as_recorded(source.run)  # noqa: E731
    found = {"net": [point("A", runs, price, 0.8), point("B", other, price, 0.99)]}
    header, rows = tables.shown(found)
    assert header[1:4] == ["runs", "accuracy", "sent by a worker"]
    cells = dict(zip(header, rows[0], strict=True))
    assert cells["sent by a worker"] == "**400 B**" and cells["net: communicating"] == "**800 ms**"
    assert cells["sent to the target"] == "200 B (1 of 2)"
    assert cells["net: to the target"] == "1.2 s (1 of 2)"
    assert dict(zip(header, rows[1], strict=True))["sent to the target"] == "not reached"
    read = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
    assert [row["method"] for row in read] == ["A", "B"] and read[1][
        "sent_bytes_to_target_mean"
    ] == ""
    np.testing.assert_allclose(float(read[0]["communicating_s_mean"]), 0.8)
    assert (read[0]["on_front_sent_bytes"], read[0]["reached"]) == ("1", "1")
    assert r"\toprule" in tables.as_latex(found) and "**" not in tables.as_latex(found)
    assert {TALKED, TOTAL} < set(tables.COSTS)


def test_the_script_on_runs_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named as in their sweep; the target is that of the task."""
    (member,) = members({}, {"method": {"mine": {}}}, [0])
    manifest.write([member], tmp_path / "sweep")
    paths = [
        record(tmp_path / "sweep" / member.name, [0.9, 0.96, 0.96, 0.96]),
        record(tmp_path / "other", [0.9] * 6, H=2),
    ]
    words = ["--networks", "1GbE", "10GbE", "--out", str(tmp_path / "out"), "--step-time", "0.5"]
    assert comm_vs_accuracy.main(["--from-runs", *paths, *words]) == 0
    said = capsys.readouterr().out
    assert "test accuracy of 95.0%" in said and "500 ms for a local step (as given)" in said
    assert "| mine | 1 |" in said and "LocalSGD, every(2) | 1 |" in said
    kinds = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert kinds == {".png", ".pdf", ".csv", ".md", ".tex"}
    for bad, told in (
        (["--from-runs", *paths, "--networks", "2GbE"], "unknown network '2GbE'"),
        ([], "give the file of a grid, or --from-runs"),
        (["--from-runs", str(tmp_path)], "no such trajectory"),
    ):
        assert comm_vs_accuracy.main(bad) == 2
        assert told in capsys.readouterr().err
    assert math.isfinite(float(tables.as_csv({"n": points(2)}).splitlines()[1].split(",")[5]))


def test_where_nothing_can_be_emulated_its_likeness_is_modelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    like = network(emulated.modelled("1gbit"))
    assert (like.latency_s, like.bytes_per_s) == pytest.approx((50e-6, 125e6))
    assert network(emulated.modelled("wide-area")).latency_s == pytest.approx(10.05e-3)
    monkeypatch.setattr(emulated, "refused", lambda name: "the kernel allows no namespaces here")
    found = group([record(tmp_path / "run", [0.9] * 4)])
    monkeypatch.setattr(comm_vs_accuracy, "sweep", lambda words: 0)
    monkeypatch.setattr(comm_vs_accuracy, "groups", lambda members, out: {"mine": found})
    monkeypatch.setattr(comm_vs_accuracy.manifest, "read", lambda out: [])
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"out: {tmp_path / 'out'}\n")
    assert comm_vs_accuracy.main([str(grid), "--emulated", "100mbit", "1gbit"]) == 0
    said = capsys.readouterr()
    assert "100mbit is modelled, not emulated: the kernel allows no namespaces" in said.err
    assert "50us,12.5MB/s (modelled): communicating" in said.out
    assert "50us,125MB/s (modelled): communicating" in said.out
    assert comm_vs_accuracy.main([str(grid), "--emulated", "1gbit", "--networks", "1GbE"]) == 2
    assert "leave --networks out" in capsys.readouterr().err


def test_runs_on_an_emulated_network_are_priced_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulated, "refused", lambda name: "")
    runs = {
        n: group([record(tmp_path / n, [0.9] * 4, sent=s)]) for n, s in (("a", 1e2), ("b", 2e2))
    }
    monkeypatch.setattr(emulated, "runs_on", lambda name, grid, out: {"mine": runs[out.name]})
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"out: {tmp_path / 'out'}\n")
    assert comm_vs_accuracy.main([str(grid), "--emulated", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert "a (emulated): communicating" in said and "b (emulated): communicating" in said
    assert "| **400 B** |" in said and "**800 ms**" in said and "modelled" not in said
