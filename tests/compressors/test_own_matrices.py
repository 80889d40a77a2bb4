"""A codec of one's own that needs the shapes of the tensors goes the way of the package's."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from compressors.in_halves import InHalves
from small_runs import go, small_run

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.algorithms.compressed import coded_state, tensors_of
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from hpc_localsgd.commands.plan import command
from hpc_localsgd.commands.plan.matrices_in_small import in_small
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.types import ModelSize

SPEC = digits(hidden=6)  # matrices of 6 x 64 and 10 x 6
SHAPES = ((6, 64), (10, 6), (6,), (10,))


@pytest.mark.parametrize(
    "algorithm", [LocalSGD, DiLoCo, lambda **given: StreamingDiLoCo(fragments=2, **given)]
)
def test_it_is_the_average_that_it_makes(algorithm: Any) -> None:
    plain, told = go(small_run(spec=SPEC, H=3, steps=12, algorithm=algorithm()))
    ours, said = go(small_run(spec=SPEC, H=3, steps=12, algorithm=algorithm(compressor=InHalves())))
    torch.testing.assert_close(ours.x, plain.x, rtol=0, atol=1e-12)
    for row, other in zip(said.rounds, told.rounds, strict=True):
        assert list(row["payload_bytes"]) == list(other["payload_bytes"])
    assert ours.state["sizes"] == SHAPES
    often = ours.state["memory"]
    assert often.shape == (ours.x.shape[0], 4) and (often == often[:1]).all() and often.min() > 0
    assert algorithm is not DiLoCo or often.unique().tolist() == [4.0]  # one for each round


def test_its_memory_begins_as_zeros_and_without_shapes_it_is_refused() -> None:
    x, model = torch.ones(3, 460, dtype=torch.float64), ModelSize.of(SHAPES)
    state = coded_state(InHalves(), x, model)
    assert torch.equal(state["memory"], torch.zeros(3, 4, dtype=torch.float64))
    assert tensors_of(None, model) == model.sizes == (384, 60, 6, 10)
    with pytest.raises(ConfigurationError, match=r"InHalves.*shapes of this model's tensors"):
        tensors_of(InHalves(), ModelSize((460,)))
    with pytest.raises(ConfigurationError, match=r"by itself, and InHalves"):
        Choco(compressor=InHalves())  # type: ignore[arg-type]


def test_a_plan_counts_what_it_sends() -> None:
    words = "--workers 4 --steps 4 --schedule every --schedule.steps 2 --fabric 10GbE --json"
    sizes = "--task.hidden 6 --parameters 460 --samples 640"  # the shapes are the task's
    codec = ["--algorithm.compressor", "compressors.in_halves.InHalves"]
    said = command.plan([*words.split(), *sizes.split(), "--algorithm=diloco", *codec], detect({}))
    assert json.loads(said)["traffic"]["payload_bytes_per_worker"] == 2 * 4 * 460


def test_in_small_its_averages_are_in_proportion() -> None:
    algorithm: Algorithm = DiLoCo(compressor=InHalves())
    codec = in_small(algorithm, ModelSize.of(SHAPES)).compressor  # type: ignore[attr-defined]
    first = 3 * 64 + 3 + 5 * 6 + 5
    assert codec.messages(((460,),)) == (first, 460 - first)
    assert codec.messages(((40,), (6,))) == (first // 10, 46 - first // 10)
    assert codec.columns(((230,), (230,))) == (2, 2) and codec.error_feedback is False
    sent: list[int] = []

    def average(x: torch.Tensor) -> torch.Tensor:
        sent.append(x.shape[1])
        return x

    codec.mean(torch.zeros(2, 46), torch.zeros(2, 0), ((40,), (6,)), average)
    assert sent == [first // 10, 46 - first // 10]
    assert in_small(DiLoCo(), ModelSize.of(SHAPES)) == DiLoCo()
