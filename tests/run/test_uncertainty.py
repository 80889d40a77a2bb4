"""`Uncertainty`: every number against plain numpy, and scores whose values are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, quadratic, small_run

from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import train
from hpc_localsgd.run.probes import Spread, Uncertainty
from hpc_localsgd.run.probes import uncertainty as module
from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.run.probes.uncertainty import BINS, Scores
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.text import text
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

SPEC = digits(hidden=3)


def measured(apart: float, K: int = 4) -> tuple[dict[str, Any], ExchangeView]:
    """One measurement of K workers about a point."""
    run = small_run(spec=SPEC, K=K, H=4, steps=20)
    draw = torch.Generator().manual_seed(3)
    d = torch.randn(K, run.task.dim, generator=draw, dtype=torch.float64)
    exchange = ExchangeView(run, 8, 0.1, 2 * run.task.init(0) + apart * (d - d.mean(0)), None)
    return {m.name: m.value for m in Uncertainty(1).measure(exchange)}, exchange


def by_hand(exchange: ExchangeView, x: torch.Tensor) -> np.ndarray:
    """Probabilities [N, 10] of the perceptron on all test images, in numpy."""
    named = exchange.run.task.layout.views(x)  # type: ignore[attr-defined]
    w, b, v, c = (named[name].numpy() for name in ("1.weight", "1.bias", "3.weight", "3.bias"))
    logits = np.maximum(SPEC.splits()["test"][0].reshape(-1, 64) @ w.T + b, 0) @ v.T + c
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def scored(p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss, Brier score and calibration error, sample by sample."""
    y = np.eye(10)[labels]
    error = 0.0
    for b in range(BINS):
        inside = [i for i in range(len(p)) if b / BINS <= p[i].max() < (b + 1) / BINS]
        sure = sum(p[i].max() for i in inside)
        right = sum(p[i].argmax() == labels[i] for i in inside)
        error += abs(right - sure) / len(p)
    nll = -np.mean([np.log(p[i, labels[i]]) for i in range(len(p))])
    return {"nll": nll, "brier": ((p - y) ** 2).sum(1).mean(), "calibration_error": error}


@pytest.mark.parametrize("chunk", [1024, 77])
def test_every_number_is_that_of_plain_numpy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    found, exchange = measured(0.3)
    labels = SPEC.splits()["test"][1]
    own = np.stack([by_hand(exchange, x) for x in exchange.before])
    mixed = own.mean(0)
    for name, p in (("mean_model", by_hand(exchange, exchange.mean)), ("workers", mixed)):
        for what, value in scored(p, labels).items():
            assert found[f"uncertainty/{name}/{what}"] == pytest.approx(value, rel=1e-9), what
    variance = ((own - mixed) ** 2).sum(2).mean(0)
    right = mixed.argmax(1) == labels
    assert 0.05 < right.mean() < 0.95
    assert found["uncertainty/variance"] == pytest.approx(variance.mean(), rel=1e-9)
    assert found["uncertainty/variance_right"] == pytest.approx(variance[right].mean(), rel=1e-9)
    assert found["uncertainty/variance_wrong"] == pytest.approx(variance[~right].mean(), rel=1e-9)
    each = np.mean([scored(p, labels)["brier"] for p in own])
    gained = each - found["uncertainty/workers/brier"]
    assert found["uncertainty/variance"] == pytest.approx(gained, rel=1e-9)


def test_workers_that_are_equal_say_what_their_mean_says() -> None:
    found, _ = measured(0.0)
    assert found["uncertainty/variance"] < 1e-30
    for what in ("nll", "brier", "calibration_error"):
        pair = (found[f"uncertainty/{name}/{what}"] for name in ("mean_model", "workers"))
        assert next(pair) == pytest.approx(next(pair), rel=1e-12)


def test_reliability_of_predictions_that_are_as_sure_as_they_are_right() -> None:
    """Of ten predictions with 0.8, eight are right; of ten with 0.6, two; one with 1 is."""
    scores = Scores()
    for sure, right in ((0.8, 8), (0.6, 2)):
        p = torch.tensor([[sure, 1 - sure]], dtype=torch.float64).expand(10, 2)
        labels = (torch.arange(10) >= right).long()
        assert scores.add(p, labels).sum() == right
    scores.add(torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([1]))
    assert scores.calibration_error == pytest.approx(10 * 0.4 / 21)
    assert scores.nll == pytest.approx(
        -8 * np.log(0.8) - 2 * np.log(0.2) - 2 * np.log(0.6) - 8 * np.log(0.4)
    )
    assert scores.brier == pytest.approx(2 * (8 * 0.04 + 2 * 0.64 + 2 * 0.16 + 8 * 0.36))
    table = {m.name: m.value for m in scores.measurements("a", "")}["a/reliability"]
    known = table[~np.isnan(table[:, 0])]
    np.testing.assert_allclose(known, [[0.6, 0.2, 10 / 21], [0.8, 0.8, 10 / 21], [1, 1, 1 / 21]])


@pytest.mark.parametrize("algorithm", [LocalSGD(), Gossip()])
def test_it_is_of_workers_that_differ_and_changes_nothing(algorithm: Any) -> None:
    quiet, silent = go(small_run(spec=SPEC, H=3, steps=7, algorithm=algorithm))
    run = small_run(spec=SPEC, H=3, steps=7, algorithm=algorithm)
    memory = type(silent)()
    p = run.beginning()
    record = Recorder(run, (), Spread(0, (Uncertainty(1),)), memory)  # type: ignore[arg-type]
    record.start(p)
    seen = train(run, p, record)
    assert torch.equal(quiet.x, seen.x)
    assert all(value > 1e-9 for _, value in memory.values["uncertainty/variance"])
    for a, b in zip(silent.rounds, memory.rounds, strict=True):
        assert list(a["payload_bytes"]) == list(b["payload_bytes"])


def test_every_place_of_a_text_is_a_prediction() -> None:
    spec = text(model="lstm", length=8, width=4, layers=1, test_fraction=0.005)
    run = small_run(spec=spec, K=2)
    x, buffers, n = run.task.init(0), run.task.buffers[0], run.task.splits["test"]
    p, labels = run.task.probabilities(x, "test", range(n), buffers)
    assert p.shape[0] == 8 * n == len(labels) and p.dtype == torch.float64
    nll = -p.gather(1, labels[:, None]).log().mean()
    loss = float(run.task.evaluate(x, "test", range(n), buffers)[0]) / n
    assert float(nll) == pytest.approx(loss, rel=1e-9)


def test_a_probability_of_exactly_0_is_a_loss_that_can_be_averaged() -> None:
    scores = Scores()
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert scores.add(p, torch.tensor([1, 1])).tolist() == [False, True]
    values = {m.name: m.value for m in scores.measurements("w", "mean model")}
    assert values["w/nll"] == pytest.approx(1022 * np.log(2) / 2)
    assert values["w/brier"] == 1.0 and values["w/calibration_error"] == 0.5


@pytest.mark.parametrize("chunk", [1024, 5])
def test_all_places_of_all_texts_are_scored(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    spec = text(model="lstm", length=8, width=4, layers=1, test_fraction=0.005)
    run = small_run(spec=spec, K=3)
    draw = torch.Generator().manual_seed(1)
    rows = run.task.init(0) + 0.1 * torch.randn(3, run.task.dim, generator=draw).double()
    exchange, places = ExchangeView(run, 4, 0.1, rows, None), 8 * run.task.splits["test"]
    found = {m.name: m for m in Uncertainty(1).measure(exchange)}
    parts = [found[f"uncertainty/variance{end}"] for end in ("", "_right", "_wrong")]
    assert [m.samples for m in parts] == [places, parts[1].samples, places - parts[1].samples]
    assert 0 < parts[1].samples < places > 3 * 5
    scored = found["uncertainty/workers/nll"], found["uncertainty/mean_model/nll"]
    assert [m.samples for m in scored] == [places] * 2
    args = ("test", range(run.task.splits["test"]), run.task.buffers[0])
    p, labels = run.task.probabilities(exchange.mean, *args)
    nll = -p.gather(1, labels[:, None]).log().mean()
    assert scored[1].value == pytest.approx(float(nll), rel=1e-9)
    own = torch.stack([run.task.probabilities(x, *args)[0] for x in rows])
    variance = (own - own.mean(0)).square().sum(2).mean()
    assert parts[0].value == pytest.approx(float(variance), rel=1e-9)


def test_a_text_of_many_symbols_is_held_a_few_samples_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For all workers of a process together, and with the same numbers."""
    spec = text(model="lstm", length=8, width=4, layers=1, test_fraction=0.005)
    run = small_run(spec=spec, K=3)
    d = torch.randn(3, run.task.dim, generator=torch.Generator().manual_seed(3)).double()
    exchange = ExchangeView(run, 8, 0.1, run.task.init(0) + 0.3 * d, None)
    plain = {m.name: m.value for m in Uncertainty(1).measure(exchange)}
    one, _ = run.task.probabilities(exchange.mean, "test", range(1), exchange.buffers)
    held: list[int] = []
    average = run.world.mean

    def mean(rows: torch.Tensor) -> torch.Tensor:
        held.append(rows.numel())
        return average(rows)

    monkeypatch.setattr(run.world, "mean", mean)
    for most in (7 * 3 * one.numel() + 1, 1):
        monkeypatch.setattr(module, "HELD", most)
        held.clear()
        found = {m.name: m.value for m in Uncertainty(1).measure(exchange)}
        assert max(held) == (7 if most > 1 else 1) * 3 * one.numel()
        for name, value in plain.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)


def test_it_is_an_option_of_a_run_whose_task_predicts_classes(tmp_path: Path) -> None:
    words = ["--workers=3", "--schedule=every", "--schedule.steps=4", "--steps=8"]
    words += ["--uncertainty-every=4", "--figures=false", "--optimizer=SGD"]
    assert main([*words, "--task.hidden=4", f"--out={tmp_path / 'run'}"]) == 0
    found = Trajectory(tmp_path / "run")
    assert found.series("uncertainty/workers/nll").step.tolist() == [4, 8]
    assert found.series("uncertainty/mean_model/reliability").value.shape == (2, BINS, 3)
    run, asked = small_run(spec=quadratic(), K=2), Spread(0, (Uncertainty(3),))
    with pytest.raises(ConfigurationError, match="predicts no classes"):
        asked.check(run)
    Spread(1, (Uncertainty(0),)).check(run)  # never due
    asked.check(small_run(spec=SPEC, K=2))
    assert main([*words, "--task=quadratic", f"--out={tmp_path / 'other'}"]) != 0
    assert not (tmp_path / "other" / "trajectory.h5").exists()


def test_what_is_not_a_number_is_scored_as_such_and_ends_nothing() -> None:
    scores = Scores()
    p = torch.tensor([[np.nan, np.nan], [0.25, 0.75]], dtype=torch.float64)
    scores.add(p, torch.tensor([0, 1]))
    values = {m.name: m.value for m in scores.measurements("w", "mean model")}
    assert np.isnan(values["w/nll"]) and np.isnan(values["w/brier"])
    assert np.isnan(values["w/calibration_error"])
