"""Ranks that begin with parameters of their own: `attach(broadcast=False)`."""

from __future__ import annotations

import copy

import pytest
import torch
from loops import attached, everyone_equal, net, of_the_folder, parameters, steps
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks

from hpc_localsgd import AllReduce, DiLoCo, LocalSGD, every
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError

K, REFUSED = 4, "ConfigurationError: the workers begin with different parameters"


@pytest.mark.parametrize("H", [1, 2])
@pytest.mark.parametrize("algorithm", of_the_folder(), ids=lambda a: repr(a).replace(" ", ""))
def test_it_is_refused_by_all_or_is_trained_as_it_should(algorithm: Algorithm, H: int) -> None:
    """What a round should leave equal is equal, and `finish` has nothing to warn of."""
    H = 1 if algorithm.only_single_steps else H

    def work(world: ThreadWorld) -> list[torch.Tensor]:
        given = {"schedule": every(H), "algorithm": algorithm, "broadcast": False}
        model, optimizer, sync = attached(net(world.rank), world=world, **given)
        steps(model, optimizer, sync, range(4), world.rank)
        after = parameters(model)
        sync.finish()
        return [after, parameters(model)]

    if algorithm.begins_equal(H):
        said = errors_on_ranks(K, work)
        assert len(set(said)) == 1 and said[0].startswith(REFUSED), said
        return
    after, end = zip(*on_ranks(K, work), strict=True)
    everyone_equal(list(end))
    if algorithm.ends_equal:
        everyone_equal(list(after))


def test_those_that_need_no_common_beginning_are_not_refused() -> None:
    apart = {type(a).__name__ for a in of_the_folder() if not a.begins_equal(2)}
    never_equal = {"CoCoD", "D2", "Gossip", "GradientTracking", "NoLoCo", "Overlap", "PushSum"}
    assert apart == never_equal | {"Hierarchical", "LocalSGD"}


def test_nobody_is_refused_who_begins_alike() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        given = {"schedule": every(1), "algorithm": AllReduce(), "broadcast": False}
        model, optimizer, sync = attached(net(3), world=world, **given)
        steps(model, optimizer, sync, range(3), world.rank)
        return parameters(model)

    everyone_equal(on_ranks(2, work))


def test_the_first_average_is_of_what_each_has_come_to() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        given = {"schedule": every(2), "algorithm": LocalSGD(), "broadcast": False}
        model, optimizer, sync = attached(net(world.rank), world=world, **given)
        steps(model, optimizer, sync, range(2), world.rank)
        alone, own = net(world.rank), torch.optim.SGD
        own = own(alone.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        steps(alone, own, None, range(2), world.rank)
        return parameters(model), parameters(alone)

    (ours, one), (_, other) = on_ranks(2, work)
    torch.testing.assert_close(ours, (one + other) / 2)


def test_a_run_goes_on_in_mid_round_from_models_loaded_before_attach() -> None:
    """They differ, and what the algorithm remembers is not of them but comes with the state."""

    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        given = {"schedule": every(4), "algorithm": DiLoCo()}
        model, optimizer, sync = attached(world=world, **given)
        steps(model, optimizer, sync, range(6), world.rank)
        state = copy.deepcopy([p.state_dict() for p in (model, optimizer, sync)])
        steps(model, optimizer, sync, range(6, 9), world.rank)
        again = net(7)
        again.load_state_dict(state[0])
        again, other, resumed = attached(again, world=world.restarted(), broadcast=False, **given)
        other.load_state_dict(state[1])
        resumed.load_state_dict(state[2])
        steps(again, other, resumed, range(6, 9), world.rank)
        return parameters(model), parameters(again)

    for uninterrupted, resumed in on_ranks(2, work):
        assert torch.equal(uninterrupted, resumed)


def test_it_is_refused_again_when_the_exception_is_caught() -> None:
    def work(world: ThreadWorld) -> None:
        given = {"schedule": every(2), "algorithm": DiLoCo(), "broadcast": False}
        model, optimizer, sync = attached(net(world.rank), world=world, **given)
        with pytest.raises(ConfigurationError):
            steps(model, optimizer, sync, range(1), world.rank)
        steps(model, optimizer, sync, range(1), world.rank)

    assert all(line.startswith(REFUSED) for line in errors_on_ranks(2, work))
