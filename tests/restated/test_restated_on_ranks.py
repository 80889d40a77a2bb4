"""The same on several ranks, one worker in each: they are threads of this process."""

from __future__ import annotations

import numpy as np
import pytest

from restated.by_attach import on_ranks
from restated.by_the_loop import trained
from restated.problem import Case
from restated.test_restated import cases

CASES = [param for param in cases() if not param.id.startswith(("keep", "reset"))]


@pytest.mark.parametrize("case", CASES)
def test_one_worker_a_rank(case: Case) -> None:
    """Averages may be begun part by part here, while backward continues."""
    expected = case.problem()
    case.path(expected)
    noted = on_ranks(expected.K, lambda world: trained(case, case.problem(), world).noted)
    np.testing.assert_allclose(np.concatenate(noted, axis=1), expected.noted, rtol=0, atol=1e-12)
