"""The numbers an algorithm takes, up to the last that it takes, and the first that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.edit import EDiT
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum
from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.algorithms.overlap import Overlap
from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import hypercube, one_peer_exponential, random_directed, ring
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.simulated import Simulated

NAN = float("nan")
SIZE = ModelSize((3, 2), 8)


@pytest.mark.parametrize(
    ("kind", "name", "taken", "refused"),
    [
        (SlowMo, "alpha", (1e-9, 5.0), (0.0, -0.5, NAN)),
        (SlowMo, "beta", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (Overlap, "pull", (0.0, 1.0), (-1e-9, 1.001, NAN)),
        (Overlap, "beta", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (LocalSignMomentum, "momentum", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (NoLoCo, "alpha", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (NoLoCo, "beta", (1e-9, 2.0), (0.0, -0.5, NAN)),
        (NoLoCo, "gamma", (1e-9, 2.0), (0.0, -0.5, NAN)),
        (EDiT, "lr", (1e-9, 5.0), (0.0, -0.5, NAN)),
        (EDiT, "momentum", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (EDiT, "threshold", (1e-9, float("inf")), (0.0, -1.0, NAN)),
        (EDiT, "clip", (1e-9, float("inf")), (0.0, -1.0, NAN)),
        (EDiT, "smoothing", (1e-9, 1.0), (0.0, 1.001, NAN)),
        (EDiT, "warmup", (1, 100), (0, -1)),
        (DiLoCo, "lr", (1e-9, 1.0, 5.0), (0.0, -0.5, NAN)),
        (DiLoCo, "momentum", (0.0, 0.9), (-0.5,)),
        (DiLoCo, "options", ({}, {"dampening": 0.0}), ({"dampening": 0.5}, {"none": 1})),
        (StreamingDiLoCo, "lr", (1e-9, 1.0), (0.0, -0.5, NAN)),
        (StreamingDiLoCo, "fragments", (1, 2), (0, -1)),
        (StreamingDiLoCo, "delay", (0, 1), (-1,)),
        (StreamingDiLoCo, "keep_local", (0.0, 0.999), (-1e-9, 1.0, NAN)),
        (Hierarchical, "rounds", ((1,), (4,)), ((0,), (), (2, 2))),
    ],
)
def test_what_is_taken_and_what_is_refused(
    kind: Any, name: str, taken: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    for value in taken:
        assert getattr(kind(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ConfigurationError):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("made", "K", "said"),
    [
        (D2(one_peer_exponential()), 8, "needs a graph that does not change"),
        (Gossip(hypercube()), 6, "hypercube"),
        (GradientTracking(hypercube()), 6, "hypercube"),
        (NoLoCo(topology=hypercube()), 6, "hypercube"),
        (PushSum(hypercube()), 6, "hypercube"),
        (Gossip(random_directed()), 6, "row . .* sums to .*push_sum accepts"),
        (D2(random_directed()), 6, "row . .* sums to .*push_sum accepts"),
        (Hierarchical(blocks=(3,)), 4, "blocks of 3 do not divide 4 workers"),
        (Hierarchical(blocks=(2, 3), rounds=(1, 1)), 6, "blocks of 2 do not divide 3 workers"),
        (StreamingDiLoCo(fragments=3), 2, "fragments"),
    ],
    ids=str,
)
def test_what_does_not_go_with_the_workers_or_the_model_is_refused_before_the_first_round(
    made: Algorithm, K: int, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made.init(torch.zeros(K, 5), Simulated(K), SIZE)


def now(t: int, last: bool = False) -> Now:
    return Now(t=t, s=t, H=1, h=0, lr=0.1, lr_round=0.1, last=last, parallel=True)


def test_the_first_step_of_gradient_tracking_has_nothing_to_track_yet() -> None:
    made = GradientTracking(ring())
    assert [made.payload(SIZE, 4, now(t)).tolist() for t in (0, 1, 2)] == [
        [2 * SIZE.nbytes] * 4,
        [4 * SIZE.nbytes] * 4,
        [4 * SIZE.nbytes] * 4,
    ]


def test_fragments_are_sent_in_turn_and_all_of_them_at_the_end() -> None:
    made = StreamingDiLoCo(fragments=2)
    assert [made.payload(SIZE, 4, now(s)) for s in range(3)] == [24, 16, 24]
    assert made.payload(SIZE, 4, now(3, last=True)) == 40


@pytest.mark.parametrize("made", [StreamingDiLoCo(), Overlap()], ids=str)
def test_workers_that_never_wait_for_each_other_are_equal_at_the_end_alone(made: Any) -> None:
    state = made.init(torch.zeros(2, 5), Simulated(2), SIZE)
    assert [made.makes_equal(state, now(3, last)) for last in (False, True)] == [False, True]
