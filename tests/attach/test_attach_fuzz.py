"""Everything that a loop may do, in combinations nobody would write a test for, step by step."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from drawn_loops import OPTIMIZERS, Loop, with_attach
from hypothesis import HealthCheck, given, settings
from loops import of_the_folder
from plain_loop import without_attach

from hpc_localsgd import AllReduce, DiLoCo, Gossip, Hierarchical, LocalSGD, SlowMo, StreamingDiLoCo
from hpc_localsgd.compressors import Int8

ALGORITHMS = [
    *of_the_folder(),
    LocalSGD(average="parameters"),
    LocalSGD(compressor=Int8()),
    DiLoCo(optimizer="Adam", lr=0.01),
    SlowMo(compressor=Int8()),
    Gossip(order="awc"),
    StreamingDiLoCo(fragments=2, delay=1, keep_local=0.3),
    AllReduce(),
]
ROUNDS = st.one_of(  # parallel first, as in Post-local SGD, or of any lengths
    st.tuples(st.integers(0, 4), st.integers(1, 4)).map(lambda n: (1,) * n[0] + (n[1], n[1])),
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
)
SOME = st.frozensets(st.integers(0, 8), max_size=2)


@st.composite
def loops(draw: st.DrawFn) -> Loop:
    """Draw a loop; what attach refuses, or rounds to other numbers, is not drawn."""
    algorithm = draw(st.sampled_from(ALGORITHMS))
    lengths = draw(ROUNDS)
    if algorithm.only_single_steps:
        lengths = (1,) * sum(lengths)
    rounds_off = algorithm.needs_whole_models or getattr(algorithm, "compressor", None)
    signs = "Sign" in type(algorithm).__name__
    flags: dict[str, Any] = {
        name: draw(st.booleans()) for name in ("tied", "frozen", "branch", "to_none", "zero_late")
    }
    saved = draw(SOME)
    if saved:  # gradients of 0 are not saved, and a parameter without one takes no step
        flags["to_none"] = True
    paused = draw(st.sampled_from(["but last", "none", "all", "last"]))
    clip = draw(st.sampled_from([0.0, 0.3]))
    return Loop(
        algorithm,
        K=draw(st.sampled_from([2, 4]))
        if isinstance(algorithm, Hierarchical)
        else draw(st.integers(2, 4)),
        lengths=lengths,
        cut=draw(st.integers(0, lengths[-1] - 1)),
        optimizer=draw(st.sampled_from(sorted(OPTIMIZERS))),
        passes=draw(st.integers(1, 3)),
        paused="but last"
        if clip and paused in ("all", "last")
        else paused,  # clipped when complete
        clip=clip,
        half=not (rounds_off or signs) and draw(st.booleans()),
        statistics=draw(st.sampled_from(["", "local", "average"])),
        saved=saved,
        shown=draw(SOME),
        peeked=draw(SOME),
        skipped=draw(SOME),
        on_nan=draw(st.sampled_from(["stop", "quarantine"])),
        bucket_bytes=draw(st.sampled_from([1, 200, 2**20])),
        **flags,
    )


@given(loop=loops())
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_loop_gives_the_numbers_of_a_plain_one(loop: Loop) -> None:
    tolerance = 2e-4 if loop.half else 1e-9
    for rank, (ours, expected) in enumerate(
        zip(with_attach(loop), without_attach(loop), strict=True)
    ):
        assert len(ours) == len(expected)
        for i, (x, y) in enumerate(zip(ours, expected, strict=True)):
            far = (x - y).abs().max()
            assert far <= tolerance, f"rank {rank}, note {i}: {far}"
