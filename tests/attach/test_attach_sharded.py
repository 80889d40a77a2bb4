"""`attach` on models that torch shards: all claims in one start of two workers of two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import run, torchrun
from sharded_ranks import CLAIMS

pytestmark = pytest.mark.launched


def test_what_is_claimed_of_shards_holds() -> None:
    script = str(Path(__file__).with_name("sharded_ranks.py"))
    outcome = run(torchrun(4), [script], timeout_s=120).succeeded()
    for claim in CLAIMS:
        assert f"{claim.__name__} holds" in outcome.text, outcome.text[-3000:]
