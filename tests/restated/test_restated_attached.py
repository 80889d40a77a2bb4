"""`attach` in a user's own loop gives the numbers of the equations, at every step, to 1e-12."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from restated.by_attach import attached
from restated.new_tensors import NewTensors
from restated.problem import Case, equal
from restated.test_restated import restated_of

CASES = [
    pytest.param(case, id=f"{name}-{case.name}")
    for name, module in restated_of("algorithms").items()
    for case in getattr(module, "CASES", [])
]


@cache
def noted_by(case: Case) -> np.ndarray:
    """The equation's parameters; a run of attach ends with the mean model on every rank."""
    expected = case.problem()
    case.path(expected)
    noted = np.array(expected.noted)
    if not case.made.ends_equal:
        weights = np.ones(expected.K) if expected.weights is None else expected.weights
        noted[-1] = equal(weights[:, None] * noted[-1])
    return noted


@pytest.mark.parametrize("case", CASES)
def test_every_step_of_attach_is_that_of_the_equation(case: Case) -> None:
    [ours] = attached(case.problem(), case.made)
    np.testing.assert_allclose(ours, noted_by(case), rtol=0, atol=1e-12)


# Each algorithm in the last of its runs.

LAST = [
    pytest.param(module.CASES[-1], id=name)
    for name, module in restated_of("algorithms").items()
    if hasattr(module, "CASES")
]


@pytest.mark.parametrize("case", LAST)
def test_an_algorithm_may_return_new_tensors(case: Case) -> None:
    [ours] = attached(case.problem(), NewTensors(case.made))
    np.testing.assert_allclose(ours, noted_by(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in LAST if not c.values[0].made.only_single_steps])
def test_a_run_that_finish_ends_in_mid_round_has_its_last_round(case: Case) -> None:
    """Nobody said how many steps there would be: `finish` calls the exchange last all the same."""
    [ours] = attached(case.problem(), case.made, told=False)
    np.testing.assert_allclose(ours, noted_by(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in LAST if not c.values[0].made.needs_whole_models])
def test_every_dtype_has_an_exchange_of_its_own(case: Case) -> None:
    """Three copies of the model in one: float64 to 1e-12, the others to their own precision."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    double, single, half = attached(case.problem(), case.made, dtypes)
    expected = noted_by(case)
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(half, expected, rtol=0, atol=0.05)
