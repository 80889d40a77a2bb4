"""What `verify` looks at, in the order of its table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd import __version__
from hpc_localsgd.commands.verify import algorithms, data_and_speed, model_checks
from hpc_localsgd.commands.verify.harness import Harness
from hpc_localsgd.commands.verify.model_features import features_of
from hpc_localsgd.commands.verify.problem import small
from hpc_localsgd.commands.verify.resuming import check_resume, shared_folder
from hpc_localsgd.commands.verify.rows import Feature, VerifyReport
from hpc_localsgd.commands.verify.users_model import users_problem

if TYPE_CHECKING:
    from hpc_localsgd.commands.verify.options import VerifyOptions
    from hpc_localsgd.worlds.base import World


def of_the_package(world: World, options: VerifyOptions, begin: float) -> VerifyReport:
    """Check every algorithm and what they build on, with a small model."""
    del options
    with shared_folder(world) as folder:
        bench = Harness(world, small(), folder)
        every = algorithms.same_numbers(bench)
        algorithms.must_be_equal(bench)
        algorithms.full_rank(bench)
        check_resume(bench, f"all {len(every)} of the first rows", every)
        data_and_speed.coverage(bench)
        data_and_speed.bandwidth(bench)
    return _report(bench, "a model of its own", (), begin)


def of_the_model(world: World, options: VerifyOptions, begin: float) -> VerifyReport:
    """Check a user's model: what it has, and whether the package trains it exactly."""
    problem = users_problem(world, options)
    with shared_folder(world) as folder:
        bench = Harness(world, problem, folder)
        model_checks.alone(bench)
        model_checks.with_others(bench)
        data_and_speed.bandwidth(bench)
    return _report(bench, str(options.model), features_of(problem), begin)


def _report(bench: Harness, model: str, features: Sequence[Feature], begin: float) -> VerifyReport:
    world, problem = bench.world, bench.problem
    P = problem.parameters
    dtype = str(problem.dtype).removeprefix("torch.")
    facts: dict[str, Any] = {
        "version": __version__,
        "torch": torch.__version__,
        "world": repr(world),
        "ranks": world.n,
        "workers": world.K,
        "device": str(world.device),
        "subject": model,
        "parameters": P,
        "dtype": dtype,
    }
    heading = (
        f"{world}",
        f"hpc_localsgd {__version__}, torch {torch.__version__}",
        f"{model}: {P:,} parameters, {dtype}",
    )
    return VerifyReport(heading, facts, bench.rows(), features, time.perf_counter() - begin)
