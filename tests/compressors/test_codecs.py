"""What each codec alone promises: numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hpc_localsgd.compressors import (
    BF16,
    E3M0,
    FP16,
    ChunkedTopK,
    Compressor,
    Int4,
    Int8,
    Sign,
    TopK,
    compress,
)
from hpc_localsgd.errors import ConfigurationError


def test_fp16_overflows_in_the_open() -> None:
    x = torch.tensor([[65504.0, 65519.0, 65520.0, -1e6]])
    back = FP16().decode(FP16().encode(x, [4]), [4], torch.float32)
    assert back.tolist() == [[65504.0, 65504.0, math.inf, -math.inf]]


def test_bf16_keeps_the_range_of_float32() -> None:
    x = torch.tensor([[3e38, 1e-38, 2**-7 + 1.0, 2**-9 + 1.0]])
    back = BF16().decode(BF16().encode(x, [4]), [4], torch.float32)
    torch.testing.assert_close(back, x, rtol=2**-8, atol=0)
    assert back[0, 2:].tolist() == [2**-7 + 1.0, 1.0]


def test_int8_has_a_scale_for_each_tensor() -> None:
    x = torch.tensor([[127.0, -50.4, 1e-6, 127e-6, -1e-6]])
    sent = Int8().encode(x, [2, 3])
    assert sent[0, :8].view(torch.float32).tolist() == pytest.approx([1.0, 1e-6])
    assert sent[0, 8:].view(torch.int8).tolist() == [127, -50, 1, 127, -1]
    back = Int8().decode(sent, [2, 3], torch.float32)
    torch.testing.assert_close(back, torch.tensor([[127.0, -50.0, 1e-6, 127e-6, -1e-6]]))


def test_int8_numbers_too_small_for_a_scale() -> None:
    x = torch.tensor([[1e-45, -1e-45, 0.0, 1.9e-43]])  # all subnormal
    for sizes in ([3, 1], [2, 2]):  # scales that become 0, and one that rounds down a lot
        back = Int8().decode(Int8().encode(x, sizes), sizes, torch.float32)
        assert back.isfinite().all() and (back - x).abs().max() <= 2e-44


def test_int8_sends_zeros_as_zeros_and_mirrors_what_is_negative() -> None:
    assert not Int8().encode(torch.zeros(2, 5), [2, 3]).any()
    for x in (torch.tensor([[1.9e-43, 1e-45]]), torch.tensor([[3.0, -1.2]])):
        back, mirrored = (Int8().decode(Int8().encode(v, [2]), [2], torch.float32) for v in (x, -x))
        assert torch.equal(back, -mirrored)


def test_int8_loses_half_a_step_of_nearly_all_at_worst() -> None:
    x = torch.full((1, 100_000), 0.5)
    x[0, 0] = 127.0
    lost = (Int8().decode(Int8().encode(x, [100_000]), [100_000], x.dtype) - x).norm().item()
    assert lost <= Int8().error_bound(x, [100_000]).item() < 1.0006 * lost


def test_sign_really_packs_eight_to_a_byte() -> None:
    x = torch.tensor([[-2.0, 2.0, -2.0, 0.0, -0.0, 4.0, 4.0, -4.0, -4.0]])
    sent = Sign().encode(x, [9])
    assert sent[0, :4].view(torch.float32).item() == pytest.approx(22 / 9)
    assert sent[0, 4:].tolist() == [0b10000101, 0b00000001]  # minus is 1, the first sign lowest
    back = Sign().decode(sent, [9], torch.float32)
    assert back.sign().tolist() == [[-1, 1, -1, 1, 1, 1, 1, -1, -1]]  # sign(0) = +1


def test_sign_sends_a_thirty_second_of_float32() -> None:
    sizes = [3 * 3 * 64 * 64] * 36 + [64] * 40
    assert Sign().payload(sizes) == sum(sizes) // 8 + 4 * 76
    assert 31.9 < 4 * sum(sizes) / Sign().payload(sizes) < 32


@pytest.mark.parametrize("sizes", [(50,), (20, 1, 29)], ids=str)
def test_sign_loses_exactly_what_the_identity_says(sizes: tuple[int, ...]) -> None:
    """O9: ||C(x) - x||^2 = ||x||^2 (1 - ||x||_1^2 / (d ||x||_2^2)), tensor by tensor."""
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = Sign().decode(Sign().encode(x, sizes), sizes, torch.float64)
    for part, got in zip(x.split(sizes, dim=1), back.split(sizes, dim=1), strict=True):
        l1, l2 = part.norm(p=1, dim=1), part.norm(dim=1)
        expected = l2**2 * (1 - l1**2 / (part.shape[1] * l2**2))
        torch.testing.assert_close((got - part).norm(dim=1) ** 2, expected, rtol=1e-9, atol=1e-12)


def test_sign_carries_its_scale_to_the_whole_tensor() -> None:
    x = torch.tensor([[math.nan, 1.0, 2.0, -2.0, math.inf, -1.0]])
    back = Sign().decode(Sign().encode(x, [2, 2, 2]), [2, 2, 2], torch.float32)
    assert back[0, :2].isnan().all()
    assert back[0, 2:].tolist() == [2.0, -2.0, math.inf, -math.inf]


def test_top_k_keeps_the_largest_and_the_first_of_equals() -> None:
    x = torch.tensor([[1.0, -5.0, 3.0, -3.0, 3.0, 0.0], [2.0, 2.0, -2.0, 2.0, 2.0, 2.0]])
    codec = TopK(fraction=0.5)
    back = codec.decode(codec.encode(x, [6]), [6], torch.float32)
    assert back.tolist() == [[0, -5, 3, -3, 0, 0], [2, 2, -2, 0, 0, 0]]


def test_top_k_agrees_with_a_stable_sort() -> None:
    x = torch.randint(-9, 10, (3, 400), generator=torch.Generator().manual_seed(0)).float()
    codec = TopK(fraction=0.1)
    indices = codec.encode(x, [400])[:, : 4 * 40].contiguous().view(torch.int32)
    order = x.abs().sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(indices.long(), order[:, :40])


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, 30), (0.1, 3), (0.07, 2), (1e-9, 1)])
def test_top_k_counts(fraction: float, kept: int) -> None:
    assert TopK(fraction=fraction).payload([10, 20]) == 8 * kept
    assert TopK(fraction=fraction, values="float16").payload([10, 20]) == 6 * kept


def test_top_k_values_may_travel_as_halves() -> None:
    codec, x = TopK(fraction=0.5, values="float16"), torch.tensor([[0.1, -1e6, 3.0, 0.0]])
    sent = codec.encode(x, [4])
    assert sent.shape == (1, codec.payload([4])) == (1, 12)
    assert codec.decode(sent, [4], torch.float32).tolist() == [[0.0, -math.inf, 3.0, 0.0]]


def test_top_k_sends_nan_first_and_where_it_is() -> None:
    x = torch.tensor([[1e30, math.nan, -math.inf, 7.0]])
    for fraction, expected in ((0.25, [False, True, False, False]), (0.5, [0, 1, 1, 0])):
        codec = TopK(fraction=fraction)
        back = codec.decode(codec.encode(x, [4]), [4], torch.float32)
        assert (~back.isfinite())[0].tolist() == expected


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, math.nan])
def test_top_k_refuses_a_fraction_it_cannot_keep(fraction: float) -> None:
    with pytest.raises(ConfigurationError, match="type fraction 0.01"):
        TopK(fraction=fraction)


def test_top_k_refuses_an_unknown_type_of_values() -> None:
    with pytest.raises(ConfigurationError, match="float32 or float16"):
        TopK(values="bfloat16")  # type: ignore[arg-type]


def test_four_bits_really_share_a_byte() -> None:
    x = torch.tensor([[7.0, -7.0, 0.4, -2.6, 0.5]])
    sent = Int4(block=4).encode(x, [2, 3])
    assert sent[0, :8].view(torch.float32).tolist() == [7.0, 0.5]
    assert sent[0, 8:].tolist() == [0x1F, 0x58, 0x0F]  # 8 is zero, the first number low
    back = Int4(block=4).decode(sent, [2, 3], torch.float32)
    torch.testing.assert_close(back, torch.tensor([[7.0, -7.0, 0.0, -3.0, 0.5]]))


def test_e3m0_has_fifteen_levels() -> None:
    """Sixty-four of the smallest, powers of two from there, and zero; nearest of them, ties up."""
    x = torch.tensor([[64.0, 48.0, 47.9, -3.0, 1.49, 0.75, 0.5, 0.499, -0.4]])
    codec = E3M0(block=9)
    back = codec.decode(codec.encode(x, [9]), [9], torch.float32)
    assert back.tolist() == [[64.0, 64.0, 32.0, -4.0, 1.0, 1.0, 1.0, 0.0, 0.0]]
    grid = torch.linspace(-1, 1, 4001, dtype=torch.float64)[None]
    whole = E3M0(block=4001)
    assert len(whole.decode(whole.encode(grid, [4001]), [4001], torch.float64).unique()) == 15


@pytest.mark.parametrize("made", [Int4(), E3M0()], ids=repr)
def test_four_bits_cost_four_and_a_quarter(made: Compressor) -> None:
    assert made.payload([100_000, 28_000]) == 128_000 // 2 + 4 * 1000
    assert made.payload([1]) == 5


@pytest.mark.parametrize("kind", [Int4, E3M0])
def test_a_block_has_a_length(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="blocks of at least 1 number, got 0"):
        kind(block=0)


def test_what_is_not_finite_stays_in_its_block() -> None:
    x = torch.tensor([[1.0, math.nan, 1.0, -1.0, math.inf]])
    for codec in (Int4(block=2), E3M0(block=2)):
        back = codec.decode(codec.encode(x, [5]), [5], torch.float32)
        assert back.isfinite()[0].tolist() == [False, False, True, True, False]


def test_chunks_keep_their_own_largest() -> None:
    x = torch.tensor([[9.0, 8.0, 7.0, 6.0, 0.1, -0.2, 0.3, 0.0, 5.0]])
    codec = ChunkedTopK(chunk=4, kept_of_chunk=2)
    sent = codec.encode(x, [9])
    back = codec.decode(sent, [9], torch.float32)
    torch.testing.assert_close(back, torch.tensor([[9.0, 8, 0, 0, 0, -0.2, 0.3, 0, 5]]))
    assert sent[0, :2].tolist() == [0b01_10_01_00, 0b00]  # places 0, 1; 2, 1; 0 of the rest
    assert sent.shape == (1, 2 + 4 * 5)


def test_sparseloco_s_places_have_twelve_bits() -> None:
    codec, P = ChunkedTopK(), 10 * 4096
    assert codec.payload([P]) == 10 * 64 * 12 // 8 + 10 * 64 * 4
    four_bits = ChunkedTopK(compressor=Int4(block=64))
    assert four_bits.payload([P]) == 10 * (64 * 12 // 8 + 32 + 4)  # 1/124 of float32
    x = torch.randn(2, P, generator=torch.Generator().manual_seed(0))
    back = codec.decode(codec.encode(x, [P]), [P], x.dtype)
    assert torch.equal(
        back != 0,
        x.abs()
        >= x.abs().unflatten(1, (10, -1)).topk(64).values[..., -1:].expand(-1, -1, 4096).flatten(1),
    )


def test_what_the_values_lose_on_their_way_is_remembered() -> None:
    codec, x = TopK(fraction=0.5, compressor=Int4()), torch.tensor([[7.0, 2.4, 1.0, 0.0]])
    sent, memory = compress(codec, x, None, [4])
    assert codec.decode(sent, [4], x.dtype).tolist() == [[7.0, 2.0, 0.0, 0.0]]
    assert memory is not None
    torch.testing.assert_close(memory, torch.tensor([[0.0, 0.4, 1.0, 0.0]]))
    assert sent.shape[1] == codec.payload([4]) == 2 * 4 + 1 + 4


def test_a_memory_that_decays_counts_for_less() -> None:
    codec = ChunkedTopK(chunk=2, kept_of_chunk=1, decay=0.5)
    x = torch.tensor([[4.0, 3.0]])
    _, memory = compress(codec, x, None, [2])
    sent, memory = compress(codec, x, memory, [2])  # of 4 and 3 + 1.5
    assert codec.decode(sent, [2], x.dtype).tolist() == [[0.0, 4.5]]
    assert memory is not None and memory.tolist() == [[4.0, 0.0]]


@pytest.mark.parametrize("sparse", [TopK(0.1), ChunkedTopK()], ids=["top_k", "chunked_top_k"])
def test_of_a_vector_without_numbers_a_share_is_kept_that_is_a_number(
    sparse: TopK | ChunkedTopK,
) -> None:
    assert sparse.least_share([]) == sparse.least_share([0, 0]) == 0.0


@pytest.mark.parametrize(
    "given",
    [{"chunk": 1}, {"kept_of_chunk": 0}, {"chunk": 8}, {"decay": 0.0}, {"decay": 1.1}],
    ids=str,
)
def test_chunked_top_k_refuses_what_it_cannot_keep(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="needs chunk >= 2"):
        ChunkedTopK(**given)
    with pytest.raises(ConfigurationError, match="float32 or float16"):
        ChunkedTopK(values="int3")  # type: ignore[arg-type]
