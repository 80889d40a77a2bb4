"""What a checkpoint may say, number by number: every place of every run, and nothing beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.compressors import Sign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Position, train
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.checkpoint.vetting import check_place
from restated.local import AdamW, Sgd
from restated.problem import Case, P
from restated.test_checkpoints_hold_everything import CASES, begun

R = 3


def numbers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


class Placing:
    """Stands in for the recorder; keeps the places."""

    def __init__(self, run: Any) -> None:
        self.run, self.places = run, list[RankCheckpoint]()

    def after_step(self, loss: torch.Tensor) -> None: ...

    def before_sync(self, p: Position, now: Any) -> None: ...

    def after_sync(self, p: Position, now: Any) -> None: ...

    def measure(self, p: Position) -> None: ...

    def keep(self, p: Position) -> None:
        after = p.t if p.t == p.end else p.begin
        figures = numbers(len(p.x), 4)
        row = {"s": 0, "H": 1, "end": 1, "lr": 0.1, "figures": figures}
        record = {"rows": [row], "loss": torch.zeros(len(p.x)), "so_far": figures}
        self.places.append(RankCheckpoint.of(self.run, p, after, record))


def places_of(case: Case) -> list[RankCheckpoint]:
    run, p = begun(case)
    placing = Placing(run)
    placing.places.append(RankCheckpoint.of(run, p, 0))  # before the first step
    train(run, p, placing, placing.keep)  # type: ignore[arg-type]
    return placing.places


@pytest.mark.parametrize("local", [Sgd, AdamW], ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES)
def test_every_place_of_a_run_is_one(case: Case, local: Any) -> None:
    case = replace(case, given=case.given | {"local": local})
    for place in places_of(case)[::3]:
        check_place(place, *begun(case))


# A run with error feedback and AdamW, after step 9: in the round from 7 to 11, of 14 steps.
MID = Case("", LocalSGD(average="parameters", compressor=Sign()), lambda p: None, {"local": AdamW})


@pytest.fixture(scope="module")
def mid() -> RankCheckpoint:
    place = places_of(MID)[9]
    where = {"t": 9, "s": 4, "begin": 7, "end": 11, "parallel": False}
    assert (place.state["place"], place.after, MID.problem().steps) == (where, 7, 14)
    return place


Change = Callable[[dict[Any, Any]], None]


def put(path: str, value: Any) -> Any:
    """A state with another value at a path; a callable makes it of the old one."""

    def change(state: dict[Any, Any]) -> None:
        *above, last = [int(word) if word.isdecimal() else word for word in path.split("/")]
        for word in above:
            state = state[word]
        state[last] = value(state[last]) if callable(value) else value

    return pytest.param(change, id=f"{path}={value if isinstance(value, int | float) else '..'}")


def drop(path: str) -> Any:
    """A state without something."""
    above, _, last = path.rpartition("/")

    def change(state: dict[Any, Any]) -> None:
        for word in above.split("/"):
            state = state[int(word) if word.isdecimal() else word]
        del state[int(last) if last.isdecimal() else last]

    return pytest.param(change, id=f"no {path}")


GROUP, STATE = "optimizer/param_groups/1", "optimizer/state/1"
RIGHT = [
    *(put("place/t", t) for t in (7, 8, 11)),
    *(put("place/begin", t) for t in (4, 9)),
    *(put("place/end", t) for t in (9, 14)),
    *(put("place/s", s) for s in (-1, 0, 7)),
    *(put("after", t) for t in (0, 9)),
    put("place/parallel", True),
    put("schedule", None),
    *(put("sync/memory", m) for m in (None, numbers(R, P), numbers(R, P - 1), numbers(P))),
    *(put("sync/memory", m) for m in (numbers(), {"of": [1, "word"], "and": numbers(R, P)})),
    put("cuda_rng", torch.zeros(16, dtype=torch.uint8)),
    *(put(f"{GROUP}/lr", lr) for lr in (0.0, 7.0)),
    *(put(f"{STATE}/step", n) for n in (torch.tensor(0.0), torch.tensor([3.0]), 5)),
    put("optimizer/state", {}),
    put("record", {}),
    put("record/loss", None),
    put("record/rows", []),
    *(put(f"record/rows/0/{name}", n) for name in ("s", "H", "end") for n in (0, 9)),
]
WRONG = [
    *(put("place/t", t) for t in (6, 12, True, 9.0)),
    *(put("place/begin", t) for t in (-1, 10)),
    *(put("place/end", t) for t in (8, 15)),
    *(put("place/s", s) for s in (-2, 8)),
    *(put("after", t) for t in (-1, 10)),
    *(put("steps", n) for n in (10, 14.0)),  # a run may go on to another length behind the round
    put("place/more", 1),
    put("place/parallel", 1),
    drop("place/parallel"),
    *(put("schedule", values) for values in ([], {"H": 3}, "x")),
    drop("place/s"),
    put("place", (9, 4, 7, 11)),
    *(put("sync/memory", m) for m in (numbers(R, P + 1), numbers(R + 1, P), numbers(1, R, P))),
    *(put("sync/memory", {"of": {"a": m}}) for m in (numbers(R, P + 1),)),
    put("sync/other", 1),
    drop("sync/anchor"),
    put("sync/anchor", lambda a: a.float()),
    put("sync/anchor", lambda a: a[:-1]),
    put("sync/anchor", None),
    put("sync", []),
    put("task", []),
    put("task/taken", torch.zeros(1)),
    put("buffers", numbers(R, 3)),
    put("x", lambda x: x.float()),
    put("x", "x"),
    put("rng", lambda x: x.int()),
    *(put("cuda_rng", numbers) for numbers in ("x", torch.zeros(16))),
    put("optimizer", []),
    put("optimizer/param_groups", lambda g: g[:1]),
    put("optimizer/param_groups", lambda g: [*g, g[0]]),
    put("optimizer/param_groups", tuple),
    put("optimizer/state", []),
    put(GROUP, []),
    drop(f"{GROUP}/eps"),
    put(f"{GROUP}/eps", 1.0),
    drop("optimizer/state/1"),
    put("optimizer/state", {7: {}}),
    put("optimizer/state", lambda s: s | {2: s[1]}),
    put(STATE, []),
    put(f"{STATE}/more", numbers(R, P)),
    drop(f"{STATE}/exp_avg"),
    put(f"{STATE}/exp_avg", lambda m: m[:-1]),
    put(f"{STATE}/exp_avg", 0.0),
    *(put(f"{STATE}/step", n) for n in (torch.tensor(-1.0), torch.tensor(float("nan")), -1)),
    put(f"{STATE}/step", torch.zeros(2)),
    put("record", []),
    put("record/more", 1),
    drop("record/so_far"),
    put("record/rows", {}),
    put("record/rows", [7]),
    drop("record/rows/0/H"),
    put("record/rows/0/more", 1),
    *(put(f"record/rows/0/{name}", n) for name in ("s", "H", "end") for n in (-1, 1.0, True)),
    *(put("record/loss", v) for v in (torch.zeros(R + 1), torch.zeros(R, 1), 0.0)),
    *(put("record/so_far", v) for v in (numbers(R + 1, 4), numbers(R), 0.0)),
    put("record/rows/0/figures", numbers(R - 1, 4)),
]


def changed(place: RankCheckpoint, change: Change) -> RankCheckpoint:
    state = copy.deepcopy(place.state)
    change(state)
    return RankCheckpoint(state["after"], 9, state)


@pytest.mark.parametrize("change", RIGHT)
def test_what_could_have_been_is_taken(mid: RankCheckpoint, change: Change) -> None:
    check_place(changed(mid, change), *begun(MID))


@pytest.mark.parametrize("change", WRONG)
def test_what_could_not_is_refused(mid: RankCheckpoint, change: Change) -> None:
    with pytest.raises(ConfigurationError, match="is not of this run: .* nothing of it"):
        check_place(changed(mid, change), *begun(MID))
