"""Exchanges that are planned take as long as training bills them, on links that are shared too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from plans import SMALL, planned, printed
from small_runs import go

from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration import config
from hpc_localsgd.commands.plan import network
from hpc_localsgd.commands.plan.network import measure
from hpc_localsgd.cost.cost_model import NETWORKS
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

pytestmark = pytest.mark.usefixtures("no_slurm")


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
