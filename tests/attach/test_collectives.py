"""What ranks conclude when they compare where they are, whatever a library hands over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd.attach.collectives import AVERAGED, GRADIENTS, ROUND, Collectives, RankState
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.rollcall import RollCall


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -1.0, 2.5, 99.0, 1e300])
def test_what_is_no_comparison_is_named_as_such(odd: float) -> None:
    """MPI may let a comparison meet an average of the same length."""

    def rank(world: ThreadWorld) -> None:
        collectives, gather = Collectives(world, 60.0), world.gather

        def strange(own: np.ndarray) -> np.ndarray:
            rows = gather(own)
            rows[1] = odd
            return rows

        world.gather = strange  # type: ignore[method-assign]
        with collectives.at(AVERAGED, 6):
            collectives.compare(RankState(AVERAGED, 6))

    for said in errors_on_ranks(2, rank):
        assert said.startswith("ConfigurationError") and "what rank 1 sent is of another" in said


def test_the_whole_place_is_compared() -> None:
    places = {"what": (AVERAGED, 6, 6), "t": (ROUND, 7, 6), "begin": (ROUND, 6, 5)}
    for other in places.values():

        def rank(world: ThreadWorld, other: tuple[str, int, int] = other) -> None:
            Collectives(world, 60.0).compare(RankState(*(other if world.rank else (ROUND, 6, 6))))

        for said in errors_on_ranks(2, rank):
            assert "out of step" in said and "rank 1" in said


def test_ranks_that_average_other_backward_passes_are_told_of_no_sync() -> None:
    def rank(world: ThreadWorld) -> None:
        Collectives(world, 60.0).compare(RankState(GRADIENTS, 6 + world.rank))

    for said in errors_on_ranks(2, rank):
        assert "the exchange of gradients" in said and "no_sync()" in said


@pytest.mark.parametrize("non_finite", [False, True])
def test_what_all_ranks_know_waits_for_no_explanation(non_finite: bool, monkeypatch) -> None:
    asked: list[BaseException] = []
    monkeypatch.setattr(RollCall, "_explain", lambda _, error: asked.append(error))

    def rank(world: ThreadWorld) -> None:
        collectives = Collectives(world, 60.0)
        what = RankState(AVERAGED, 6 if non_finite else 6 + world.rank, finite=not non_finite)
        with collectives.at(AVERAGED, 6):
            collectives.compare(what)

    said = errors_on_ranks(2, rank)
    assert all(("not finite" in s) == non_finite for s in said) and asked == []


@pytest.mark.parametrize("patience_s", [0, -1.0, float("nan"), "3600", None, True])
def test_a_patience_that_is_none_is_refused(patience_s: object) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="patience_s is .*give the seconds"):
        hpc_localsgd.attach(
            model,
            optimizer,
            schedule=hpc_localsgd.every(2),
            patience_s=patience_s,  # type: ignore[arg-type]
        )


def test_ranks_that_differ_in_patience_are_told() -> None:
    def rank(world: ThreadWorld) -> None:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        hpc_localsgd.attach(
            model,
            optimizer,
            schedule=hpc_localsgd.every(2),
            world=world,
            patience_s=60.0 + world.rank,
        )

    for said in errors_on_ranks(2, rank):
        assert "patience_s=60" in said and "patience_s=61" in said


def test_ranks_at_one_place_go_on_with_its_rate() -> None:
    def rank(world: ThreadWorld) -> float:
        place = RankState(ROUND, 6, 4, 0.5 if world.rank else 0.0, used=world.rank == 1)
        return Collectives(world, 60.0).compare(place).rate

    assert on_ranks(2, rank) == [0.5, 0.5]
