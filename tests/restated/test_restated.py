"""Every worker's parameters at every step are those of the method's equation, to 1e-12."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import hpc_localsgd
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.loop import train
from hpc_localsgd.tasks.base import Batch
from restated import local
from restated.by_the_loop import Noting, Restated, run_of, trained
from restated.local import AdamW, Sgd
from restated.new_tensors import NewTensors
from restated.problem import LOCAL_FIRST, SIZES, Case, P, Problem

# What a folder has beside its methods: what they are, and what several of them are made of.
NO_METHOD = {"__init__", "base", "perturbed", "four_bits", "sparse", "two_bytes"}
FOLDERS = ("algorithms", "compressors", "gradients")


def restated_of(folder: str) -> dict[str, ModuleType]:
    """File of the package -> its restatement; one that is missing is an error at collection."""
    files = sorted((Path(hpc_localsgd.__file__).parent / folder).glob("*.py"))
    names = [path.stem for path in files if path.stem not in NO_METHOD]
    missing = [n for n in names if not (Path(__file__).parent / folder / f"{n}.py").exists()]
    assert not missing, (
        f"hpc_localsgd/{folder}: {missing} have no equation in tests/restated/{folder}: write each "
        "from its paper, in plain numpy, with all hyper-parameters away from their neutral values"
    )
    return {name: import_module(f"restated.{folder}.{name}") for name in names}


def cases() -> list[Any]:
    """All algorithms, gradient rules and policies, each a run."""
    found = []
    for name, module in restated_of("algorithms").items():
        found += [(f"{name}-{case.name}", case) for case in getattr(module, "CASES", [])]
    means = {"average": "parameters"}
    path = import_module("restated.algorithms.local_sgd").path
    for name, module in restated_of("gradients").items():
        for i, (rule, at) in enumerate(module.RULES):
            given = {"lengths": LOCAL_FIRST, "at": at}
            run = Case(name, LocalSGD(), path, given, {"gradient": rule})
            found.append((f"{name}-{i}", run))
    for policy in hpc_localsgd.engine.optimizer.AtSync.__args__:  # type: ignore[attr-defined]
        for optimizer in (Sgd, AdamW):
            given = {"local": optimizer, "policy": getattr(local, policy)}
            run = Case(policy, LocalSGD(**means), lambda p: path(p, **means), given)
            run.ours["at_sync"] = policy
            found.append((f"{policy}-{optimizer.__name__}", run))
    many = {"lengths": (1, 2, 3, 2, 1, 4, 3, 2, 2), "local": AdamW}
    for m, v in [(2, 3), (1, 4), (3, 1)]:
        given = many | {"policy": local.Desynced(m=m, v=v)}
        ours = {"at_sync": "average", "moments_every": {"exp_avg": m, "exp_avg_sq": v}}
        run = Case("desynced", LocalSGD(**means), lambda p: path(p, **means), given, ours)
        found.append((f"desynced-{m}-{v}", run))
    return [pytest.param(case, id=name) for name, case in found]


@pytest.mark.parametrize("case", cases())
def test_every_step_is_that_of_the_equation(case: Case) -> None:
    expected = case.problem()
    case.path(expected)
    noted = trained(case, case.problem()).noted
    assert len(noted) == len(expected.noted) == 2 * expected.steps
    np.testing.assert_allclose(noted, expected.noted, rtol=0, atol=1e-12)
    moved = np.abs(expected.noted[-1] - expected.start).max()
    assert 1e-2 < moved < 10  # neither at rest nor on its way to infinity


@pytest.mark.parametrize("name", ["slowmo", "streaming_diloco", "gossip", "gradient_tracking"])
def test_an_algorithm_may_return_new_tensors(name: str) -> None:
    case = restated_of("algorithms")[name].CASES[-1]
    expected = case.problem()
    case.path(expected)
    noted = trained(replace(case, made=NewTensors(case.made)), case.problem()).noted
    np.testing.assert_allclose(noted, expected.noted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", hpc_localsgd.engine.batchnorm.Policy.__args__)  # type: ignore[attr-defined]
def test_statistics_are_averaged_at_every_exchange_or_never(policy: Any) -> None:
    case = restated_of("algorithms")["local_sgd"].CASES[0]
    run = replace(run_of(case, case.problem(), Counted), batchnorm=BatchNorm(policy))
    noting = Noting(run.task)
    train(run, run.beginning(), noting)  # type: ignore[arg-type]
    own = np.array([[0.0], [1.0], [2.0]])  # k is added to worker k's at every step
    steps = case.problem().steps
    expected = np.full((3, 1), float(steps)) if policy == "average" else own * steps
    np.testing.assert_allclose(run.task.buffers, expected, rtol=1e-15)


class Counted(Restated):
    """With a buffer that gains k on worker k at every step."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.buffers = torch.zeros(problem.K, 1, dtype=torch.float64)

    def loss_and_grad(self, x: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.buffers += torch.arange(self.problem.K)[:, None]
        return super().loss_and_grad(x, batch)


CODECS = [n for n, module in restated_of("compressors").items() if hasattr(module, "MADE")]


@pytest.mark.parametrize("name", CODECS)
def test_what_arrives_is_what_the_codec_s_equation_says(name: str) -> None:
    module = restated_of("compressors")[name]
    rows = np.random.default_rng(3).standard_normal((40, P)) * np.logspace(-3, 3, 40)[:, None]
    rows[7, :4], rows[8] = 0.0, 0.0
    for codec in module.MADE:
        sent = codec.encode(torch.from_numpy(rows), SIZES)
        arrived = codec.decode(sent, SIZES, torch.float64).numpy()
        expected = np.stack([module.coded(row, SIZES) for row in rows])
        np.testing.assert_allclose(arrived, expected, rtol=1e-12, atol=0)
        assert sent.shape == (40, module.nbytes(P, len(SIZES)))
        assert codec.payload(SIZES) == module.nbytes(P, len(SIZES))
        assert codec.elementwise == module.ENTRY_BY_ENTRY


@pytest.mark.parametrize("name", CODECS)
def test_what_is_lost_at_most_is_what_the_codec_s_equation_says(name: str) -> None:
    """The bound of the equation, and for rounding in float32 hardly more on top.

    Of zeros, and of numbers at the end of float32's range, too.
    """
    module = restated_of("compressors")[name]
    scales = [*np.logspace(-2, 3, 26), 0.0, 1.5e-36, 3e-36, 6e-36, 1e-40]
    rows = np.random.default_rng(4).standard_normal((len(scales), P)) * np.array(scales)[:, None]
    for codec in module.MADE:
        ours = codec.error_bound(torch.from_numpy(rows), SIZES).numpy()
        expected = np.array([module.bound(row, SIZES) for row in rows])
        lost = np.array([np.linalg.norm(module.coded(row, SIZES) - row) for row in rows])
        assert (lost <= ours).all()
        np.testing.assert_allclose(ours, expected, rtol=6e-4)
