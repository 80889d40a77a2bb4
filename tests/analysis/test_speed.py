"""Steps along the minimisers taken in blocks are those taken one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpc_localsgd.analysis.slow_sde import speed
from hpc_localsgd.analysis.slow_sde.regime import Regime
from hpc_localsgd.analysis.slow_sde.speed import Places, Steps, followed, passed, rates_of, steps_of
from hpc_localsgd.trajectory import Header, Trajectory, Writer

NOTHING = {"compute_s": 0.0, "wait_s": 0.0, "transfer_s": 0.0, "payload_bytes": 0}
RATES = np.array([0.0, 0.3, 0.2, 0.2, 0.1, 0.25, 0.3, 0.05, 0.3, 0.3, 0.3])
STEPS = Steps("run", 100, K=4, batch=8, lr=RATES, H=np.repeat([1, 3, 7], [1, 3, 7]))
PLACES = Places(
    np.array([0.0, 0.1, 0.1, 0.5]),  # a run may stand still between two snapshots
    np.array([5.0, 4.0, 3.0, 1.0]),
    np.array([[3.0, np.nan], [2.0, -0.5], [2.0, 1.0], [0.5, 0.2]]),
)


def moved(t: int, trace: float, eigenvalues: np.ndarray) -> float:
    """One step by the formula of `prediction`, in plain numbers."""
    lr, H, known = RATES[t], STEPS.H[t], [v for v in eigenvalues if v > 0]
    total = (trace - sum(known)) / 2
    for v in known if lr else []:
        r = (1 - lr * v) ** 2
        boost = 1 + 3 * (1 - (1 - r**H) / (H * (1 - r)))
        total += v / (2 - lr * v) * boost
    return float(2 * lr**2 / 8 * total / trace)


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_each_step_begins_where_the_last_one_ended(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "BLOCK", block)
    s = [0.0]
    for t in range(len(RATES)):
        (trace,), (eigenvalues,) = PLACES.at(np.array(s[-1:]))
        s.append(s[-1] + moved(t, trace, eigenvalues))
    assert 0.1 < s[-1] < 0.5 and s[1] == 0
    np.testing.assert_allclose(followed(STEPS, PLACES), s, rtol=1e-12)


def test_where_the_places_are_known_by_step_they_are_those_of_the_step() -> None:
    places = Places(np.array([100.0, 111.0]), PLACES.trace[[0, 3]], PLACES.eigenvalues[[0, 3]])
    at = zip(*places.at(np.arange(100.0, 111.0)), strict=True)
    one_by_one = np.cumsum([0.0, *(moved(t, *place) for t, place in enumerate(at))])
    np.testing.assert_allclose(passed(STEPS, places), one_by_one, rtol=1e-12)


def test_rounds_that_a_record_lost_between_others_are_missed(tmp_path: Path) -> None:
    header = Header(
        "batch_per_worker: 1\n", "task", "LocalSGD", "every(4)", "simulated(2)", 2, 2, 1
    )
    with Writer(tmp_path, header) as writer:
        for begin in (0, 4, 12):
            writer.round(step_begin=begin, step_end=begin + 4, lr=0.1, **NOTHING)
    run = Trajectory(tmp_path)
    lr, H = rates_of(run, 2, 8)
    assert lr.tolist() == [0.1] * 6 and H.tolist() == [4] * 6
    with pytest.raises(ValueError, match="has no rounds of 4 of those steps"):
        rates_of(run, 2, 16)


@pytest.mark.parametrize(
    ("algorithm", "optimizer", "H", "rate"),
    [
        ("LocalSGD", {}, 4, 0.1),
        ("LocalSGD", {"momentum": 0.9}, 4, 1.0),
        ("LocalSGD", {"momentum": 0.9, "dampening": 0.9}, 4, 0.1),
        ("LocalSGD", {"dampening": 0.9}, 4, 0.1),  # of a momentum that there is not
        ("AllReduce", {}, 1, 0.1),  # averages at every step, however long its rounds are
    ],
)
def test_what_of_a_run_counts(
    algorithm: str, optimizer: dict[str, float], H: int, rate: float, tmp_path: Path
) -> None:
    config = {
        "batch_per_worker": 1,
        "algorithm": f"hpc_localsgd.algorithms.{algorithm}",
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": optimizer},
    }
    header = Header(json.dumps(config), "task", algorithm, "every(4)", "simulated(2)", 2, 2, 1)
    with Writer(tmp_path, header) as writer:
        writer.round(step_begin=0, step_end=4, lr=0.1, **NOTHING)
    run = Trajectory(tmp_path)
    steps = steps_of(run, 0, 4)
    np.testing.assert_allclose(steps.lr, [rate] * 4)
    assert steps.H.tolist() == [H] * 4 and Regime.of(run, 2).H == H
