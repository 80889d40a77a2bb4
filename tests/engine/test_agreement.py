"""What ranks say to each other before they train: each hears all of it, or all are told why not."""

from __future__ import annotations

import copy
import hashlib
import socket
import sys
from pathlib import Path

import pytest
import torch

from hpc_localsgd.engine import agreement
from hpc_localsgd.engine.agreement import agree, check_same, digest, hosts_of, of_rank_0
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.worlds.base import World

sys.path.append(str(Path(__file__).parents[1] / "attach"))  # its ranks, which are threads

from rank_threads import ThreadWorld, errors_on_ranks, on_ranks  # noqa: E402

from hpc_localsgd.worlds.gather_texts import gather_texts


@pytest.mark.parametrize("kind", [ConfigurationError, TrajectoryError])
@pytest.mark.parametrize(("at", "said"), [(0, "no such data"), (2, "no such data (on rank 2)")])
def test_what_one_rank_refuses_all_refuse_with_its_words(
    at: int, said: str, kind: type[Exception]
) -> None:
    def work(world: ThreadWorld) -> None:
        def check() -> int:
            if world.rank == at:
                raise kind("no such data")
            return 3

        agree(world, check)

    assert errors_on_ranks(3, work) == [f"ConfigurationError: {said}"] * 3


def test_of_several_that_refuse_the_first_is_heard() -> None:
    def work(world: ThreadWorld) -> None:
        def check() -> None:
            if world.rank:
                raise ConfigurationError(f"at {world.rank}")

        agree(world, check)

    assert set(errors_on_ranks(3, work)) == {"ConfigurationError: at 1 (on rank 1)"}


def test_what_all_accept_each_has_for_itself() -> None:
    assert on_ranks(3, lambda world: agree(world, lambda: world.rank)) == [0, 1, 2]


@pytest.mark.parametrize("mistake", [KeyError("a mistake"), OSError(9, "of no file")])
def test_a_mistake_of_the_program_is_no_refusal(mistake: Exception) -> None:
    def wrong() -> None:
        raise mistake

    with pytest.raises(type(mistake)):
        on_ranks(1, lambda world: agree(world, wrong))


def test_texts_of_all_ranks_reach_all_and_are_cut_where_they_are_too_long() -> None:
    def work(world: ThreadWorld) -> list[list[str]]:
        return [
            gather_texts(world, "é" * world.rank, 9),
            gather_texts(world, "x" * 3000, 2000),
            gather_texts(world, "abcd", 3),
        ]

    for said, long, short in on_ranks(3, work):
        assert said == ["", "é", "éé"]
        assert long == ["x" * agreement.SAID_BYTES] * 3 and agreement.SAID_BYTES == 2000
        assert short == ["abc"] * 3


def test_lines_that_differ_are_refused_on_all_ranks_with_the_first_that_does() -> None:
    def work(world: ThreadWorld) -> None:
        check_same(world, ["lr: 0.1", f"seed: {world.rank == 1}", f"steps: {world.rank}"])

    assert on_ranks(3, lambda world: check_same(world, ["lr: 0.1", "seed: 1"])) == [None] * 3
    said = errors_on_ranks(3, work)
    assert len(set(said)) == 1
    assert said[0].startswith(
        "ConfigurationError: the ranks differ: rank 0 has seed: False, rank 1 has seed: True; "
        "start all ranks with the same command line"
    )


def test_lines_that_a_rank_has_besides_are_told_and_its_number_is_the_ranks() -> None:
    def work(world: ThreadWorld) -> None:
        check_same(world, ["lr: 0.1"] * (1 + world.rank // 2), "mend it")

    assert set(errors_on_ranks(3, work)) == {
        "ConfigurationError: the ranks differ: rank 0 has nothing more, rank 2 has lr: 0.1; mend it"
    }


def test_of_several_workers_in_a_process_the_rank_is_named() -> None:
    def work(world: ThreadWorld) -> None:
        two_in_each = copy.copy(world)
        World.__init__(two_in_each, 2 * world.n, world.transport, torch.device("cpu"))
        check_same(two_in_each, [f"seed: {world.rank == 1}"])

    assert "rank 0 has seed: False, rank 1 has seed: True;" in errors_on_ranks(3, work)[0]


def test_a_number_is_rank_0s() -> None:
    assert on_ranks(3, lambda world: of_rank_0(world, 10 + world.rank)) == [10, 10, 10]


def test_the_longest_name_of_a_host_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "n" * 64  # Linux has no longer ones
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert on_ranks(2, hosts_of) == [[name, name]] * 2


def test_a_configuration_has_its_sha_256() -> None:
    assert digest("seed: 1") == hashlib.sha256(b"seed: 1").hexdigest()
