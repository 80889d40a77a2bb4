"""PowerSGD against a few lines of plain torch, and what it promises besides."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.compressors import ChunkedTopK, PowerSGD, TopK
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import ModelSize, lengths
from hpc_localsgd.worlds.simulated import Simulated

K = 3
TENSORS = ((6, 9), (6,), (4, 3, 2, 2), (5, 2), ())  # a matrix, filters, one too small for rank 2
P = sum(lengths(TENSORS))


def average(x: torch.Tensor) -> torch.Tensor:
    return x.copy_(x.mean(0, keepdim=True).expand_as(x))


def differences(n: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(K, P, generator=draw, dtype=torch.float64) for _ in range(n)]


def nothing(codec: PowerSGD) -> torch.Tensor:
    """The memory before the first exchange."""
    return torch.zeros(K, sum(codec.columns(TENSORS)), dtype=torch.float64)


def sent_of(codec: PowerSGD, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """What arrives, [P] each time."""
    memory, arrived = nothing(codec), []
    for x in given:
        mean, memory = codec.mean(x.clone(), memory, TENSORS, average)
        torch.testing.assert_close(mean, mean[:1].expand(K, -1), rtol=0, atol=0, equal_nan=True)
        arrived.append(mean[0].clone())
    return arrived


@pytest.mark.parametrize("feedback", [True, False])
def test_it_is_the_paper_s_algorithm(feedback: bool) -> None:
    """Algorithm 1 on the mean matrix; Algorithm 2's memory, by what arrived."""
    Q: dict[int, torch.Tensor] = {}
    e, expected, given = torch.zeros(K, P, dtype=torch.float64), [], differences(6)
    for x in given:
        said, parts = x + e, []
        for i, part in enumerate(said.split(lengths(TENSORS), dim=1)):
            mean = part.mean(0)
            if i in (0, 2):
                M = mean.view(TENSORS[i][0], -1)
                drawn = torch.randn(
                    M.shape[1], 2, generator=torch.Generator().manual_seed(0), dtype=M.dtype
                )
                basis, _ = torch.linalg.qr(M @ Q.get(i, drawn))
                Q[i] = M.T @ basis
                mean = (basis @ Q[i].T).flatten()
            parts.append(mean)
        expected.append(torch.cat(parts))
        whole = torch.cat(
            [torch.full((n,), i in (1, 3, 4)) for i, n in enumerate(lengths(TENSORS))]
        )
        e = torch.where(whole, 0.0, said - expected[-1]) if feedback else e
    for ours, theirs in zip(sent_of(PowerSGD(2, feedback), given), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_what_sets_a_worker_apart_does_not_add_up_in_its_memory() -> None:
    """With what arrived taken from it, as in the released code, it would be the sum of all that."""
    codec, given = PowerSGD(2), differences(400)
    memory = nothing(codec)
    apart = torch.zeros(K, 54, dtype=torch.float64)
    for x in given:
        _, memory = codec.mean(x.clone(), memory, TENSORS, average)
        apart += (x - x.mean(0))[:, :54]
    lost = memory[:, 18 : 18 + 54]
    assert 0.5 * apart.norm() > (lost - lost.mean(0)).norm() > 1


def test_nothing_is_lost_for_good() -> None:
    """The sum of what arrived is that of the means, less the mean of the last memory."""
    codec, given = PowerSGD(2), differences(50)
    memory, arrived = nothing(codec), torch.zeros(P, dtype=torch.float64)
    for x in given:
        mean, memory = codec.mean(x.clone(), memory, TENSORS, average)
        arrived += mean[0]
    lost = []
    for kept, n, columns in zip(
        memory.split(codec.columns(TENSORS), dim=1),
        lengths(TENSORS),
        codec.columns(TENSORS),
        strict=True,
    ):
        lost.append(kept[:, columns - n :].mean(0) if columns else kept.new_zeros(n))
    assert torch.cat(lost).abs().max() > 0.1
    total = sum(x.mean(0) for x in given)
    torch.testing.assert_close(arrived, total - torch.cat(lost), rtol=0, atol=1e-11)


def test_a_matrix_of_low_rank_arrives_whole() -> None:
    draw = torch.Generator().manual_seed(2)
    M = torch.randn(6, 2, generator=draw).double() @ torch.randn(2, 9, generator=draw).double()
    x = torch.zeros(K, P, dtype=torch.float64)
    x[:, :54] = M.flatten()
    [mean] = sent_of(PowerSGD(2), [x])
    torch.testing.assert_close(mean, x[0], rtol=0, atol=1e-12)


def test_going_on_from_the_last_q_finds_the_largest_directions() -> None:
    """Of the same matrix again and again, without memory: the best approximation of its rank."""
    x = differences(1)[0]
    last = sent_of(PowerSGD(2, error_feedback=False), [x] * 400)[-1]
    M = x.mean(0)[:54].view(6, 9)
    U, s, V = torch.linalg.svd(M)
    best = U[:, :2] @ torch.diag(s[:2]) @ V[:2]
    torch.testing.assert_close(last[:54].view(6, 9), best, rtol=0, atol=1e-6)


def test_bytes_and_memory_are_those_of_the_factors() -> None:
    codec = PowerSGD(2)
    first, second = 2 * (6 + 4) + 6 + 10 + 1, 2 * (9 + 12)
    assert codec.messages(TENSORS) == (first, second)
    assert codec.nbytes(TENSORS, 8) == 8 * (first + second)
    assert codec.columns(TENSORS) == (54 + 18, 0, 48 + 24, 0, 0)
    assert PowerSGD(2, error_feedback=False).columns(TENSORS) == (18, 0, 24, 0, 0)
    lengths_sent: list[int] = []

    def measured(x: torch.Tensor) -> torch.Tensor:
        lengths_sent.append(x.shape[1])
        return average(x)

    x = differences(1)[0]
    codec.mean(x, nothing(codec), TENSORS, measured)
    assert lengths_sent == [first, second]


def test_zeros_come_back_as_zeros_and_the_next_difference_is_sent() -> None:
    zeros, x = torch.zeros(K, P, dtype=torch.float64), differences(1)[0]
    first, _, third = sent_of(PowerSGD(2), [zeros, zeros, x])
    assert not first.any() and third[:54].norm() > 0.3 * x.mean(0)[:54].norm()


def test_rows_that_are_never_used_do_not_keep_the_others_back_after_zeros() -> None:
    """As an embedding's first tokens: from zeros, Q would be made of these rows alone."""
    zeros, x = torch.zeros(K, P, dtype=torch.float64), differences(1)[0]
    x[:, :18] = 0  # rows 0 and 1 of 6
    arrived = sent_of(PowerSGD(2), [zeros, *[x] * 8])[-1]
    assert arrived[18:54].norm() > 0.5 * x.mean(0)[18:54].norm()


def test_a_column_of_q_that_has_become_0_is_drawn_and_the_others_stay() -> None:
    """Also one that has a 0 in it."""
    codec, x, memory = PowerSGD(2), differences(1)[0], nothing(PowerSGD(2))
    q = torch.arange(9, dtype=torch.float64)
    memory[:, :18:2] = q
    sent: list[torch.Tensor] = []

    def first(message: torch.Tensor) -> torch.Tensor:
        sent.append(average(message).clone())
        return message

    codec.mean(x.clone(), memory, TENSORS, first)
    drawn = torch.randn(18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q = torch.stack([q, drawn[1::2]], dim=1)
    expected = x.mean(0)[:54].view(6, 9) @ Q
    torch.testing.assert_close(sent[0][0, :12].view(6, 2), expected, rtol=0, atol=1e-12)


class Products(TorchDispatchMode):
    """Notes the precision that is set when matrices are multiplied or made orthonormal."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = op.overloadpacket.__name__
        if name in ("mm", "bmm", "linalg_qr"):
            self.seen.append((name, torch.get_float32_matmul_precision()))
        return op(*args, **(kwargs or {}))


def test_products_are_exact_whatever_is_set_for_the_model() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with Products() as products:
            sent_of(PowerSGD(2), differences(1))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert {name for name, _ in products.seen} == {"mm", "bmm", "linalg_qr"}
    assert {precision for _, precision in products.seen} == {"highest"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 55])
def test_what_is_not_finite_stays_visible(bad: float, place: int) -> None:
    x = differences(1)[0]
    x[1, place] = bad
    assert not sent_of(PowerSGD(2), [x])[0][place].isfinite()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Choco(compressor=PowerSGD()),  # type: ignore[arg-type]
        lambda: TopK(compressor=PowerSGD()),  # type: ignore[arg-type]
        lambda: ChunkedTopK(compressor=PowerSGD()),  # type: ignore[arg-type]
    ],
    ids=["choco", "top_k", "chunked_top_k"],
)
def test_what_codes_vectors_one_by_one_refuses_it(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="by itself, and PowerSGD.* type another"):
        make()


def test_a_rank_and_shapes_are_needed() -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0: type rank 4"):
        PowerSGD(rank=0)
    with pytest.raises(
        ConfigurationError, match="the shapes of this model's tensors are not known"
    ):
        DiLoCo(compressor=PowerSGD()).init(torch.zeros(2, 4), Simulated(2), ModelSize((4,)))
