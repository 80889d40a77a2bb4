"""The text task: what a token is, how a text is cut, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, small_run

from hpc_localsgd.curvature import build_for_curvature
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.probes import Evaluation
from hpc_localsgd.schedules.rates import constant
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.gru import GRU
from hpc_localsgd.tasks.sequences import sequences
from hpc_localsgd.tasks.text import BUNDLED, text
from hpc_localsgd.tasks.text import sequences as cut
from hpc_localsgd.tasks.tokens import UNKNOWN, read_tokens

SMALL: dict[str, Any] = {"length": 8, "width": 8, "layers": 1, "heads": 2}


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_characters_are_ranked_by_frequency_in_the_training_part(tmp_path: Path) -> None:
    found = read_tokens(written(tmp_path, "aabaäab b" + "z"), "characters", 0.1, 2)
    assert found.train.tolist() == [1, 1, 2, 1, 4, 1, 2, 3, 2]  # a 4 times, b 3, " " before "ä"
    assert found.test.tolist() == [UNKNOWN]
    assert found.vocabulary == 5


def test_words_beyond_the_vocabulary_are_unknown(tmp_path: Path) -> None:
    found = read_tokens(written(tmp_path, "the cat, the dog, the end. the cat"), "words", 0.2, 4)
    # the 3 times, "," 2, then "." "cat" "dog" "end" once each in the training part: "." is first
    assert found.train.tolist() == [1, UNKNOWN, 2, 1, UNKNOWN, 2, 1, UNKNOWN, 3]
    assert found.test.tolist() == [1, UNKNOWN]
    assert found.vocabulary == 4


def test_bytes_are_themselves(tmp_path: Path) -> None:
    found = read_tokens(written(tmp_path, bytes([0, 255, 7, 7])), "bytes", 0.25, 2)
    assert (found.train.tolist(), found.test.tolist(), found.vocabulary) == ([0, 255, 7], [7], 256)


def test_targets_are_the_tokens_that_follow() -> None:
    inputs, targets = cut(np.arange(10), 3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert np.array_equal(targets, inputs + 1)
    assert cut(np.arange(9), 3)[0].shape == (2, 3)  # the last token has no successor
    assert cut(np.arange(0), 3)[0].shape == (0, 3)


def test_the_bundled_text_is_a_book_that_nobody_owns() -> None:
    book = BUNDLED.read_text()
    assert book.isascii()
    assert book.startswith("CHAPTER I. Down the Rabbit-Hole")
    assert book.endswith("the happy summer days.\n")
    assert len(book) == 144_297
    assert "Gutenberg" not in book  # a trademark, which is not for the text


@pytest.mark.parametrize(
    ("options", "content", "said"),
    [
        ({"file": "nowhere.txt"}, "", "cannot read --task.file nowhere.txt: No such file"),
        ({}, b"abc\xff" * 90, "not UTF-8 (byte 3)"),
        ({}, "abc", "no sequence of 8 characters in its train part"),
        ({}, "abc " * 10, "no sequence of 8 characters in its test part"),
    ],
)
def test_what_is_no_text_is_refused(
    tmp_path: Path, options: dict[str, Any], content: str | bytes, said: str
) -> None:
    given = {"file": str(written(tmp_path, content)), **SMALL, **options}
    with pytest.raises(ConfigurationError) as caught:
        text(**given).build(TaskContext(batch=1))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"heads": 3}, {"layers": 0}, {"length": 0}, {"test_fraction": 1.0}]
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        text(**options)


@pytest.mark.parametrize("model", ["lstm", "gru", "transformer"])
def test_no_token_sees_a_later_one(model: Any) -> None:
    task: Any = text(model=model, **SMALL).build(TaskContext(batch=2, dtype=torch.float64))
    tokens = task.batch([0], 0)[0][0]
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 60
    module = task._replicas.modules[0]
    before, after = module(tokens), module(changed)  # [B, V, T]
    assert torch.equal(before[..., :5], after[..., :5])
    assert not torch.allclose(before[..., 5:], after[..., 5:])


def test_loss_and_accuracy_are_of_a_token() -> None:
    run = small_run(spec=text(**SMALL), K=2, steps=2, lr=constant(1e-9), H=1)
    _, memory = go(run, [Evaluation(2)])
    ((_, loss),) = memory.values["eval/test/loss"][-1:]
    ((_, accuracy),) = memory.values["eval/test/accuracy"][-1:]
    assert loss == pytest.approx(np.log(70), rel=0.1)  # 69 characters and the unknown one
    assert 0 < accuracy < 0.2


@pytest.mark.parametrize(
    "spec", [text(**SMALL), text(model="lstm", **SMALL), sequences(hidden=4)], ids=repr
)
def test_curvature_of_attention_and_of_an_lstm(spec: TaskSpec) -> None:
    """A product with the Hessian against differences of the gradient; fused kernels have none."""
    task = build_for_curvature(spec, batch=4, dtype=torch.float64)
    batch = tuple(part[0] for part in task.batch([0], 0))
    x = task.init(0).requires_grad_()
    v = torch.randn(task.dim, generator=torch.Generator().manual_seed(1), dtype=x.dtype)

    def gradient(at: torch.Tensor, **how: Any) -> torch.Tensor:
        return torch.autograd.grad(task.loss(at, batch), at, **how)[0]

    (product,) = torch.autograd.grad(gradient(x, create_graph=True), x, v)
    h = 1e-6
    ends = [gradient((x + s * h * v).detach().requires_grad_()) for s in (1, -1)]
    torch.testing.assert_close(product, (ends[0] - ends[1]) / (2 * h), rtol=1e-3, atol=1e-6)


def test_reading_in_both_directions_sees_the_first_row_last() -> None:
    one, both = (
        sequences(hidden=4, bidirectional=b).build(TaskContext()).dim for b in (False, True)
    )
    assert both == 2 * one - 10  # twice the LSTM, twice the weights of the read-out, one bias


@pytest.mark.parametrize("layers", [1, 2])
def test_a_gru_of_plain_products_is_that_of_torch(layers: int) -> None:
    ours = GRU(3, 5, layers).double()
    theirs = torch.nn.GRU(3, 5, layers, batch_first=True).double()
    for i in range(layers):
        for kind, layer in (("ih", ours.of_input[i]), ("hh", ours.of_state[i])):
            layer.weight.data = getattr(theirs, f"weight_{kind}_l{i}").data.clone()
            layer.bias.data = getattr(theirs, f"bias_{kind}_l{i}").data.clone()
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=0, atol=1e-14)


def test_workers_with_a_gru_run_at_once_and_with_an_lstm_do_not() -> None:
    for cell, at_once in (("gru", True), ("lstm", False)):
        context = TaskContext(workers=3, local_workers=range(3), batch=2, dtype=torch.float64)
        task: Any = sequences(hidden=4, cell=cell).build(context)
        task.x[:] = task.init(0)
        task.loss_and_grad(task.x, task.batch(range(3), 0))
        assert task._replicas.vmapped == at_once


def test_a_gru_reads_one_way() -> None:
    with pytest.raises(ConfigurationError, match="reads in one direction"):
        sequences(cell="gru", bidirectional=True)
