"""What an algorithm refuses when it is made or begins, and what it answers before it exchanges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.overlap import Overlap
from hpc_localsgd.compressors.sign import Sign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import complete, custom, lazy, ring
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated


def between(lazier: float, K: int = 4) -> Any:
    """A ring of four workers, made lazier: its least eigenvalue is -1/3 + 4/3 of that."""
    return custom(((1 - lazier) * ring().matrix(K) + lazier * np.eye(K)).tolist())


@pytest.mark.parametrize(
    ("topology", "K", "fits"),
    [
        (ring(), 3, True),  # 0
        (ring(), 4, False),  # -1/3, where the method's condition ends
        (ring(), 2, True),  # 0: both have one neighbour
        (lazy(of=ring()), 4, True),
        (complete(), 8, True),
        (between(0.01), 4, True),
        (between(-0.01), 4, False),
        (between(-0.2), 4, False),
    ],
    ids=str,
)
def test_d2_needs_eigenvalues_above_minus_a_third(topology: Any, K: int, fits: bool) -> None:
    def begin() -> None:
        D2(topology).init(torch.zeros(K, 2), Simulated(K), ModelSize((2,), 8))

    if fits:
        begin()
    else:
        with pytest.raises(ConfigurationError, match="lambda_min > -1/3"):
            begin()


@pytest.mark.parametrize(
    "name", ["Optimizer", "lr_scheduler", "swa_utils", "SGDD", "Any", "LBFGS "]
)
def test_the_outer_optimiser_is_one_of_torch(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the outer optimiser"):
        DiLoCo(optimizer=name)


@pytest.mark.parametrize("taken", [torch.nn.Parameter, torch.Tensor, lambda *a, **k: None])
def test_what_else_lies_in_torch_optim_is_none(
    taken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim, "Other", taken, raising=False)
    with pytest.raises(ConfigurationError, match="it is not an optimiser"):
        DiLoCo(optimizer="Other")


@pytest.mark.parametrize(
    ("K", "codec", "acts"), [(1, None, False), (2, None, True), (1, Sign(), True)]
)
def test_alone_and_without_a_codec_nothing_is_done_with_a_gradient(
    K: int, codec: Any, acts: bool
) -> None:
    assert AllReduce(compressor=codec).acts_on_gradient({}, Simulated(K), 1) is acts


@pytest.mark.parametrize(
    ("ranks", "workers", "codec", "begun"),
    [(2, 1, None, True), (1, 1, None, False), (1, 2, None, False), (2, 2, None, False)]
    + [(2, 1, Sign(), False)],
)
def test_an_average_begins_in_backward_of_one_worker_among_several_ranks(
    ranks: int, workers: int, codec: Any, begun: bool
) -> None:
    world: Any = SimpleNamespace(n=ranks, K=ranks * workers, begin_mean=lambda x, keep: None)
    given: Any = None
    assert (AllReduce(compressor=codec).in_backward({}, world, given) is not None) is begun


@pytest.mark.parametrize("given", [{"pull": -0.1}, {"pull": 1.1}, {"beta": -0.1}, {"beta": 1.0}])
def test_overlap_pulls_by_a_share_and_its_velocity_fades(given: dict[str, float]) -> None:
    assert Overlap(pull=0.0, beta=0.0) != Overlap(pull=1.0)
    with pytest.raises(ConfigurationError):
        Overlap(**given)


@pytest.mark.parametrize("blocks", [(0,), (-2,), (4, 0)])
def test_a_block_without_workers_is_none(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="a block has at least 1 worker"):
        Hierarchical(blocks=blocks, rounds=(2,) * len(blocks))


@pytest.mark.parametrize(("block", "fits"), [(1, True), (3, True), (2, True), (4, False)])
def test_blocks_that_do_not_divide_are_refused_before_the_first_round(
    block: int, fits: bool
) -> None:
    """Six workers, on two ranks of three: blocks of two are cut by them, and averaged as well."""
    world = Simulated(6)
    world.n, world.local_workers, world.placement = 2, range(3), Placement(6, 2)

    def begin() -> Any:
        made = Hierarchical(blocks=(block,))
        return made.init(torch.zeros(3, 2), world, ModelSize((2,), 8))["levels"]

    if fits:
        assert begin() == (block, 6)
    else:
        with pytest.raises(ConfigurationError, match="divide"):
            begin()


def round_of(s: int, last: bool = False) -> Now:
    return Now(t=s, s=s, H=1, h=0, lr=0.1, lr_round=0.1, last=last, parallel=True)


@pytest.mark.parametrize(
    ("blocks", "K", "sent"),
    [
        ((1,), 4, [0, 0, 0, 16]),
        ((2,), 4, [16] * 4),
        ((1,), 1, [0] * 4),
        ((1, 2), 4, [0, 16, 0, 16]),
    ],
)
def test_a_block_of_one_and_a_worker_alone_send_nothing(
    blocks: tuple[int, ...], K: int, sent: list[int]
) -> None:
    made = Hierarchical(blocks=blocks, rounds=(4,) if len(blocks) == 1 else (2, 2))
    assert [made.payload(ModelSize((2,), 8), K, round_of(s)) for s in range(4)] == sent


@pytest.mark.parametrize(
    ("blocks", "rounds", "equal"),
    [((2,), (3,), [0, 0, 1, 0, 0, 1]), ((1, 2), (2, 2), [0, 0, 0, 1, 0, 0])],
)
def test_workers_are_equal_after_the_rounds_in_which_all_met(
    blocks: tuple[int, ...], rounds: tuple[int, ...], equal: list[int]
) -> None:
    made = Hierarchical(blocks, rounds)
    state = made.init(torch.zeros(4, 2), Simulated(4), ModelSize((2,), 8))
    assert [made.makes_equal(state, round_of(s)) for s in range(6)] == equal
    assert made.makes_equal(state, round_of(0, last=True))


@pytest.mark.parametrize(
    ("defines", "acts"), [((), False), (("on_gradient",), True), (("in_backward",), True)]
)
def test_who_has_a_rule_for_gradients_is_asked_about_them(
    defines: tuple[str, ...], acts: bool
) -> None:
    own = {name: lambda *given: None for name in ("on_sync", "payload", *defines)}
    assert type("Own", (Algorithm,), own)().acts_on_gradient({}, Simulated(2), 1) is acts


@pytest.mark.parametrize(
    ("blocks", "smaller", "workers"), [((), (), 1), ((8,), (2,), 4), ((4, 16), (2, 4), 8)]
)
def test_a_short_run_has_as_many_levels_of_small_blocks(
    blocks: tuple[int, ...], smaller: tuple[int, ...], workers: int
) -> None:
    made = Hierarchical(blocks, rounds=(3,) * max(1, len(blocks)))
    assert made.smoke() == (replace(made, blocks=smaller), workers)
