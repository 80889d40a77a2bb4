"""`python -m hpc_localsgd plan`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from launching import alone
from launching import run as launch
from plans import SMALL, kinds, planned, printed

from hpc_localsgd.commands.plan import command
from hpc_localsgd.commands.plan.job_limit import job_limit_s
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_slurm")
VIT = (
    "--schedule qsr --schedule.alpha 0.0175 --schedule.at_least 4 --schedule.warmup 10000 "
    "--rate cosine --rate.lr 0.008 --rate.warmup 10000 --rate.floor 1e-6 --steps 93600 "
    "--parameters 86567656 --samples 1281167 --remainder drop --workers 8 --batch-per-worker 512"
).split()


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


def test_the_command_runs() -> None:
    done = launch(alone, ["-m", "hpc_localsgd", "plan", *SMALL, "--schedule.steps", "8"])
    done.succeeded()
    assert "8 for 64 steps (12.5 %)" in done.stdout
