"""The conformance run: right where all is right, and wrong where something is broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import users_models

from hpc_localsgd.algorithms.slowmo import SlowMo
from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.commands.verify import main
from hpc_localsgd.commands.verify.harness import Harness
from hpc_localsgd.commands.verify.model_checks import unequal
from hpc_localsgd.commands.verify.problem import small
from hpc_localsgd.commands.verify.resuming import shared_folder
from hpc_localsgd.commands.verify.rows import Row, VerifyReport, as_json, as_table
from hpc_localsgd.run.checkpoint import Checkpoints
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated

HERE = str(Path(__file__).parent)
MODELS = "users_models"
VMAP = "two workers at once (vmap) = one after the other"


@pytest.fixture(autouse=True)
def users_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a user's own modules are: ranks and this process find them."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", HERE)


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs the command here and reads its JSON."""

    def go(*options: str) -> dict[str, Any]:
        status = main([*options, "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert status == int(found["failed"] > 0)
        return found

    return go


def checks(found: dict[str, Any]) -> dict[str, Any]:
    return {row["check"]: row for row in found["checks"]}


def failed(found: dict[str, Any]) -> list[str]:
    return [row["check"] for row in found["checks"] if row["result"] == "failed"]


def test_alone_every_row_is_ok(verified: Callable[..., dict[str, Any]]) -> None:
    found = verified()
    assert failed(found) == []
    rows = checks(found)
    assert set(choices("algorithm")) <= set(rows)
    assert {f"local_sgd, {name}" for name in choices("compressor")} <= set(rows)
    assert all(row["number"] is not None for row in rows.values())
    assert found["workers"] == 4
    assert 0 < rows["local_sgd, top_k of all, sent as float32"]["number"] < 1e-6


def test_a_wrong_algorithm_and_samples_used_twice_fail_their_rows(
    verified: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SlowMo.on_sync

    def wrong(self: SlowMo, x: torch.Tensor, *others: Any) -> Any:
        x, state = right(self, x, *others)
        return x.mul_(1 + 1e-9), state

    monkeypatch.setattr(SlowMo, "on_sync", wrong)
    monkeypatch.setattr(Partition, "indices", lambda self, k, t: np.arange(self.batch) + t)
    assert sorted(failed(verified())) == [
        "1009 samples, 3 epochs, remainder carried",
        "1009 samples, 3 epochs, remainder dropped",
        "slowmo, beta 0, alpha 1 = local_sgd",
    ]


def test_wrong_bytes_and_a_forgetful_state_fail_their_rows(
    verified: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SlowMo.on_sync

    def forgets(self: SlowMo, x: torch.Tensor, state: Any, *others: Any) -> Any:
        """Remembers what no checkpoint holds."""
        object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
        return right(self, x + 1e-14 * self.calls, state, *others)  # type: ignore[attr-defined]

    monkeypatch.setattr(SlowMo, "on_sync", forgets)
    monkeypatch.setattr(SlowMo, "payload", lambda *args: 7)
    found = verified()
    rows = checks(found)
    assert rows["all of the above"]["number"] == 4
    assert "slowmo, round 0: declared 7 bytes, sent 1384 bytes" in rows["all of the above"]["note"]
    resumed = next(row for name, row in rows.items() if re.match(r"all \d", name))
    assert resumed["result"] == "failed" and "slowmo: " in resumed["note"]


def test_an_exception_fails_its_row(
    verified: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise TypeError("of one's own making")

    monkeypatch.setattr(Checkpoints, "load", broken)
    monkeypatch.setattr(SlowMo, "on_sync", broken)
    found = verified()
    row = checks(found)["slowmo"]
    assert row["number"] is None and row["note"] == "TypeError: of one's own making"
    assert "slowmo" in failed(found) and "local_sgd" not in failed(found)


def test_a_model_of_ones_own(verified: Callable[..., dict[str, Any]]) -> None:
    options = ["--model", f"{MODELS}:mlp", "--input-shape", "1x6x6", "--classes", "3"]
    found = verified(*options)
    assert failed(found) == [] and found["parameters"] == 443
    assert checks(found)[VMAP]["result"] == "ok"
    assert {row["result"] for row in found["checks"]} == {"ok", "information"}
    assert [feature["count"] for feature in found["model"]] == [0] * 6


def features(found: dict[str, Any]) -> dict[str, tuple[int, str]]:
    return {f["name"]: (f["count"], f["text"]) for f in found["model"]}


def test_a_model_with_batchnorm(verified: Callable[..., dict[str, Any]]) -> None:
    found = verified("--model", f"{MODELS}:batchnorm")
    assert failed(found) == []
    assert features(found)["BatchNorm"][0] == features(found)["integer buffers"][0] == 1
    assert "running statistics" in checks(found)[VMAP]["note"]


def test_a_model_with_tied_and_frozen_parameters(
    verified: Callable[..., dict[str, Any]],
) -> None:
    found = verified("--model", f"{MODELS}:tied_and_frozen")
    assert failed(found) == []
    assert found["parameters"] == 9 * 5 + 5 * 5 + 5
    assert features(found)["tied parameters"] == (
        1,
        "one place in the flat vector, sent once: embedding.weight = out.weight",
    )
    assert features(found)["frozen parameters"][1].startswith("5 numbers left out")
    assert checks(found)[VMAP]["result"] == "ok"


def test_a_model_with_dropout(verified: Callable[..., dict[str, Any]]) -> None:
    found = verified("--model", f"{MODELS}:dropout")
    assert failed(found) == []
    assert checks(found)["local_sgd, here as in one process"]["number"] is None
    assert checks(found)["H = 1: parameters averaged = gradients averaged"]["number"] < 1e-12


def test_a_model_of_several_types_is_verified_in_float32(
    verified: Callable[..., dict[str, Any]],
) -> None:
    found = verified("--model", f"{MODELS}:single_precision")
    assert failed(found) == [] and found["dtype"] == "float32"


def test_a_model_that_does_not_repeat_itself_fails(
    verified: Callable[..., dict[str, Any]],
) -> None:
    names = failed(verified("--model", f"{MODELS}:different"))
    assert names == ["taken twice: numbers that differ in any bit", "local_sgd"]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("users_models", "package.module:factory"),
        ("no_such_module:make", "cannot import no_such_module"),
        ("users_models:droput", "did you mean 'dropout'"),
        ("users_models:not_callable", "cannot call"),
        ("users_models:raises", "raised RuntimeError: no weights here"),
        ("users_models:nothing", "returned NoneType"),
        ("users_models:fractions", "one whole number"),
        ("users_models:mlp", "--input-shape"),
        ("users_models:wrong_shape", "cannot be trained on its examples (4, 35)"),
        ("users_models:all_frozen", "nothing to train"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_line(
    model: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", model]) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--classes", "3"], "belong to --model"),
        (["--world", "moon"], "moon"),
        (["--what"], "--what"),
        (["--model", "users_models:mlp", "--input-shape", "6xa", "--classes", "3"], "such as 3x32"),
    ],
)
def test_a_wrong_request_is_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert complaint in capsys.readouterr().err


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "--model" in said and "random" in said and "mpirun -np 2" in said


class Said(Simulated):
    """Two ranks, of which the other says what it is told to; by default the same."""

    def __init__(self, others: float | None) -> None:
        super().__init__(2)
        self.n, self.local_workers, self.others = 2, range(0, 1), others
        self.placement = Placement(2, 2)

    def gather(self, v: np.ndarray) -> np.ndarray:
        return np.concatenate([v, v if self.others is None else np.full_like(v, self.others)])


def test_the_worst_rank_counts() -> None:
    for others, result in ((np.nan, "failed"), (2.0, "failed"), (0.5, "ok")):
        bench = Harness(Said(others), small())
        bench.check("group", "check", 1.0, lambda: (0.0, "mine"))
        (row,) = bench.rows()
        assert (row.result, row.note) == (result, "" if result == "ok" else "on rank 1: mine")


def test_ranks_with_other_frozen_parameters_are_found_out() -> None:
    problem = replace(small(), module=users_models.drawn_by_every_rank()[0])
    for others, count in ((0, 1), (None, 0)):
        differing, note = unequal(Harness(Said(others), problem))
        assert differing == count
        assert note == "the factory must make the same model on every rank"


def test_the_page_is_aligned_and_at_most_100_wide() -> None:
    rows = [
        Row("First group", "short", "mpi", 3.2e-16, 1e-12),
        Row("First group", "a longer name of a check", "mpi", float("nan"), 1e-12, "why " * 50),
        Row("Second group", "speed", "mpi", 812.4, None),
        Row("Second group", "skipped", "mpi", None, None, "because"),
    ]
    report = VerifyReport(["mpi(2 x 2 workers, cpu)"], {}, rows, (), 1.25)
    lines = as_table(report).splitlines()
    assert max(map(len, lines)) <= 100
    found = {line.split()[0]: line for line in lines if line.startswith("  ") and line.strip()}
    assert found["short"].split() == ["short", "mpi", "3.2e-16", "1e-12", "ok"]
    assert found["short"].index("mpi") == found["speed"].index("mpi")
    assert found["speed"].split() == ["speed", "mpi", "812"]
    assert lines[-1] == "2 checks, 1 failed, in 1.25 s"
    assert json.loads(as_json(report))["checks"][1]["number"] is None


def test_places_are_kept_where_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def allocate(*given: int) -> None:
        asked.append(given)
        if len(asked) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.posix_fallocate", allocate)
    with shared_folder(Simulated(2)) as folder:
        assert folder is not None and folder.parent == tmp_path
