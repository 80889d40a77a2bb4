"""What `attach` says of where it is, what it cost, and where its tensors lie: number by number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.attach import comm_stats
from hpc_localsgd.attach.comm_stats import CommCounter, CommStats
from hpc_localsgd.attach.flat_views import aligned, cut_views
from hpc_localsgd.attach.rounds import AttachedPosition
from hpc_localsgd.attach.warm_up import LONG_ROUND, WarmUp
from hpc_localsgd.schedules.local_steps import every, qsr


@pytest.mark.parametrize(
    ("place", "said", "due", "inside"),
    [
        (AttachedPosition(), "not begun", True, False),
        (AttachedPosition(t=1, s=0, begin=0, end=1), "after round 0", True, False),
        (AttachedPosition(t=3, s=2, begin=3, end=6), "round 2: steps 3 to 5", False, False),
        (AttachedPosition(t=5, s=2, begin=3, end=6), "round 2: steps 3 to 5", False, True),
        (AttachedPosition(t=6, s=2, begin=3, end=6), "after round 2", True, False),
        (AttachedPosition(t=6, s=2, begin=3, end=6, over=True), "over", True, False),
    ],
)
def test_where_in_a_round(place: AttachedPosition, said: str, due: bool, inside: bool) -> None:
    assert (str(place), place.due, place.inside, place.H) == (
        said,
        due,
        inside,
        place.end - place.begin,
    )


def test_a_bill_is_taken_every_so_many_rounds_and_closed_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comm_stats, "TAKE_EVERY", 2)
    taken, closed = list[int](), list[int]()

    def take() -> Any:
        n = len(taken)
        taken.append(n)
        bill = SimpleNamespace(
            payload_bytes=np.array([10**n, 2 * 10**n]), wire_bytes=5.6, calls=n, transfer_s=0.5 * n
        )
        return SimpleNamespace(close=lambda: closed.append(n) or bill)

    accounts = CommCounter(SimpleNamespace(modelled=True, take=take))  # type: ignore[arg-type]
    assert (taken, closed) == ([0], [])
    accounts.close_round()
    assert (taken, closed) == ([0], [])
    for _ in range(3):
        accounts.close_round()
    assert (taken, closed) == ([0, 1, 2], [1])
    assert accounts.until_now() == CommStats(3330, 18, 6, 3.0, 4, True) and closed == [1, 2, 3]
    assert accounts.until_now() == CommStats(33330, 24, 10, 5.0, 4, True)
    assert CommStats() == CommStats(0, 0, 0, 0.0, 0, False)


def test_a_rate_is_watched_until_it_falls() -> None:
    rates = WarmUp(qsr(alpha=0.1, at_least=2))
    for t in range(3):
        assert rates.in_warm_up(t, 0.1) == 0 and rates.watching
    assert [rates.in_warm_up(t, 0.11) for t in (3, 4)] == [2, 2]  # it rises
    assert rates.in_warm_up(5, 0.1) == 0 and not rates.watching
    assert rates.in_warm_up(6, 0.5) == 0
    assert WarmUp(qsr(alpha=0.1, at_least=2)).in_warm_up(0, 0.0) == 2
    assert not WarmUp(every(4)).watching
    resumed = WarmUp(qsr(alpha=0.1, at_least=2))
    resumed.load(None)
    assert resumed.in_warm_up(5, 0.0) == 0


def test_a_warm_up_is_over_when_the_rate_stays_for_more_than_twice_as_long() -> None:
    rates = WarmUp(qsr(alpha=0.1, at_least=2))
    assert [rates.in_warm_up(t, 0.1) for t in (0, 3)] == [0, 0]
    assert [rates.in_warm_up(t, 0.2) for t in (4, 12)] == [2, 2]  # it had stayed for 4 steps
    assert rates.in_warm_up(13, 0.2) == 0 and not rates.watching


def test_a_round_is_long_from_a_thousand_steps_on_and_again_when_it_doubles(
    recwarn: pytest.WarningsRecorder,
) -> None:
    rates, said = WarmUp(qsr(alpha=0.1, at_least=2)), list[bool]()
    for H in (LONG_ROUND - 1, LONG_ROUND, 2 * LONG_ROUND - 1, 2 * LONG_ROUND, 3000, 5000):
        rates.say(AttachedPosition(t=9, s=3, begin=7, end=7 + H, rate=0.25), 0)
        said.append(len(recwarn) > 0)
        recwarn.clear()
    assert LONG_ROUND == 1000 and said == [False, True, False, True, False, True]
    rates.say(AttachedPosition(t=9, begin=7, end=10**6, rate=0.25), 1)
    rates.say(
        AttachedPosition(t=8, begin=7, end=10**6, rate=0.25), 0
    )  # the rate may still be seen to rise
    WarmUp(every(10**6)).say(AttachedPosition(t=9, begin=7, end=10**6), 0)
    assert not len(recwarn)
    rates.say(AttachedPosition(t=9, s=3, begin=7, end=7 + 10**7, rate=0.25), 0)
    said_last = str(recwarn.pop().message)
    assert "round 3 has H = 10000000 steps at the learning rate 0.25" in said_last
    assert "the next exchange is after step 10000006;" in said_last


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128])
def test_tensors_lie_at_addresses_of_16_bytes(dtype: torch.dtype) -> None:
    shapes = [(3,), (2, 5), (), (4, 4), (1,)]
    like = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    like[1] = torch.zeros(5, 2, dtype=dtype).T  # dense, in another order
    like[3] = torch.zeros(8, 8, dtype=dtype)[::2, ::2]  # with holes, which are not kept
    begins, length = aligned(like)
    unit = 16 // dtype.itemsize
    expected = [0]
    for tensor in like[:-1]:
        end = expected[-1] + tensor.numel()
        expected.append(unit * ((end + unit - 1) // unit))
    assert begins == tuple(expected) and length == expected[-1] + 1
    flat = torch.arange(length, dtype=torch.float64).to(dtype)
    for tensor, begin, part in zip(like, begins, cut_views(flat, like, begins), strict=True):
        assert part.shape == tensor.shape and part.data_ptr() == flat[begin:].data_ptr()
        assert part.untyped_storage().nbytes() == tensor.numel() * dtype.itemsize
    cut = cut_views(flat, like, begins)
    assert cut[1].stride() == (1, 2) and cut[3].stride() == (4, 1)
    tight = cut_views(flat, like)
    places = [part.data_ptr() - flat.data_ptr() for part in tight]
    assert places == [n * dtype.itemsize for n in (0, 3, 13, 14, 30)]
