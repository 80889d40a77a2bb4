"""What is written of every round: whose seconds, how many bytes, and when a run has diverged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Memory, go, small_run

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.loop import Run
from hpc_localsgd.run import recorder
from hpc_localsgd.run.finished_rounds import (
    COMPUTE_S,
    EXCHANGE_S,
    LAST_H,
    LAST_RATE,
    LOSS_HERE,
    ROUNDS_LOSS,
    STEPS_OF_ROUNDS,
    Diverged,
)
from hpc_localsgd.run.probes import Evaluation, Measurement, Probe, View
from hpc_localsgd.schedules.local_steps import post_local


def heard(run: Run) -> list[torch.Tensor]:
    """The workers' losses of every step, as they come."""
    losses: list[torch.Tensor] = []
    original = run.task.loss_and_grad

    def listening(x: Any, batch: Any) -> Any:
        loss, g = original(x, batch)
        losses.append(loss.clone())
        return loss, g

    run.task.loss_and_grad = listening  # type: ignore[method-assign]
    return losses


def test_a_round_is_written_with_its_steps_rate_loss_and_bytes() -> None:
    run = small_run(H=post_local(switch=2, every=3), steps=8)
    losses = heard(run)
    _, memory = go(run)
    rounds = memory.rounds
    assert [(r["step_begin"], r["step_end"]) for r in rounds] == [(0, 1), (1, 2), (2, 5), (5, 8)]
    assert [r["lr"] for r in rounds] == [0.1] * 4
    assert all((r["payload_bytes"] == 8 * run.task.dim).all() for r in rounds)
    assert memory.steps("train/loss") == [1, 2, 5, 8]
    expected = torch.stack(losses[2:5]).mean(0).numpy()  # [K], over the third round
    np.testing.assert_allclose(memory.values["train/loss"][2][1], expected, rtol=1e-12)


@dataclass
class Hours:
    """A clock that stands still until told."""

    now: float = 0.0

    def stamp(self) -> float:
        return self.now

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


def test_measuring_is_not_computing_and_neither_is_communicating() -> None:
    """A step takes 1 s, the work of the exchange 0.25 s and its message 2 s, a probe 100 s."""
    run = small_run(H=3, steps=6)
    clock = Hours()
    run.world.ledger.clock, run.world.ledger.modelled = clock, False  # type: ignore[assignment]
    original = run.task.loss_and_grad

    def slow_step(x: Any, batch: Any) -> Any:
        clock.now += 1
        return original(x, batch)

    class SlowExchange(LocalSGD):
        def on_sync(self, x: Any, state: Any, world: Any, now: Any) -> Any:
            clock.now += 0.25
            with world.ledger.transferring():
                clock.now += 2
            return super().on_sync(x, state, world, now)

    class SlowProbe(Probe):
        every = 2

        def measure(self, view: View) -> Any:
            clock.now += 100
            view.mean.sum()
            yield Measurement("slow", 1.0)

    run.task.loss_and_grad = slow_step  # type: ignore[method-assign]
    _, memory = go(replace(run, algorithm=SlowExchange()), [SlowProbe()], spread=1)
    assert memory.steps("slow") == [0, 2, 4, 6]
    assert [r["compute_s"].tolist() for r in memory.rounds] == [[3.25] * 4] * 2
    assert [r["transfer_s"].tolist() for r in memory.rounds] == [[2.0] * 4] * 2


def with_exchanges_of(run: Run, seconds: list[float]) -> Run:
    """As if the workers lived on ranks that spent so many seconds in every round's exchanges."""
    gather = run.world.gather

    def faked(v: np.ndarray) -> np.ndarray:
        figures = gather(v)
        if figures.ndim == 3:  # [K, rounds, figures]
            figures[:, :, 2] = np.array(seconds)[:, None]
        return figures

    run.world.gather = faked  # type: ignore[method-assign]
    return run


def test_who_arrived_last_waited_for_nobody_and_its_time_is_the_transfer() -> None:
    run = small_run(K=3, H=2, steps=4)
    run.world.ledger.modelled = False
    _, memory = go(with_exchanges_of(run, [0.5, 0.2, 0.9]))
    for row in memory.rounds:
        assert row["transfer_s"].tolist() == [0.2, 0.2, 0.2]
        assert row["wait_s"] == pytest.approx([0.3, 0.0, 0.7])


def test_modelled_seconds_are_all_transfer() -> None:
    run = small_run(K=3, H=2, steps=4)
    assert run.world.ledger.modelled
    _, memory = go(with_exchanges_of(run, [0.5, 0.2, 0.9]))
    for row in memory.rounds:
        assert row["transfer_s"].tolist() == [0.5, 0.2, 0.9]
        assert row["wait_s"].tolist() == [0, 0, 0]


def test_what_was_sent_before_the_run_is_on_nobody_s_bill() -> None:
    run = small_run(H=2, steps=2)
    run.world.mean(torch.zeros(4, 1000))
    assert go(run)[1].rounds[0]["payload_bytes"].tolist() == [8 * run.task.dim] * 4


def test_ranks_exchange_figures_now_and_then_and_no_round_is_lost() -> None:
    run = small_run(H=1, steps=70)
    gathered = []
    gather = run.world.gather
    run.world.gather = lambda v: gathered.append(v.shape) or gather(v)  # type: ignore
    _, memory = go(run)
    assert gathered == [(4, 32, 5), (4, 32, 5), (4, 6, 5)]
    assert [r["step_end"] for r in memory.rounds] == list(range(1, 71))


def with_bad_losses(run: Run, bad: dict[tuple[int, int], float]) -> Run:
    """The loss of (step, worker) is replaced."""
    original = run.task.loss_and_grad
    step = iter(range(run.steps))

    def spoiled(x: Any, batch: Any) -> Any:
        loss, g = original(x, batch)
        t = next(step)
        for (at, worker), value in bad.items():
            if at == t:
                loss[worker] = value
        return loss, g

    run.task.loss_and_grad = spoiled  # type: ignore[method-assign]
    return run


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_worker_round_and_rate(
    value: float,
) -> None:
    run = with_bad_losses(small_run(H=2, steps=8), {(5, 1): value, (5, 3): value, (7, 0): value})
    said = r"worker 1, 3 is not finite in round 2 \(steps 4 to 5, learning rate 0.1\).*--rate.lr"
    with pytest.raises(Diverged, match=said):
        go(run)


def test_divergence_is_noticed_long_before_the_end_and_after_what_came_before_is_written() -> None:
    run = with_bad_losses(small_run(H=4, steps=400), {(10, 2): float("nan")})
    memory = Memory()
    with pytest.raises(Diverged):
        go(run, memory=memory)
    assert [r["step_end"] for r in memory.rounds] == list(range(4, 33, 4))


def test_the_latest_values_are_shown() -> None:
    shown: list[tuple[int, set[str]]] = []
    go(
        small_run(H=4, steps=8),
        [Evaluation(4)],
        spread=1,
        show=lambda t, values: shown.append((t, set(values))),
    )
    names = [(t, name) for t, values in shown for name in sorted(values)]
    assert (0, "eval/test/accuracy") in names
    assert (4, "spread") in names
    assert (8, "train/loss") in names


def test_the_loss_that_is_shown_is_of_the_step_that_is_named() -> None:
    """In the middle of a round too, and without a message at the steps between."""
    run = small_run(H=8, steps=16)
    losses = heard(run)
    gathered: list[int] = []
    gather = run.world.gather

    def counting(values):  # type: ignore[no-untyped-def]
        gathered.append(len(losses))
        return gather(values)

    run.world.gather = counting  # type: ignore[method-assign]
    shown: list[tuple[int, str, float]] = []
    go(
        run,
        [Evaluation(3)],
        show=lambda t, values: shown.extend((t, name, v) for name, v in values.items()),
    )
    found = {t: value for t, name, value in shown if name == "train/loss"}
    assert sorted(found) == [3, 6, 9, 12, 15, 16]
    for t, value in found.items():
        assert value == pytest.approx(float(losses[t - 1].mean()), rel=1e-12)
    assert set(gathered) == {0, 3, 6, 9, 12, 15, 16}
    order = [name for t, name, _ in shown if t == 3]
    assert order.index("train/loss") < order.index("eval/test/accuracy")  # which ends the line


def test_what_is_shown_of_rounds_adds_up_to_all_steps_that_ended() -> None:
    """Every step counts once, whatever the lengths of the rounds that are shown together."""
    shown: list[tuple[int, dict[str, float]]] = []
    run = small_run(H=post_local(switch=30, every=7), steps=50)
    _, memory = go(run, show=lambda t, values: shown.append((t, values)))
    ended = [(t, values) for t, values in shown if STEPS_OF_ROUNDS in values]
    begin = 0
    for t, values in ended:
        rows = [i for i, r in enumerate(memory.rounds) if begin < r["step_end"] <= t]
        H = np.array([memory.rounds[i]["step_end"] - memory.rounds[i]["step_begin"] for i in rows])
        loss = np.array([memory.values["train/loss"][i][1].mean() for i in rows])
        assert values[STEPS_OF_ROUNDS] == t - begin == H.sum()
        assert values[ROUNDS_LOSS] == pytest.approx((H * loss).sum() / H.sum(), rel=1e-12)
        compute = sum(memory.rounds[i]["compute_s"].mean() for i in rows)
        exchange = sum(
            (memory.rounds[i]["wait_s"] + memory.rounds[i]["transfer_s"]).mean() for i in rows
        )
        assert (values[COMPUTE_S], values[EXCHANGE_S]) == pytest.approx((compute, exchange))
        assert values[LAST_H] == H[-1] and values[LAST_RATE] == 0.1
        begin = t
    assert begin == 50 and len(ended) > 1


def test_in_the_middle_of_a_round_its_own_loss_is_shown_without_asking_other_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "LOOK_EVERY_S", -1.0)  # every step is late
    run = small_run(H=20, steps=20)
    losses = heard(run)
    run.world.gather = lambda values: pytest.fail("asked") if len(losses) < 20 else values  # type: ignore[method-assign]
    seen: list[tuple[int, float]] = []
    go(
        run,
        show=lambda t, values: seen.append((t, values[LOSS_HERE])) if LOSS_HERE in values else None,
    )
    assert [t for t, _ in seen] == list(range(1, 21))
    assert [value for _, value in seen] == pytest.approx([float(loss.mean()) for loss in losses])
