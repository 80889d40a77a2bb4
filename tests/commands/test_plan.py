"""`python -m hpc_localsgd plan`: what it prints, what it refuses, and that training agrees."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launching import alone
from launching import run as launch
from small_runs import go

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.plan import command, network
from hpc_localsgd.commands.plan.job_limit import job_limit_s
from hpc_localsgd.commands.plan.network import measure
from hpc_localsgd.cost.cost_model import NETWORKS
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

NOWHERE = detect({})
VIT = (
    "--schedule qsr --schedule.alpha 0.0175 --schedule.at_least 4 --schedule.warmup 10000 "
    "--rate cosine --rate.lr 0.008 --rate.warmup 10000 --rate.floor 1e-6 --steps 93600 "
    "--parameters 86567656 --samples 1281167 --remainder drop --workers 8 --batch-per-worker 512"
).split()
SMALL = "--parameters 1000 --samples 640 --workers 4 --steps 64 --schedule every".split()


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def printed(*options: str) -> str:
    return command.plan(options, NOWHERE)


def planned(*options: str) -> Any:
    return json.loads(printed("--json", *options))


def kinds(*options: str) -> list[str]:
    return [warning["kind"] for warning in planned(*options)["warnings"]]


def test_the_facts_of_qsr_from_the_command_line() -> None:
    plain = [*VIT, "--optimizer", "torch.optim.SGD"]
    page = printed(*plain, "--step-time", "0.35", "--time-limit", "45")
    assert "9,711 for 93,600 steps" in page
    assert "8,142 steps = 26.1 epochs, 47.5 min, from step 85,458" in page
    assert "93,600 steps = 300 epochs" in page
    assert "job may last 45 min" in page
    assert "\x1b" not in page  # no colours where nobody asked
    assert max(len(line) for line in page.splitlines()) <= 100


def test_on_a_narrow_terminal_no_line_of_a_plan_is_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "columns_of_output", lambda launched: None if launched else 60)
    coloured = printed(*VIT, "--optimizer", "torch.optim.SGD")
    page = re.sub("\x1b\\[[0-9;]*m", "", coloured)
    assert max(len(line) for line in page.splitlines()) <= 60
    (bars,) = [line for line in page.splitlines() if "learning rate" in line and "█" in line]
    assert len(bars) == 60 - 22 + 19


def test_json_has_the_keys_that_scripts_rely_on() -> None:
    plan = planned(*SMALL)
    assert {key: sorted(inner) for key, inner in plan.items() if isinstance(inner, dict)} == {
        "run": sorted(
            "task algorithm schedule optimizer rate workers ranks waiting_of_unequal_ranks "
            "parameters samples steps steps_per_epoch".split()
        ),
        "rounds": sorted(
            "count shortest longest last last_is_forced last_asked_steps stretches".split()
        ),
        "traffic": sorted(
            "payload_bytes_per_worker payload_bytes_busiest_worker payload_bytes_per_round "
            "parallel_sgd_bytes_per_worker share_of_parallel_sgd".split()
        ),
        "seconds": sorted(
            "network communication_predicted communication_parallel_sgd step computation "
            "total_predicted time_limit".split()
        ),
        "topology": ["name", "spectral_gap"],
        "memory_bytes_per_worker": sorted(
            "activations algorithm gradients optimiser parameters".split()
        ),
        "disk_bytes": sorted(
            "rounds_bytes series_bytes snapshots_bytes snapshots checkpoints_bytes "
            "total_bytes".split()
        ),
    }
    assert sorted(plan["rounds"]["last"]) == ["begin", "end", "epochs", "lr", "seconds", "steps"]
    assert sorted(plan["rounds"]["stretches"][0]) == sorted(
        "first_sync last_sync every rounds lr_first lr_last lr_high payload_bytes "
        "communication_predicted".split()
    )
    assert plan["warnings"][0].keys() == {"kind", "text"}


def test_json_has_null_for_what_is_not_known() -> None:
    seconds = planned(*SMALL)["seconds"]
    assert seconds["step"] is seconds["total_predicted"] is seconds["time_limit"] is None
    assert planned(*SMALL)["topology"] == {"name": None, "spectral_gap": None}


def test_traffic_and_memory_of_a_run() -> None:
    plan = planned(*SMALL, "--schedule.steps", "8", "--optimizer", "torch.optim.Adam")
    assert plan["traffic"]["payload_bytes_per_worker"] == 8 * 4000
    assert plan["traffic"]["share_of_parallel_sgd"] == 1 / 8
    memory = plan["memory_bytes_per_worker"]
    kept = {"parameters": 4000, "gradients": 4000, "optimiser": 8000, "algorithm": 0}
    assert memory == kept | {"activations": None}
    assert plan["disk_bytes"]["checkpoints_bytes"] == 2 * 4 * (4000 + 8000)
    averaged = planned(*SMALL, "--schedule.steps", "8", "--momentum-at-sync", "average")
    assert averaged["traffic"]["payload_bytes_per_worker"] == 8 * 8000


def test_the_disk_holds_as_many_checkpoints_as_are_kept() -> None:
    def checkpoints(*options: str) -> int:
        plan = planned(*SMALL, "--optimizer", "torch.optim.Adam", *options)
        return int(plan["disk_bytes"]["checkpoints_bytes"])

    one = 4 * (4000 + 8000)
    assert checkpoints() == 2 * one
    assert checkpoints("--checkpoint-keep", "5") == 5 * one
    assert checkpoints("--checkpoint-keep", "1") == one
    assert checkpoints("--checkpoint-keep", "5", "--checkpoint-every", "0") == one


def test_the_task_gives_the_model_and_the_data() -> None:
    run = planned("--workers", "2")["run"]
    assert (run["parameters"], run["samples"], run["workers"]) == (9610, 1437, 2)
    assert planned("--samples", "64000", "--batch-per-worker", "64")["run"]["steps"] == 60_000


def test_activations_are_measured_on_the_model() -> None:
    """An MLP keeps its input (64), the output of its ReLU (8), logits and labels: by hand."""
    options = "--task.hidden 8 --workers 2 --batch-per-worker 32 --activations".split()
    kept = planned(*options)["memory_bytes_per_worker"]["activations"]
    assert 32 * 4 * (64 + 8 + 10) <= kept <= 32 * 4 * (64 + 3 * 8 + 3 * 10)
    half = planned(*options, "--batch-per-worker", "16")["memory_bytes_per_worker"]["activations"]
    assert half == pytest.approx(kept / 2, rel=0.02)
    pieces = planned(*options, "--accumulate", "2")["memory_bytes_per_worker"]["activations"]
    assert pieces == pytest.approx(half, rel=0.02)
    assert "activations not counted" not in printed(*options)


def test_activations_of_micro_batches_of_a_net_with_batchnorm() -> None:
    """Few samples are measured, and they must not be cut once more: BatchNorm wants two."""
    net = "--task synthetic_images --task.model resnet8 --task.size 4 --task.norm batch".split()
    options = [*net, "--workers", "2", "--batch-per-worker", "16", "--activations"]
    pieces = planned(*options, "--accumulate", "4")["memory_bytes_per_worker"]["activations"]
    whole = planned(*options, "--batch-per-worker", "4")["memory_bytes_per_worker"]["activations"]
    assert pieces == whole > 0
    with pytest.raises(ConfigurationError, match="--accumulate 3"):
        planned(*options, "--accumulate", "3")


def test_a_plan_without_the_data_says_so(tmp_path: Path) -> None:
    text = printed("--task", "cifar10", "--task.data", str(tmp_path), "--task.model", "resnet8")
    assert "50,000 samples (not found here: the published size)" in text


def test_gossip_shows_its_spectral_gap() -> None:
    gossip = [*SMALL, "--algorithm", "gossip"]
    assert planned(*gossip)["topology"] == {
        "name": "ring()",
        "spectral_gap": pytest.approx(2 / 3),
    }
    assert "spectral gap     0.6667 a round (ring())" in printed(*gossip)
    star = [*gossip, "--algorithm.topology", "hpc_localsgd.topology.star"]
    traffic = planned(*star)["traffic"]
    assert traffic["payload_bytes_per_worker"] == 64 * 4000 * 1.5
    assert traffic["payload_bytes_busiest_worker"] == 64 * 4000 * 3


def test_warnings_reach_the_page() -> None:
    assert kinds(*SMALL) == ["never_local"]
    assert kinds(*SMALL, "--schedule.steps", "8", "--evaluate-every", "8") == []
    assert kinds(*SMALL, "--workers", "1") == ["given_twice", "one_worker"]
    text = printed(*SMALL)
    assert "Take note" in text
    assert "--schedule.steps 8" in text
    assert kinds(*SMALL, "--algorithm", "allreduce") == []


def test_ranks_of_unequal_numbers_of_workers_are_shown_with_what_they_cost() -> None:
    unequal = [*SMALL, "--workers", "8", "--ranks", "3"]
    assert "3: workers are 3 on 2 ranks and 2 on 1" in printed(*unequal)
    assert "11 % of the ranks' time is waiting for it; 2 or 4 ranks would" in " ".join(
        printed(*unequal).split()
    )
    run = planned(*unequal)["run"]
    assert (run["workers"], run["ranks"]) == (8, 3)
    assert run["waiting_of_unequal_ranks"] == pytest.approx(1 / 9)
    assert "unequal_ranks" in kinds(*unequal)
    even = [*SMALL, "--workers", "8", "--ranks", "4"]
    assert "unequal_ranks" not in kinds(*even)
    assert planned(*even)["run"]["waiting_of_unequal_ranks"] == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--workers", "2", "--ranks", "3"], "2 workers cannot be placed on 3 ranks"),
        (["--workers", "0"], "at least one worker, got --workers 0"),
        (["--fabric", "foo"], "unknown network 'foo': type one of"),
        (["--fabric", "10gbe"], "did you mean 10GbE?"),
        (["--fabric", "measured"], "this process is alone"),
        (["--parameters", "-3"], "--parameters must be positive"),
        (["--step-time", "0"], "--step-time must be positive"),
        (["--time-limit", "soon"], "is not a time"),
        (["--samples", "10"], "4 workers x 16 samples"),
        (["--algorithm.compressor", "power_sgd"], "shapes of this model's tensors are not known"),
    ],
)
def test_a_fault_of_the_request_is_one_line(
    options: Sequence[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*SMALL, *options]) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_ranks_other_than_the_first_say_nothing() -> None:
    second = detect({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"})
    assert command.plan(SMALL, second) == ""
    first = detect({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"})
    run = "--parameters 1000 --samples 640 --steps 8 --json".split()
    assert json.loads(command.plan(run, first))["run"]["workers"] == 4


def test_the_limit_of_a_slurm_job_is_asked_of_squeue(tmp_path: Path) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$3" = 17 ] && echo 1-00:00:00 || exit 1\n')
    squeue.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PATH", "")])
    assert job_limit_s({"SLURM_JOB_ID": "17", "PATH": path}) == 86_400
    assert math.isnan(job_limit_s({"SLURM_JOB_ID": "18", "PATH": path}))
    assert math.isnan(job_limit_s({"SLURM_JOB_ID": "17", "PATH": str(tmp_path / "empty")}))
    assert math.isnan(job_limit_s({"PATH": path}))


class Slow(Simulated):
    """Averages that take as long as a network would need, by a clock of its own."""

    now_s = 0.0

    def mean(self, x: Any, block: int | None = None) -> Any:
        self.now_s += 2e-3 + x[0].numel() * 4 / 1e9
        return super().mean(x, block)


def test_a_world_is_measured_to_be_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Slow(1)
    world.n = 2  # one message there, one back, and the payload once over the wire
    world.gather = lambda v: v  # type: ignore[method-assign]
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=lambda: world.now_s))
    found = measure(world, [4_000, 4_000_000])
    assert found.latency_s == pytest.approx(1e-3)
    assert found.bytes_per_s == pytest.approx(1e9)


HIDDEN = {"cocod", "overlap", "streaming_diloco"}  # the exchange runs while they compute
SIGN = '{"class_path": "hpc_localsgd.compressors.sign.Sign"}'
PARALLEL = "--algorithm.parallel_first=true"
DES_LOC = "--momentum-at-sync average --optimizer Adam --moments-every".split()
EXTRA = {
    "hierarchical": ["--algorithm.blocks", "[2]", "--algorithm.rounds", "[2]"],
    "gradient_tracking": ["--schedule", "every"],  # mixes at every step
}


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        *((name, EXTRA.get(name, [])) for name in sorted(config.choices("algorithm"))),
        ("local_sgd", ["--algorithm.compressor", SIGN]),
        ("local_sgd", ["--algorithm.compressor", "power_sgd"]),
        ("streaming_diloco", ["--algorithm.compressor", "power_sgd"]),
        ("local_sgd", ["--momentum-at-sync", "average"]),
        ("local_sgd", [*DES_LOC, "{exp_avg: 2, exp_avg_sq: 3}"]),
        ("hierarchical", [*"--algorithm.blocks [1] --algorithm.rounds [2]".split(), PARALLEL]),
        ("local_sgd", "--task.model conv --task.norm batch --batchnorm average".split()),
    ],
)
def test_training_sends_what_was_planned_and_as_long(algorithm: str, extra: list[str]) -> None:
    options = "--workers 4 --steps 10 --schedule post_local --schedule.switch 2 --schedule.every 3"
    argv = [*options.split(), "--task.hidden", "8", "--algorithm", algorithm, *extra]
    plan = planned(*argv)
    run, _ = make_run(config.parse(argv), Simulated(4, network=NETWORKS["10GbE"]))
    _, memory = go(run)
    sent = sum(row["payload_bytes"].mean() for row in memory.rounds)
    seconds = sum(row["transfer_s"].mean() for row in memory.rounds)
    assert plan["traffic"]["payload_bytes_per_worker"] == pytest.approx(sent)
    predicted = plan["seconds"]["communication_predicted"]
    if algorithm in HIDDEN:
        assert predicted >= seconds
    else:
        assert predicted == pytest.approx(seconds)


def test_averages_of_factors_of_a_large_model_take_as_long_as_they_are() -> None:
    """Matrices 64 x 2000 and 2000 x 10 with rank 2, vectors whole; two averages a round."""
    options = "--task.hidden 2000 --workers 4 --steps 4 --schedule every --schedule.steps 2".split()
    codec = (
        "--algorithm diloco --algorithm.compressor power_sgd --algorithm.compressor.rank 2".split()
    )
    plan = planned(*options, *codec, "--fabric", "10GbE")
    first, second = 2 * (2000 + 10) + 2010, 2 * (64 + 2000)
    assert plan["traffic"]["payload_bytes_per_worker"] == 2 * 4 * (first + second)
    wire = NETWORKS["10GbE"]
    exact = 2 * sum(wire.mean_s(4, 4 * numbers) for numbers in (first, second))
    assert plan["seconds"]["communication_predicted"] == pytest.approx(exact, rel=5e-3)
    kept = (
        plan["memory_bytes_per_worker"]["algorithm"] / 4
    )  # the anchor, momentum, Q, what was lost
    P = 64 * 2000 + 2000 * 10 + 2010
    assert kept == pytest.approx(2 * P + second + P - 2010, rel=5e-3)


def test_the_command_runs() -> None:
    done = launch(alone, ["-m", "hpc_localsgd", "plan", *SMALL, "--schedule.steps", "8"])
    done.succeeded()
    assert "8 for 64 steps (12.5 %)" in done.stdout


def test_a_plan_waits_at_shared_links() -> None:
    page = printed(*SMALL, "--fabric", "10GbE,trunk=1GB/s/2,core=2GB/s")
    assert "1 GB/s a trunk of 2 workers, 2 GB/s in the core" in page
    alone = planned(*SMALL, "--schedule.steps", "8", "--fabric", "10GbE")["seconds"]
    crowded = planned(*SMALL, "--schedule.steps", "8", "--fabric", "10GbE,core=100MB/s")["seconds"]
    assert crowded["network"]["shared"]["core_bytes_per_s"] == 1e8
    share = 4000 / 4 * 4  # four messages of a quarter meet in the core, six times a round
    for billed, byte_s in ((alone, 0.25 / 1.17e9), (crowded, 1e-8)):
        exact = 8 * 6 * (20e-6 + share * byte_s)
        assert billed["communication_predicted"] == pytest.approx(exact)


def test_a_plan_of_many_gossiping_workers_counts_each_matrix_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hpc_localsgd.commands.plan import rehearsal
    from hpc_localsgd.topology import base

    counted: list[int] = []

    def count(W: Any) -> Any:
        counted.append(len(W))
        return sent(W)

    sent = base.vectors_sent
    monkeypatch.setattr(rehearsal, "vectors_sent", count)
    monkeypatch.setattr(base, "vectors_sent", count)
    base._sent.cache_clear()
    words = ["--algorithm", "gossip", "--algorithm.topology", "one_peer_exponential"]
    plan = planned(*SMALL, "--schedule.steps", "1", "--workers", "8", *words)
    assert counted == [8] * 2 * 3  # three matrices take turns, billed and paid
    assert plan["traffic"]["payload_bytes_per_worker"] == 64 * 4000
    exact = 64 * (20e-6 + 4000 / 1.17e9)
    assert plan["seconds"]["communication_predicted"] == pytest.approx(exact)


def test_a_matrix_that_no_memory_holds_is_refused() -> None:
    words = [*SMALL, "--samples", "1e9", "--workers", "65536", "--algorithm", "gossip"]
    with pytest.raises(ConfigurationError, match="takes 34 GB: with a topology, plan up to 8192"):
        printed(*words)


def test_the_spectral_gap_of_very_many_workers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc_localsgd.commands.plan import report

    words = [*SMALL, "--algorithm", "gossip", "--algorithm.topology", "complete"]
    assert "1 a round (complete())" in printed(*words)
    monkeypatch.setattr(report, "MOST_SPECTRAL", 3)
    assert "not computed (complete())" in printed(*words)
    assert planned(*words)["topology"] == {"name": "complete()", "spectral_gap": None}
