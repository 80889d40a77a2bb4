"""Checkpoints with a right checksum and wrong content: refused in a sentence, and not in part."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import sgd, small_run

from hpc_localsgd.commands import train
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.checkpoint.vetting import _check_memory, _Other, _stepped

RUN = ["--steps=6", "--batch-per-worker=2", "--task.hidden=4", "--schedule=every", "--workers=2"]
RUN += ["--schedule.steps=2", "--evaluate-every=0", "--spread-every=0", "--figures=false"]
RUN += ["--algorithm=slowmo"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is over: its last checkpoint is of step 6."""
    out = tmp_path_factory.mktemp("kept") / "run"
    assert train.main([*RUN, f"--out={out}"]) == 0
    return out


def put(path: str, value: Any) -> Callable[[dict[Any, Any]], None]:
    """A change of one part of a state; None removes it."""

    def change(state: dict[Any, Any]) -> None:
        *above, last = [int(word) if word.isdecimal() else word for word in path.split(".")]
        for word in above:
            state = state[word]
        if value is None:
            del state[last]
        else:
            state[last] = value(state[last]) if callable(value) else value

    return change


def wider(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[:, :1]], 1)


def endless(x: torch.Tensor) -> torch.Tensor:
    """Of a size that nobody has, in a few bytes."""
    return torch.zeros(1, 1).expand(len(x), 10**13)


STRANGE: dict[str, tuple[Callable[[dict[Any, Any]], None], str]] = {
    "shape": (put("x", wider), "'x' is [2, "),
    "endless": (put("x", endless), "'x' is [2, 10000000000000]"),
    "dtype": (put("x", lambda x: x.double()), "'x' is [2, "),
    "missing": (put("buffers", None), "it has no 'buffers'"),
    "buffers": (put("buffers", lambda x: torch.zeros(2, 7)), "'buffers' is [2, 7]"),
    "rng": (put("rng", lambda x: x[:5]), "'rng' is [5]"),
    "negative": (put("place.t", -1), "is not a position in a run of 6 steps"),
    "beyond": (put("place.end", 10**9), "is not a position in a run of 6 steps"),
    "round": (put("place.s", 99), "step 6 of round 99"),
    "fraction": (put("place.begin", float("nan")), "holds something else than whole numbers"),
    "beyond its own end": (put("steps", 5), "is not a position in a run of 5 steps"),
    "algorithm": (put("sync", lambda x: {}), "it has no 'sync.anchor', so it is of another"),
    "another": (lambda state: state["sync"].update(y=1), "'sync.y' is not"),
    "memory": (put("sync.u", lambda u: u[:-1]), "'sync.u' is ["),
    "groups": (put("optimizer.param_groups", lambda g: g[:1]), "other groups of parameters"),
    "momentum": (put("optimizer.param_groups.0.momentum", 0.5), "has another 'momentum'"),
    "state": (put("optimizer.state.0", None), "has the state of other tensors"),
    "moments": (put("optimizer.state.0", lambda x: {"exp_avg": x}), "is not the state of this"),
    "moment": (
        put("optimizer.state.0.momentum_buffer", lambda m: m[:1]),
        "_buffer' is [1",
    ),
    "record": (put("record", lambda x: {"rows": 3}), "its record is not rows, loss"),
    "task": (put("task.skipped", None), "it has no 'task.skipped'"),
}


def again(kept: Path, tmp_path: Path, change: Callable[[dict[Any, Any]], None]) -> list[str]:
    """The command that resumes a copy whose shard was changed and has its checksum."""
    out = tmp_path / "run"
    shutil.copytree(kept, out)
    path = max((out / "checkpoints").glob("step-*")) / "rank-0-of-1.pt"
    state = shard.read(path)
    change(state)
    shard.write(path, state)
    return [*RUN, f"--out={out}", "--resume"]


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_of_this_run_is_refused_and_nothing_of_it_loaded(
    name: str,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def loaded(*given: Any) -> None:
        raise AssertionError("a part was loaded")

    monkeypatch.setattr(RankCheckpoint, "restore", loaded)
    assert train.main(again(kept, tmp_path, STRANGE[name][0])) == 2
    said = capfd.readouterr().err
    assert STRANGE[name][1] in said and "the checkpoint of step 6 is not of this run" in said
    assert "Traceback" not in said and said.count("\n") == 1


@pytest.mark.parametrize("steps", [7, 10**18])
def test_a_place_of_another_length_is_refused_like_any_other_length(
    steps: int, kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train.main(again(kept, tmp_path, put("steps", steps))) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert (f"begun with {steps} steps" if steps < 10**12 else "is more than 1e+12") in said


@pytest.mark.parametrize("saved", [[1.0], [1.0, "2"], (1.0, 2.0)], ids=str)
def test_a_list_of_an_algorithm_has_as_many_numbers_as_at_first_and_may_have_others(
    saved: Any,
) -> None:
    """Push-sum's weights, say."""
    _check_memory([0.5, 1.5], [1.0, 1.0], small_run(), "sync.w")
    with pytest.raises(_Other, match="'sync.w' is"):
        _check_memory(saved, [1.0, 1.0], small_run(), "sync.w")


def test_what_is_of_this_run_is_gone_on_with(kept: Path, tmp_path: Path) -> None:
    assert train.main(again(kept, tmp_path, lambda state: None)) == 0


def test_a_model_without_matrices_has_one_group_of_parameters(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All else has two, of which the second, without weight decay, holds the same state."""
    words = ["--task=quadratic", "--steps=3", "--workers=2", "--figures=false"]
    words += ["--evaluate-every=0", "--spread-every=0", f"--out={tmp_path / 'kept'}"]
    assert train.main(words) == 0
    assert train.main([*words, "--resume"]) == 0
    path = max((tmp_path / "kept" / "checkpoints").glob("step-*")) / "rank-0-of-1.pt"
    state = shard.read(path)
    put("optimizer.state.0.momentum_buffer", wider)(state)
    shard.write(path, state)
    capfd.readouterr()
    assert train.main([*words, "--resume"]) == 2
    assert "momentum_buffer' is [2, " in capfd.readouterr().err


def call(marker: Path) -> Any:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    return Evil()


def test_trying_an_optimiser_leaves_the_one_of_the_run_as_it_was() -> None:
    """Its momentum would count a parameter that nobody has, and the next shard would hold it."""
    run = small_run(optimizer=sgd(momentum=0.9))
    run.optimizer.step(torch.ones_like(run.task.x), 0.1)
    optimizer, before = run.optimizer.torch, copy.deepcopy(run.optimizer.state_dict())
    group = optimizer.param_groups[0]
    kept = _stepped(optimizer, group, group["params"][0])
    assert list(kept) == ["momentum_buffer"] and kept["momentum_buffer"].shape == (1, 2)
    after = run.optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and list(after["state"]) == [0, 1]
    for i, state in before["state"].items():
        assert torch.equal(after["state"][i]["momentum_buffer"], state["momentum_buffer"])


def test_a_shard_runs_nothing(
    kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pickle would call what a file names."""
    marker = tmp_path / "it_ran"
    words = again(kept, tmp_path, lambda state: state.update(record=call(marker)))
    for folder in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[:-1]:
        shutil.rmtree(folder)
    assert train.main(words) == 2
    assert "every checkpoint in" in capfd.readouterr().err and not marker.exists()


@pytest.mark.parametrize("change", [put("place", None), put("x", 7), put("after", "1")])
def test_a_shard_without_a_place_is_no_shard(
    change: Callable[[dict[Any, Any]], None], kept: Path, tmp_path: Path
) -> None:
    again(kept, tmp_path, change)
    path = max((tmp_path / "run" / "checkpoints").glob("step-*")) / "rank-0-of-1.pt"
    with pytest.raises(shard.DamagedShard):
        shard.read(path)


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rank-0-of-1.pt")
    with pytest.raises(shard.DamagedShard, match="is not a file"):
        shard.read(tmp_path / "rank-0-of-1.pt")
