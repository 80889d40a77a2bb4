"""Live curves: what a logger is given, and what becomes of a run whose logger fails."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import loggers
from hpc_localsgd.train import main
from hpc_localsgd.trajectory import Trajectory

RUN = ("--workers=2", "--steps=6", "--figures=false", "--save-model=false", "--task.hidden=8")
KINDS = sorted(loggers.NEEDS)


class Kept:
    """A logger that keeps what it is given, and fails at a call if asked to."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.status, self.fails_at = "", fails_at

    def log(self, t: int, values: dict[str, float]) -> None:
        if len(self.calls) == self.fails_at:
            raise OSError("no route to host")
        self.calls.append((t, values))

    def close(self, status: str) -> None:
        self.status = status

    def of(self, name: str) -> dict[int, float]:
        return {t: values[name] for t, values in self.calls if name in values}


def trained(monkeypatch: pytest.MonkeyPatch, out: Path, begin: Any) -> Trajectory:
    """A run whose logger is made by `begin`."""
    monkeypatch.setattr(loggers, "find_spec", lambda name: True)
    module = SimpleNamespace(begin=begin)
    monkeypatch.setattr(loggers, "import_module", lambda name: module)
    assert main([*RUN, "--log=tensorboard", f"--out={out}"]) == 0
    return Trajectory(out)


def test_a_logger_is_given_what_the_record_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    run = trained(monkeypatch, tmp_path / "run", lambda out, config: kept)
    assert kept.status == run.status == "complete"
    loss = run.series("train/loss")
    assert np.allclose(list(kept.of("train/loss").values()), loss.value.mean(axis=1))
    assert list(kept.of("train/loss")) == loss.step.tolist() == run.rounds.step_end.tolist()
    assert list(kept.of("rounds/local_steps").values()) == run.rounds.local_steps.tolist()
    assert list(kept.of("rounds/payload_bytes").values()) == [*run.rounds.payload_bytes[:, 0]]
    for name in ("eval/test/accuracy", "spread"):
        series = run.series(name)
        assert list(kept.of(name).items()) == list(zip(series.step, series.value, strict=True))


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_logger_that_fails_ends_nothing(
    fails_at: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = Kept(fails_at)
    run = trained(monkeypatch, tmp_path / "run", lambda out, config: kept)
    assert run.status == "complete" and run.totals.steps == 6
    assert capsys.readouterr().err.count("no live curves any more: OSError: no route") == 1


def test_a_logger_that_waits_for_ever_delays_the_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(loggers, "CLOSE_WITHIN_S", 0.1)
    monkeypatch.setattr(loggers, "WAITING", 2)
    run = trained(monkeypatch, tmp_path / "run", lambda out, config: never.wait())
    assert run.status == "complete"
    never.set()


def test_a_logger_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install '.\[wandb\]'"):
        loggers.check("wandb")
    assert main([*RUN, "--log=mlflow", f"--out={tmp_path / 'run'}"]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", KINDS)
def test_the_programs_themselves(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not importlib.util.find_spec(loggers.NEEDS[name]):
        pytest.skip("not installed: `make extras`")
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "run"
    monkeypatch.setattr(loggers, "CLOSE_WITHIN_S", 120.0)  # the program may start slowly
    assert main([*RUN, f"--log={name}", f"--out={out}"]) == 0
    assert "no live curves" not in capsys.readouterr().err
    accuracy = Trajectory(out).series("eval/test/accuracy")
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(out / "tensorboard"))
        events.Reload()
        shown = [(each.step, each.value) for each in events.Scalars("eval/test/accuracy")]
        assert np.allclose(shown, list(zip(accuracy.step, accuracy.value, strict=True)))
    elif name == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient((out / "mlruns").as_uri())
        (run,) = client.search_runs([client.get_experiment_by_name("hpc_localsgd").experiment_id])
        history = client.get_metric_history(run.info.run_id, "eval/test/accuracy")
        assert run.info.status == "FINISHED"
        assert [each.step for each in history] == accuracy.step.tolist()
    else:
        assert list(out.glob("wandb/offline-run-*/*.wandb"))
