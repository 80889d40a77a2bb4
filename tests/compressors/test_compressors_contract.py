"""What every codec promises, for every file of the folder: a new file is tested by being there."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_localsgd import compressors
from hpc_localsgd.compressors import Compressor, compress

SIZES = (7, 1, 24, 1, 3)
DTYPES = (torch.float32, torch.float64)
ON_GPU = pytest.param("cuda", marks=pytest.mark.cuda)
DEVICES = ["cpu", *([ON_GPU] if torch.cuda.is_available() else [])]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def _rows(n: int, sizes: Sequence[int] = SIZES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Seeded normal rows whose tensors differ in scale."""
    generator = torch.Generator().manual_seed(n)
    scales = torch.cat([torch.full((size,), 10.0**-i) for i, size in enumerate(sizes)])
    return (torch.randn(n, sum(sizes), generator=generator, dtype=torch.float64) * scales).to(dtype)


def _through(codec: Compressor, x: torch.Tensor, sizes: Sequence[int] = SIZES) -> torch.Tensor:
    return codec.decode(codec.encode(x, sizes), sizes, x.dtype)


def test_the_public_names_are_one_class_for_each_file() -> None:
    files = {m.name.replace("_", "") for m in pkgutil.iter_modules(compressors.__path__)}
    public = {name.lower() for name in compressors.__all__} - {
        "compression",
        "compressor",
        "matrixcompression",
        "compress",
    }
    assert files - {"base", "fourbits", "sparse", "twobytes"} == public


@every_dtype
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(0,), (1,), (8,), (9,), (1, 1, 1), SIZES, (300, 5)], ids=str)
def test_shapes_types_and_payload(
    codec: Compressor, dtype: torch.dtype, device: str, sizes: tuple[int, ...]
) -> None:
    for n in (1, 3):
        x = _rows(n, sizes, dtype).to(device)
        sent = codec.encode(x, sizes)
        back = codec.decode(sent, sizes, dtype)
        assert sent.dtype == torch.uint8 and sent.device == x.device
        assert sent.shape == (n, codec.payload(sizes))
        assert back.shape == x.shape and back.dtype == dtype and back.device == x.device


@every_dtype
def test_rows_are_independent(codec: Compressor, dtype: torch.dtype) -> None:
    x = _rows(5, (301, 1, 100_000), dtype)
    together = codec.encode(x, (301, 1, 100_000))
    for i in range(5):
        assert torch.equal(codec.encode(x[i : i + 1], (301, 1, 100_000)), together[i : i + 1])


def test_the_layout_in_memory_does_not_matter(codec: Compressor) -> None:
    x = _rows(4)
    sent = codec.encode(x, SIZES)
    strided = torch.stack([x, x], dim=2)[:, :, 0]
    transposed = x.T.contiguous().T
    column = x[:1].T.contiguous().T  # one row whose last stride need not be 1
    assert torch.equal(codec.encode(strided, SIZES), sent)
    assert torch.equal(codec.encode(transposed, SIZES), sent)
    assert torch.equal(codec.encode(column, SIZES), sent[:1])
    message = torch.nn.functional.pad(sent, (3, 2))  # bytes in the middle of a longer message
    inside = message[:, 3:-2]
    assert torch.equal(codec.decode(inside, SIZES, x.dtype), codec.decode(sent, SIZES, x.dtype))


def test_same_vector_same_bytes_and_inputs_untouched(codec: Compressor) -> None:
    x = _rows(3)
    kept = x.clone()
    sent = codec.encode(x, SIZES)
    sent_kept = sent.clone()
    codec.decode(sent, SIZES, torch.float32)
    compress(codec, x, x, SIZES)
    assert torch.equal(x, kept) and torch.equal(sent, sent_kept)
    assert torch.equal(codec.encode(x, SIZES), sent)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    exponent=st.integers(-9, 3),
    seed=st.integers(0, 2**16),
    wide=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_error_stays_within_the_declared_bound(
    codec: Compressor, sizes: list[int], exponent: int, seed: int, wide: bool
) -> None:
    dtype = torch.float64 if wide else torch.float32
    x = (_rows(seed % 3 + 1, sizes) * 10.0**exponent).to(dtype)
    assert codec.encode(x, sizes).shape[1] == codec.payload(sizes)
    error = (_through(codec, x, sizes).double() - x.double()).norm(dim=1)
    bound = codec.error_bound(x, sizes)
    assert bound.dtype == torch.float64 and (error <= bound).all()


@given(values=st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_values_stay_within_the_bound(codec: Compressor, values: list[float]) -> None:
    sizes = [len(values) // 2, len(values) - len(values) // 2]  # the first may be empty
    x = torch.tensor([values], dtype=torch.float32)
    error = (_through(codec, x, sizes).double() - x.double()).norm(dim=1)
    assert (error <= codec.error_bound(x, sizes)).all()


def test_zeros_come_back_as_zeros(codec: Compressor) -> None:
    assert not _through(codec, torch.zeros(2, sum(SIZES))).any()


@every_dtype
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(
    codec: Compressor, dtype: torch.dtype, bad: float
) -> None:
    for place in (0, 7, 20, sum(SIZES) - 1):
        x = _rows(2, dtype=dtype)
        x[1, place] = bad
        back = _through(codec, x)
        assert back[0].isfinite().all()
        assert not back[1, place].isfinite()
        if math.isnan(bad):
            assert back[1, place].isnan()


def test_numbers_beyond_float32_stay_visible(codec: Compressor) -> None:
    x = _rows(1, dtype=torch.float64)
    x[0, 3] = 1e300
    assert not _through(codec, x)[0, 3].isfinite()


def test_what_is_not_finite_survives_error_feedback(carrying: Compressor) -> None:
    x, memory = _rows(1), None
    for bad in (math.nan, 0.0, 0.0):
        x[0, 2] = bad
        sent, memory = compress(carrying, x, memory, SIZES)
        assert not carrying.decode(sent, SIZES, x.dtype)[0, 2].isfinite()


def test_a_codec_is_a_frozen_value_with_a_legend(codec: Any) -> None:
    assert repr(codec).startswith(type(codec).__name__ + "(")
    assert replace(codec) == codec and hash(replace(codec)) == hash(codec)
    with pytest.raises(FrozenInstanceError):
        codec.error_feedback = True


def test_an_elementwise_codec_codes_any_share_of_a_vector_alike(elementwise: Compressor) -> None:
    codec, x = elementwise, _rows(1)
    halves = [x[:, :3].contiguous(), x[:, 3:].contiguous()]
    parts = [codec.decode(codec.encode(h, [h.shape[1]]), [h.shape[1]], x.dtype) for h in halves]
    assert torch.equal(torch.cat(parts, dim=1), _through(codec, x))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: `make gpu`")
def test_nothing_waits_for_the_device(carrying: Compressor) -> None:
    x = _rows(2).cuda()
    compress(carrying, x, x, SIZES)  # what is compiled or allocated once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        compress(carrying, x, x, SIZES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
