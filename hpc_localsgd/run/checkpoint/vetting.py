"""Whether a kept place can be this run's, before any of it is put anywhere.

A checksum says that a shard is what was written, not who wrote it. So what it holds is compared
with the run it is to be put into: shapes, dtypes, names and where in the run it is.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint.rank_checkpoint import WHERE
from hpc_localsgd.tasks.without_compiler import take_step

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint

PARTS = (
    *("place", "after", "steps", "x", "sync", "schedule"),
    *("buffers", "task", "optimizer", "rng", "cuda_rng"),
)
_ON_THE_WAY = "begun"  # exchanges are begun again, and not kept
_LATER = ("sent", _ON_THE_WAY)  # what our algorithms remember from an exchange on
_OF_OURS = "hpc_localsgd."


class _Other(Exception):
    """A difference from this run; the message says what, as the second half of a sentence."""


def check_place(place: RankCheckpoint, run: Run, p: Position) -> None:
    """Check that a place is of this run, of whatever length; change nothing.

    Args:
        place: From a shard.
        run: Its objects, freshly made.
        p: Its beginning.

    Raises:
        ConfigurationError: Parts are missing, or of another shape, dtype, algorithm or run.
    """
    try:
        _check_parts(place.state, run)
        _check_position(place)
        _check_observed(place.state["schedule"], p)
        _check_memory(place.state["sync"], p.state, run, "sync")
        _check_optimizer(place.state["optimizer"], run)
        _check_record(place.state["record"], run.world.R)
    except _Other as said:
        raise ConfigurationError(
            f"the checkpoint of step {place.after!r:.20} is not of this run: {said}; nothing of it "
            "was loaded. Put back a copy, or start over with --overwrite"
        ) from said


def optimizer_differs(saved: dict[str, Any], run: Run) -> str:
    """Say why the state of an optimiser cannot be that of a run's; "" if it can.

    Args:
        saved: As `LocalOptimizer.state_dict` gives it.
        run: Its objects.
    """
    try:
        _check_optimizer(saved, run)
    except _Other as said:
        return str(said)
    return ""


def _check_parts(state: Mapping[str, Any], run: Run) -> None:
    for name in (*PARTS, "record"):
        if name not in state:
            raise _Other(f"it has no {name!r}")
    for name, like in (("x", run.task.x), ("buffers", run.task.buffers)):
        _same(name, state[name], like)
    _same("rng", state["rng"], torch.get_rng_state())
    kept = state["cuda_rng"]
    if kept is not None and not (isinstance(kept, torch.Tensor) and kept.dtype == torch.uint8):
        raise _Other("'cuda_rng' is not a state of random numbers")
    for name in ("sync", "task", "optimizer", "record"):
        if not isinstance(state[name], dict):
            raise _Other(f"{name!r} is {type(state[name]).__name__}, not a table")
    for name, like in run.task.state_dict().items():
        if name in state["task"]:
            _same(f"task.{name}", state["task"][name], like)
        elif name == "skipped":
            raise _Other(f"it has no 'task.{name}'")


def _same(name: str, value: Any, like: torch.Tensor) -> None:
    if not isinstance(value, torch.Tensor):
        raise _Other(f"{name!r} is {type(value).__name__} and no tensor")
    if value.shape != like.shape or value.dtype != like.dtype:
        raise _Other(
            f"{name!r} is {list(value.shape)} of {value.dtype}, and the run's {list(like.shape)} "
            f"of {like.dtype}"
        )


def _check_position(place: RankCheckpoint) -> None:
    where = place.state["place"]
    *names, flag = WHERE
    if not isinstance(where, dict) or set(where) != set(WHERE):
        raise _Other(f"its place is not {', '.join(WHERE)}")
    numbers = [*(where[name] for name in names), place.after, place.state["steps"]]
    if not all(type(number) is int for number in numbers) or type(where[flag]) is not bool:
        raise _Other(f"its place {where} holds something else than whole numbers")
    t, s, begin, end = numbers[:4]
    steps = place.state["steps"]
    inside = 0 <= begin <= t <= end <= steps and 0 <= place.after <= t and -1 <= s <= begin
    if not inside:
        raise _Other(
            f"step {t} of round {s}, which goes from {begin} to {end}, after an exchange at "
            f"{place.after}, is not a position in a run of {steps} steps"
        )


def _check_observed(values: Any, p: Position) -> None:
    """Check what the schedule has observed; None in an old shard, or before the first exchange."""
    if values is None:
        return
    if not isinstance(values, dict):
        raise _Other(f"'schedule' is {type(values).__name__}, not a table")
    try:
        p.schedule.having_observed(values)
    except (ConfigurationError, TypeError, ValueError) as error:
        raise _Other(f"its schedule is another ({error})") from error


def _check_memory(saved: Any, fresh: Any, run: Run, name: str) -> None:
    """Check the algorithm's state against the state at the beginning of a run."""
    if isinstance(fresh, dict):
        _check_table(saved, fresh, run, name)
    elif isinstance(fresh, torch.Tensor):
        _same(name, saved, fresh)
    elif fresh is None or name.endswith(_LATER):
        _check_later(saved, run, name)
    elif isinstance(fresh, tuple) and saved != fresh:
        raise _Other(f"{name!r} is {saved!r:.60}, and the run's {fresh!r:.60}")
    elif type(saved) is not type(fresh):
        raise _Other(f"{name!r} is {type(saved).__name__}, and the run's {type(fresh).__name__}")
    elif isinstance(fresh, list) and [type(each) for each in saved] != [type(e) for e in fresh]:
        raise _Other(f"{name!r} is {saved!r:.60}, and begins as {fresh!r:.60}")


def _check_table(saved: Any, fresh: dict[Any, Any], run: Run, name: str) -> None:
    if not isinstance(saved, dict):
        raise _Other(f"{name!r} is {type(saved).__name__}, not a table")
    if missing := [key for key in fresh if key not in saved and key != _ON_THE_WAY]:
        raise _Other(f"it has no '{name}.{missing[0]}', so it is of another algorithm")
    ours = type(run.algorithm).__module__.startswith(_OF_OURS)
    more = [key for key in saved if key not in fresh]
    if ours and name == "sync" and (other := [key for key in more if key not in _LATER]):
        raise _Other(f"'{name}.{other[0]!s:.40}' is not of this algorithm")
    for key in saved:
        _check_memory(saved[key], fresh.get(key), run, f"{name}.{key!s:.40}")


def _check_later(saved: Any, run: Run, name: str) -> None:
    """Check state that exists from the first exchange on: no more numbers than expected."""
    if isinstance(saved, torch.Tensor):
        x = run.task.x
        rows = saved.ndim == 0 or (saved.ndim <= 2 and saved.shape[-1] <= x.shape[-1])
        if saved.numel() > x.numel() or not rows:
            raise _Other(
                f"{name!r} is {list(saved.shape)}, and the run's parameters {list(x.shape)}"
            )
    elif isinstance(saved, dict):
        for key, value in saved.items():
            _check_later(value, run, f"{name}.{key!s:.40}")


def _check_optimizer(saved: dict[str, Any], run: Run) -> None:
    """Check that hyper-parameters are the run's, and each tensor's state is whole or absent."""
    now = run.optimizer.torch
    own = now.state_dict()["param_groups"]
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or len(groups) != len(own):
        raise _Other("its optimiser has other groups of parameters")
    for group, mine in zip(groups, own, strict=True):
        names = [k for k in mine if k not in ("lr", "fused")]
        wrong = [k for k in names if not isinstance(group, dict) or k not in group]
        wrong = wrong or [k for k in names if group[k] != mine[k]]
        if wrong:
            raise _Other(f"its optimiser has another {wrong[0]!r}")
    parameters = [p for group in now.param_groups for p in group["params"]]
    if state and sorted(state) != list(range(len(parameters))):
        raise _Other("its optimiser has the state of other tensors")
    for (i, kept), group in zip(sorted(state.items()), now.param_groups, strict=False):
        want = _stepped(now, group, parameters[i])
        _check_tensor_state(kept, want, parameters[i], f"optimizer.{i}")


def _check_tensor_state(kept: Any, want: Mapping[str, Any], x: torch.Tensor, name: str) -> None:
    if not isinstance(kept, dict) or set(kept) != set(want):
        raise _Other(f"{name!r} is not the state of this optimiser ({', '.join(want)})")
    for key, value in kept.items():
        if isinstance(want[key], torch.Tensor) and want[key].ndim:
            _same(f"{name}.{key}", value, x)
        elif isinstance(value, torch.Tensor) and value.numel() != 1:
            raise _Other(f"'{name}.{key}' is {list(value.shape)} and not one number")
        elif value is not None and not (torch.as_tensor(value) >= 0).all():
            raise _Other(f"'{name}.{key}' is {value!r:.40} and not a count")


def _stepped(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], like: torch.Tensor
) -> dict[str, Any]:
    """Return the state such an optimiser keeps of a tensor after a step, tried on two numbers."""
    tiny = torch.nn.Parameter(torch.zeros(1, 2, dtype=like.dtype, device=like.device))
    tiny.grad = torch.ones_like(tiny)
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [tiny]}]
    if group.get("shapes"):  # of matrices in a row
        twin.param_groups[0]["shapes"] = ((1, 2),)
    take_step(twin)
    return dict(twin.state[tiny])


def _check_record(record: dict[str, Any], R: int) -> None:
    """Check the rounds that were not written yet: numbers of R workers."""
    if not record:
        return
    rows, loss = record.get("rows"), record.get("loss")
    if set(record) != {"rows", "loss", "so_far"} or not isinstance(rows, list):
        raise _Other("its record is not rows, loss and the sums so far")
    if not (loss is None or (isinstance(loss, torch.Tensor) and loss.shape == (R,))):
        raise _Other("the loss of its round is not one of each worker")
    _check_figures([record["so_far"]], R)
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"s", "H", "end", "lr", "figures"}:
            raise _Other("a recorded round is not a table of the right entries")
        if not all(type(row[name]) is int and row[name] >= 0 for name in ("s", "H", "end")):
            raise _Other("a round that it recorded has no whole numbers")
    _check_figures([row["figures"] for row in rows], R)


def _check_figures(tables: Sequence[Any], R: int) -> None:
    for table in tables:
        if not isinstance(table, torch.Tensor) or table.ndim != 2 or len(table) != R:
            raise _Other("its record is not of the workers of this rank")
