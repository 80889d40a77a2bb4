"""A rank whose exchange fails keeps what it has, and says in a sentence how to resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpc_localsgd.commands import exit_codes
from hpc_localsgd.commands.exit_codes import HUNG, OK
from hpc_localsgd.errors import Unreachable
from hpc_localsgd.run.checkpoint import manager
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.run.stopping import STOPPED, StopListener
from hpc_localsgd.train import main
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.transport import Alone

GLOO = "[/src/gloo/transport/tcp/pair.cc:5] Connection closed by peer. This is typically a bug."


class Torn(Alone):
    """A second rank that went away."""

    n = 2

    def __init__(self, error: Exception) -> None:
        self.error = error

    def average(self, v: torch.Tensor, ranks: int) -> None:
        raise self.error

    def begin_average(self, v: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda: self.average(v, 2)

    def close(self) -> None:
        raise self.error

    def lost(self, error: Exception) -> bool:
        return isinstance(error, RuntimeError)


class Two(World):
    def __repr__(self) -> str:
        return "two"


def torn(error: Exception | None = None) -> World:
    return Two(2, Torn(error or RuntimeError(GLOO)), torch.device("cpu"))


@pytest.mark.parametrize(
    "exchange",
    [
        lambda world, x: world.mean(x),
        lambda world, x: world.begin_mean(x).wait(),
        lambda world, x: world.close(),
    ],
    ids=["mean", "begin_mean", "close"],
)
def test_what_a_library_raises_is_said_in_a_sentence(exchange) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Unreachable, match=r"^rank 0 on \S+ does not reach the others: ") as raised:
        exchange(torn(), torch.ones(1, 3))
    assert str(raised.value).endswith("is down (Connection closed by peer)")
    with pytest.raises(ValueError, match="a mistake"):
        exchange(torn(ValueError("a mistake")), torch.ones(1, 3))


def test_outside_the_loop_the_status_is_that_of_a_hang(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(exit_codes, "end", statuses.append)
    world = torn()
    exit_codes.in_world(world, "train", lambda: int(world.mean(torch.ones(1, 3)).sum()))
    assert statuses == [HUNG]
    said = capsys.readouterr().err
    assert said.count("does not reach the others") == 1 and "Traceback" not in said


def test_what_is_done_is_done_though_the_others_have_gone() -> None:
    assert exit_codes.in_world(torn(), "train", lambda: OK) == OK


@pytest.mark.parametrize(("asked", "status"), [("", HUNG), ("STOP", STOPPED)])
def test_in_the_loop_what_is_in_memory_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    status: int,
) -> None:
    """Of a rank that was asked to stop, and whose fellow was the faster to end, likewise."""
    whole, calls = World.mean, 0

    def mean(world: World, x: torch.Tensor, block: int | None = None) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls < 3:
            return whole(world, x, block)
        if asked:
            stoppings[0].ask(asked)
        raise Unreachable("rank 0 does not reach the others")

    def ended(status: int) -> None:
        statuses.append(status)
        raise SystemExit

    stoppings: list[StopListener] = []
    statuses: list[int] = []
    enter = StopListener.__enter__
    monkeypatch.setattr(StopListener, "__enter__", lambda s: stoppings.append(s) or enter(s))
    monkeypatch.setattr(World, "mean", mean)
    monkeypatch.setattr(manager, "end", ended)
    options = ["--task.hidden=8", "--steps=24", "--schedule=every", "--schedule.steps=4"]
    with pytest.raises(SystemExit):
        main([*options, "--figures=false", "--workers=2", f"--out={tmp_path / 'run'}"])
    assert statuses == [status] and last_complete(tmp_path / "run") is not None
    said = capsys.readouterr().err
    assert said.count("hpc_localsgd.train --config") == 1
    assert said.startswith("rank 0 does not reach") == (status == HUNG)


def test_of_all_ranks_the_first_that_asks_speaks(tmp_path: Path) -> None:
    (tmp_path / "STOP").write_text("of a job before")
    one, other, late = StopListener(), StopListener(), StopListener()
    for stopping in (one, other, late):
        stopping.look_at(tmp_path)
    for stopping in (one, other):
        stopping.ask("a hang", HUNG)
    assert [one.first, other.first] == [True, False]
    assert (tmp_path / "STOP").read_text() == str(HUNG)
    late._look()
    assert (late.asked, late.status, late.first) == ("STOP", HUNG, False)
    assert [file.name for file in tmp_path.iterdir()] == ["STOP"]
