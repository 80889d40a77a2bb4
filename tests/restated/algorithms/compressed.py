"""Error feedback (Karimireddy et al., arXiv:1901.09847, Algorithm 2) and the average of messages.

    p_k = v_k + beta e_k        m = (1/K) sum_k C(p_k)        e_k <- p_k - C(p_k)

beta is 1 but where a codec's memory decays. Codecs that round each number by itself round the
average as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np

from restated.problem import SIZES


class Messages:
    """Workers that send through a codec, or plainly, and what each of them remembers."""

    def __init__(
        self, K: int, codec: ModuleType | None, feedback: bool, sizes: Sequence[int] = SIZES
    ) -> None:
        self.codec, self.feedback, self.sizes = codec, feedback, sizes
        self.e = np.zeros((K, sum(sizes)))
        averages = getattr(codec, "Averages", None)
        self.averages = averages(K, feedback, sizes) if averages else None

    def mean(self, v: np.ndarray) -> np.ndarray:
        """The average [P] of what arrives, from what the workers have to say [K, P]."""
        if self.codec is None:
            return sum(v) / len(v)
        if self.averages:
            return self.averages.mean(v)
        p = v + getattr(self.codec, "DECAY", 1.0) * self.e
        arrived = np.stack([self.codec.coded(row, self.sizes) for row in p])
        if self.feedback:
            self.e = p - arrived
        mean = sum(arrived) / len(v)
        return self.codec.coded(mean, self.sizes) if self.codec.ENTRY_BY_ENTRY else mean


def through_each() -> list[tuple[str, object, ModuleType, bool]]:
    """Every codec with and without memory: a name, ours, its restatement, its feedback."""
    from hpc_localsgd.compressors import BF16, FP16, Int8, PowerSGD, Sign, TopK
    from restated.compressors import (
        bf16,
        chunked_top_k,
        e3m0,
        fp16,
        int4,
        int8,
        power_sgd,
        sign,
        top_k,
    )  # fmt: skip

    found = []
    for feedback in (True, False):
        word = "memory" if feedback else "forgetful"
        found += [
            (f"sign-{word}", Sign(error_feedback=feedback), sign, feedback),
            (f"top_k-{word}", TopK(fraction=0.3, error_feedback=feedback), top_k, feedback),
            (f"power_sgd-{word}", PowerSGD(1, error_feedback=feedback), power_sgd, feedback),
            (f"int8-{word}", Int8(error_feedback=feedback), int8, feedback),
            (f"fp16-{word}", FP16(error_feedback=feedback), fp16, feedback),
            (f"bf16-{word}", BF16(error_feedback=feedback), bf16, feedback),
            *(
                (f"{codec.__name__[20:]}-{word}", made, codec, feedback)
                for codec in (int4, e3m0, chunked_top_k)
                for made in [replace(codec.MADE[0], error_feedback=feedback)]
            ),
        ]
    return found
