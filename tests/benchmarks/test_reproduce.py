"""`benchmarks/reproduce`: what counts as seen, runs that are kept, the claims that are exact."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "reproduce"))

import linear_scaling  # noqa: E402
import quadratic_rule  # noqa: E402
import slow_sde  # noqa: E402
import unequal_data  # noqa: E402

from harness import runs as runs_module  # noqa: E402
from harness.claim import Statement, above, below, verdict, within  # noqa: E402
from harness.page import REPORTS, in_order  # noqa: E402
from harness.runs import Runs, last, values  # noqa: E402
from harness.statistics import found, paired  # noqa: E402
from hpc_localsgd.schedules.base import rounds  # noqa: E402
from hpc_localsgd.schedules.local_steps import every, qsr  # noqa: E402
from hpc_localsgd.schedules.rates import cosine  # noqa: E402

SMALL = {"task": "quadratic", "workers": 2, "steps": 4, "optimizer": "SGD", "schedule": "every"}


def test_all_claims_start_as_make_starts_them() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "benchmarks/reproduce", "--help"]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "--only" in said.stdout


def test_an_interval_and_the_exact_permutation_test_over_seeds() -> None:
    number = found([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (number.mean, number.n, number.sign) == (3.0, 5, 1)
    half = 2.7764451 * math.sqrt(2.5 / 5)  # Student's t of 4 degrees of freedom
    assert number.low == pytest.approx(3 - half) and number.high == pytest.approx(3 + half)
    assert number.p == pytest.approx(2 / 2**5)
    looks = found([1.0, 2.0, 3.0, 4.0, 5.0], looks=4)
    assert looks.high - looks.low > number.high - number.low


def test_what_counts_as_seen() -> None:
    assert found([1, 2, 3, 4, 30]).beyond() == 1  # all agree, though the interval has 0
    assert found([-1, 2, 3, 4, 30]).beyond() == 0
    assert found([1, 2, 3, 4]).beyond() == 0  # four seeds are too few
    assert found([1, 2, 3, 4, math.nan]).beyond() == 0  # a run without a number
    assert found([2.0] * 5).beyond() == 1
    assert paired([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]).beyond() == -1
    assert found([-1.0, *[9.0, 10.0, 11.0, 12.0] * 2]).beyond() == 1  # the interval leaves 0 out


def test_statements_and_the_verdict_that_follows() -> None:
    ones, twos = [1.0, 1.1, 0.9, 1.0, 1.05], [2.0, 2.1, 1.9, 2.0, 2.05]
    assert below("", ones, twos).holds and not below("", twos, ones).holds
    assert above("", twos, 1.5).holds and not above("", ones, 1.5).holds
    assert within("", ones, 0.5, 1.5).holds and not within("", ones, 0.99, 1.01).holds
    assert not within("", [math.nan] * 5, 0, 9).holds
    yes, no = Statement("", "", True), Statement("", "", False)
    assert [verdict(s) for s in ([yes, yes], [yes, no], [no, no])] == [
        "reproduced",
        "partly",
        "not at this scale",
    ]


def test_complete_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"rate.lr": [0.1, 0.2]}
    done = Runs(tmp_path).sweep("s", SMALL, grid, 2)
    assert {label: [run.attrs["seed"] for run in same] for label, same in done.items()} == {
        "0.1": [0, 1],
        "0.2": [0, 1],
    }

    def refuse(words: list[str]) -> int:
        raise AssertionError(f"is done again: {words}")

    monkeypatch.setattr(runs_module, "train", refuse)
    again = Runs(tmp_path)
    found_again = values(again.sweep("s", SMALL, grid, 2), last("eval/test/loss"))
    assert found_again == values(done, last("eval/test/loss"))
    assert again.count == 4 and not again.diverged and again.minutes > 0


def test_a_run_that_diverges_has_no_number_and_is_reported(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    done = runs.sweep("s", {**SMALL, "steps": 600, "rate": "constant", "rate.lr": 1e9}, {}, 1)
    assert runs.diverged == ["s: all, seed 0"]
    assert math.isnan(values(done, last("eval/test/loss"))["all"][0])


@pytest.mark.parametrize("module", [slow_sde, linear_scaling])
def test_theory_of_the_figures_is_that_of_the_paper(module: object) -> None:
    """H = 1 decays as SGD, log x(0)/x(T) = eta^2 T / (2 B); endless rounds K times as fast."""
    if module is slow_sde:
        ends = {H: slow_sde._predicted(H, [slow_sde.STEPS])[0] for H in (1, 512)}
        decay = {H: float(np.log(slow_sde.X0 / end)) for H, end in ends.items()}
        slow_time, K = slow_sde.LR**2 * slow_sde.STEPS, slow_sde.K
    else:
        K, samples = 16, linear_scaling.SAMPLES
        decay = {H: linear_scaling._predicted(H, K, samples) for H in (1, 512)}
        slow_time = (linear_scaling.LR * K) ** 2 * samples / K
    assert decay[1] == pytest.approx(slow_time / (2 * K), rel=0.08)  # eta lambda / 2 is left out
    assert 0.9 * K < decay[512] / decay[1] < K


def test_the_rules_of_claim_6_communicate_as_often_as_it_says() -> None:
    """To 4 % those of 1/eta, 1/eta^3 and H = 9 are as many as QSR's, less than half of H = 4."""
    high, low = quadratic_rule.GENTLE
    rate = cosine(lr=high, floor=low, until=quadratic_rule.STEPS)

    def count(rule: str) -> int:
        said = {k.partition(".")[2]: v for k, v in quadratic_rule.RULES[rule].items()}
        made = {"every": every, "qsr": qsr}[said.pop("")](**said)
        return sum(1 for _ in rounds(made, rate, quadratic_rule.STEPS))

    whole = count(quadratic_rule.QSR)
    for rule in ("H ~ 1/eta", "H ~ 1/eta^3", quadratic_rule.SAME):
        assert count(rule) == pytest.approx(whole, rel=0.04)
    assert whole == 1379 and whole < count(quadratic_rule.BASE) / 2


@pytest.mark.parametrize("number", ["1", "1b", "2", "10"])
def test_claims_stand_in_the_order_of_their_numbers(number: str) -> None:
    before = {"1": [], "1b": ["1"], "2": ["1", "1b"], "10": ["1", "1b", "2"]}[number]
    shuffled = sorted(["10", 2, "1b", 1], key=lambda n: in_order({"number": n}))
    assert [str(n) for n in shuffled][: len(before) + 1] == [*before, number]


@pytest.mark.parametrize("file", sorted(REPORTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_verdict_follows_from_the_recorded_numbers(file: Path) -> None:
    kept = json.loads(file.read_text(encoding="utf-8"))
    experiment = import_module(kept["name"]).EXPERIMENT
    statements = experiment.judge(kept["measured"])
    assert [s.holds for s in statements] == [s["holds"] for s in kept["statements"]]
    assert verdict(statements) == kept["verdict"]
    assert experiment.claim.must_see == kept["must_see"]  # was not changed afterwards
    assert experiment.draw(kept["measured"]).axes


class Shorter(Runs):
    """Runs of a third of the steps."""

    def sweep(self, name: str, options: dict[str, Any], *others: Any) -> Any:
        return super().sweep(name, {**options, "steps": options["steps"] // 3}, *others)


@pytest.mark.slow
def test_unequal_data_bias_gossip_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of claim 8 that needs no seeds, at one rate: D-SGD off the optimum, others at it.

    In a third of the steps.
    """
    monkeypatch.setattr(unequal_data, "RATES", unequal_data.RATES[-1:])
    asked = {name: said for name, said in unequal_data.METHODS.items() if name != "parallel SGD"}
    monkeypatch.setattr(unequal_data, "METHODS", asked)
    measured = unequal_data.measure(Shorter(tmp_path), quick=True)
    exact = {method: distance[0] for method, distance in measured["exact"].items()}
    assert exact["D-SGD"] > 0.1
    assert max(exact[m] for m in ("D2", "gradient tracking")) < 1e-6
    for rate in unequal_data.RATES:
        (off,) = measured["noise"][f"D-SGD, {rate}"]
        assert measured["noise"][f"D2, {rate}"][0] < off / 10


@pytest.mark.slow
def test_more_workers_by_the_linear_scaling_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of claim 7 that few seeds show: Local SGD decays as predicted, to a tenth."""
    monkeypatch.setattr(linear_scaling, "KS", (4, 16))
    monkeypatch.setattr(linear_scaling, "HS", (64,))
    measured = linear_scaling.measure(Runs(tmp_path), quick=True)
    for K in linear_scaling.KS:
        decays, theory = measured["decay"][f"64, {K}"], measured["predicted"][f"64, {K}"]
        assert decays == pytest.approx([theory[0]] * len(decays), rel=0.1)
    assert measured["decay"]["64, 16"][0] > 3 * measured["decay"]["64, 4"][0]


@pytest.mark.slow
def test_long_rounds_diverge_at_a_large_rate_where_qsr_shortens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of claim 6 that needs no seeds, in a tenth of the steps; of flatness one number."""
    rules, fast = quadratic_rule.RULES, dict(quadratic_rule.FAST)
    monkeypatch.setattr(quadratic_rule, "RULES", {"H = 64": rules["H = 64"]})
    del fast["H = 4"]
    monkeypatch.setattr(quadratic_rule, "FAST", fast)
    measured = quadratic_rule.measure(Runs(tmp_path), quick=True)
    alive = measured["steep: survived"]
    assert alive[quadratic_rule.QSR] == alive["H = 1"] == [1.0]
    assert alive[f"H = {quadratic_rule.UNSTABLE}"] == [0.0]
    assert measured["gentle: rounds"] == {"H = 64": [19.0]}
    assert measured["gentle: tr H"]["H = 64"][0] > 0 and quadratic_rule.draw(measured).axes
