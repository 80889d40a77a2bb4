"""Answers of `whatif` against closed forms and against what runs billed."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import asked_runs
import numpy as np
import pytest
from asked_runs import BYTES, OPTIONS, P, asked, one, record
from small_runs import go

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.whatif.answers import Answer, with_length
from hpc_localsgd.commands.whatif.page import as_csv
from hpc_localsgd.cost.cost_model import NETWORKS
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import every, post_local, qsr
from hpc_localsgd.worlds.simulated import Simulated


def ring_s(K: int, alpha: float, rate: float) -> float:
    return 2 * (K - 1) * (alpha + BYTES / K / rate)


def test_seconds_bytes_share_and_speed_up_are_those_of_the_closed_form(tmp_path: Path) -> None:
    run = record(tmp_path)
    for K in (2, 4, 64):
        for H in (1, 2, 6):
            found = one(run, "--fabric", "alpha=1ms,beta=1MB/s", f"--workers={K}", f"--every={H}")
            each_s, rounds = ring_s(K, 1e-3, 1e6), 12 // H
            assert found.plan.exchange_s == pytest.approx(rounds * each_s)
            assert found.plan.payload_bytes == rounds * BYTES
            total_s = 1.2 + rounds * each_s
            assert found.total_s() == pytest.approx(total_s)
            assert found.share() == pytest.approx(rounds * each_s / total_s)
            assert found.speed_up() == pytest.approx((1.2 + 12 * each_s) / total_s)
            hidden_s = max(1.2, 12 * each_s)
            assert found.speed_up(hides=True) == pytest.approx(hidden_s / total_s)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--algorithm=allreduce"],
        ["--algorithm=gossip", "--algorithm.topology=exponential"],
        ["--algorithm=local_sgd", "--algorithm.compressor=bf16"],
        ["--algorithm=hierarchical", "--algorithm.blocks=[2]", "--algorithm.rounds=[2]"],
    ],
    ids=lambda words: " ".join(words),
)
def test_an_answer_is_what_a_simulated_run_bills(words: list[str], tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    options = config.parse([*OPTIONS, "--schedule.steps=4", *words])
    made, _ = make_run(options, Simulated(4, network=NETWORKS["1GbE"]))
    _, memory = go(made)
    billed_s = sum(row["transfer_s"].mean() for row in memory.rounds)
    found = one(run, "--fabric", "1GbE", "--every", "4", "--", *words)
    scale = (found.plan.exchange_s - latency_s(found)) / (billed_s - latency_s(found))
    assert scale == pytest.approx(P / made.task.dim, rel=2e-3)  # the record says P


def test_parallel_sgd_has_an_exchange_a_step_whatever_its_rounds(tmp_path: Path) -> None:
    run = record(tmp_path)
    for algorithm, rounds in (("allreduce", 12), ("local_sgd", 3)):
        found = one(run, "--algorithm", algorithm, "--every", "4", "--fabric", "1GbE")
        (row,) = csv.DictReader(io.StringIO(as_csv([found])))
        assert (int(row["rounds"]), float(row["sent_bytes"])) == (rounds, rounds * BYTES)


def test_bytes_of_factors_are_those_of_the_recorded_task_s_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--algorithm=diloco --algorithm.compressor=power_sgd".split()
    with pytest.raises(ConfigurationError, match="shapes of this model's tensors are not known"):
        one(record(tmp_path / "other"), "--", *words)
    monkeypatch.setattr(asked_runs, "P", 64 * 8 + 8 + 8 * 10 + 10)
    found = one(record(tmp_path / "same"), "--every", "4", "--", *words)
    first, second = 4 * (8 + 10) + 18, 4 * (64 + 8)
    assert found.plan.payload_bytes == 3 * 4 * (first + second)


def latency_s(answer: Answer) -> float:
    """Seconds of the same exchanges on a network of which only the latency is left."""

    from hpc_localsgd.commands.plan.rehearsal import Rehearsal
    from hpc_localsgd.cost.preview import preview

    plan, p = replace(NETWORKS["1GbE"], bytes_per_s=1e30), answer.planned
    rehearsal = Rehearsal(p, plan)
    return preview(p.schedule, p.rate, p.steps, rehearsal.payload, exchange_s=rehearsal).exchange_s


def test_the_run_s_own_network_takes_what_was_measured(tmp_path: Path) -> None:
    run = record(tmp_path)
    assert one(run).plan.exchange_s == pytest.approx(4 * 0.2)
    assert one(run, "--every", "1").plan.exchange_s == pytest.approx(12 * 0.2)
    more = one(run, "--workers", "8", "--every", "3").plan.exchange_s
    assert more == pytest.approx(4 * 0.2 * (2 * 7 / 8) / (2 * 3 / 4))


def test_a_parallel_phase_alone_does_not_tell_the_network(tmp_path: Path) -> None:
    """Its averages were hidden behind the backward pass, where there is one."""
    with pytest.raises(ConfigurationError, match="hid exchanges behind steps.*give --fabric"):
        one(record(tmp_path / "b", "--schedule.steps=1", lengths=(1,) * 12))
    with pytest.raises(ConfigurationError, match="hid exchanges behind steps"):
        one(record(tmp_path / "c", "--algorithm=cocod"))
    for nothing in (0.0, math.nan):
        with pytest.raises(ConfigurationError, match="recorded no seconds of exchanges"):
            one(record(tmp_path / str(nothing), transfer_s=nothing))


def post_local_run(folder: Path, first_s: float) -> str:
    lengths, schedule = (1,) * 6 + (3, 3), "--schedule=post_local --schedule.switch=6".split()
    words = [*schedule, "--schedule.every=3"]
    return record(folder, *words, lengths=lengths, transfer_s={1: first_s, 3: 0.2})


def test_a_parallel_phase_costs_what_it_cost_in_the_run(tmp_path: Path) -> None:
    run = post_local_run(tmp_path / "run", 0.05)
    assert one(run).plan.exchange_s == pytest.approx(6 * 0.05 + 2 * 0.2)
    assert one(run, "--every", "6").plan.exchange_s == pytest.approx(6 * 0.05 + 0.2)
    assert one(run, "--every", "1").plan.exchange_s == pytest.approx(12 * 0.05)  # all parallel
    assert one(run, "--every", "6").plan.parallel_s == pytest.approx(12 * 0.2)  # nothing hidden
    wider = (2 * 7 / 8) / (2 * 3 / 4)
    assert one(run, "--workers", "8").plan.exchange_s == pytest.approx(0.7 * wider)


def test_a_parallel_phase_of_which_nothing_is_known_costs_what_other_rounds_do(
    tmp_path: Path,
) -> None:
    assert one(post_local_run(tmp_path / "a", math.nan)).plan.exchange_s == pytest.approx(8 * 0.2)
    assert one(post_local_run(tmp_path / "b", 0.0)).plan.exchange_s == pytest.approx(2 * 0.2)
    gossip = one(post_local_run(tmp_path / "c", 0.05), "--algorithm", "gossip")
    first, rest = gossip.plan.stretches
    assert first.exchange_s / first.rounds == pytest.approx(rest.exchange_s / rest.rounds)
    unphased = one(
        record(tmp_path / "d"), "--", *"--schedule=post_local --schedule.switch=6".split()
    )
    assert unphased.plan.exchange_s == pytest.approx(unphased.plan.rounds * 0.2)


def test_rounds_of_one_step_behind_longer_ones_are_no_parallel_phase(tmp_path: Path) -> None:
    run = record(tmp_path, lengths=(1, 3, 1, 1, 3, 3), transfer_s=[0.05, 0.2, 0.2, 0.2, 0.2, 0.2])
    assert [s.exchange_s for s in one(run).plan.stretches] == pytest.approx([0.05, 0.2, 0.4, 0.4])


def test_deviations_of_the_parallel_phase_are_its_own(tmp_path: Path) -> None:
    """The long rounds all took 0.2 s: what deviates is the share of the parallel phase."""
    run = record(
        tmp_path,
        *"--schedule=post_local --schedule.switch=6".split(),
        lengths=(1,) * 6 + (3, 3),
        transfer_s=[0.04, 0.05, 0.05, 0.05, 0.05, 0.06, 0.2, 0.2],
    )
    found, phase_s = one(run), 6 * 0.05
    low, high = np.percentile([0.04, 0.05, 0.05, 0.05, 0.05, 0.06], (16, 84))
    assert found.plan.exchange_s == pytest.approx(phase_s + 0.4)
    assert found.network_off == pytest.approx((high - low) / 2 / 0.05 * phase_s / (phase_s + 0.4))


def test_rounds_are_those_of_the_record_until_something_changes_them(tmp_path: Path) -> None:
    """So a schedule that measures is priced as it went."""
    run = record(tmp_path, lengths=(1, 5, 2, 4))
    assert [s.H for s in one(run).plan.stretches] == [1, 5, 2, 4]
    assert [s.H for s in one(run, "--workers", "16").plan.stretches] == [1, 5, 2, 4]
    assert [s.H for s in one(run, "--every", "3").plan.stretches] == [3]
    assert [s.H for s in one(run, "--", "--schedule.steps=5").plan.stretches] == [5, 2]


def test_more_workers_take_as_many_steps_or_share_the_samples(tmp_path: Path) -> None:
    run = record(tmp_path, lengths=(3,) * 16)
    wider = [run, "--fabric", "1GbE", "--workers", "16", "--scaling"]
    weak, strong = (one(*wider, how) for how in ("weak", "strong"))
    assert (weak.plan.steps, strong.plan.steps) == (48, 12)
    # Epochs: each worker sees its own share as often as before, or all the samples as often.
    assert weak.plan.epochs(weak.plan.steps) == pytest.approx(48 / 25)
    assert strong.plan.epochs(strong.plan.steps) == pytest.approx(48 / 25, rel=0.01)


def test_the_slowest_is_waited_for(tmp_path: Path) -> None:
    """Workers of 0.1, 0.1, 0.1 and 0.14 s a step: the mean is 0.11, the deviation 0.02."""
    run = record(tmp_path, compute_s=[0.1, 0.1, 0.1, 0.14])
    found = one(run, "--fabric", "1GbE")
    assert found.plan.compute_s == pytest.approx(12 * 0.11)
    assert found.waiting_s == pytest.approx(12 * 0.03, rel=0.35)  # of normal numbers, 0.021
    talking_s = found.waiting_s + found.plan.exchange_s  # communication, as `summary` counts it
    assert found.share() == pytest.approx(talking_s / found.total_s())
    longer_s = found.total_s(slower=2.0) - found.total_s()
    assert longer_s == pytest.approx(found.plan.compute_s + found.waiting_s)
    many = one(run, "--fabric", "1GbE", "--workers", "1024")
    assert many.waiting_s > 2.5 * found.waiting_s
    assert one(run, "--fabric", "1GbE", "--step-time", "0.5").waiting_s == 0.0


def test_deviations_are_those_of_steps_and_of_the_fit(tmp_path: Path) -> None:
    file = tmp_path / "fit.yaml"
    file.write_text(
        "{latency_s: 1e-3, bytes_per_s: 1e6, costs: {mean: {pieces: [{up_to_bytes: .inf, "
        "alpha_s: 1e-3, beta_s: 1e-6}], relative_residuals: {rms: 0.2}}}}"
    )
    run = record(tmp_path / "run")
    typed = one(run, "--fabric", "alpha=1ms,beta=1MB/s", "--every", "1")
    fitted = one(run, "--fabric", str(file), "--every", "1")
    assert typed.off(typed.total_s) == 0.0
    assert fitted.total_s() == pytest.approx(typed.total_s())
    assert fitted.off(fitted.total_s) == pytest.approx(0.2 * fitted.plan.exchange_s)
    assert fitted.off(fitted.speed_up) == pytest.approx(0, abs=1e-12)  # H = 1 is parallel SGD
    longer = one(run, "--fabric", str(file), "--every", "6")
    speed_ups = [longer.speed_up(dearer=f) for f in (0.8, 1.2)]
    assert longer.off(longer.speed_up) == pytest.approx((speed_ups[1] - speed_ups[0]) / 2)


def test_methods_are_combined_with_every_network(tmp_path: Path) -> None:
    run = record(tmp_path)
    methods = ["--algorithm", "gossip", "--topology", "ring", "complete"]
    found = asked(run, "--fabric", "1GbE", "10GbE", *methods, "--every", "1", "4")
    assert [(a.network.name, len(str(a.algorithm)) > 8, a.plan.rounds) for a in found] == [
        (network, other, rounds)
        for network in ("1GbE", "10GbE")
        for other in (False, True)
        for rounds in (12, 3)
    ]


@pytest.mark.parametrize(
    ("schedule", "made"),
    [(every(4), every(7)), (post_local(5, 4), post_local(5, 7)), (qsr(0.1, 4), every(7))],
)
def test_another_H_keeps_the_switch(schedule: object, made: object) -> None:
    assert with_length(schedule, 7) == made  # type: ignore[arg-type]
