"""The benchmark of loss against bytes: every method is a run that can be made, and is drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # as its scripts see each other

import text_bits
from text import Row

from hpc_localsgd.commands.configuration import config


def options(method: str) -> Any:
    words = text_bits.COMMON.format(steps=10, seed=1) + text_bits.METHODS[method]
    return config.parse(words.split()).config


@pytest.mark.parametrize("method", text_bits.METHODS)
def test_every_method_is_a_run_of_the_same_length_and_rate(method: str) -> None:
    run, first = options(method), options("parallel AdamW")
    assert (run.steps, run.seed, run.batch_per_worker) == (10, 1, 8)
    assert (run.task, run.rate) == (first.task, first.rate)


def test_methods_differ_in_what_they_are_named_for() -> None:
    codecs = {
        name: getattr(options(name).algorithm, "compressor", None) for name in text_bits.METHODS
    }
    assert len({repr(codec) for codec in codecs.values()}) == len(text_bits.METHODS) - 2
    muon = [name for name, words in text_bits.METHODS.items() if "--optimizer Muon" in words]
    assert muon == ["MuLoCo"]


def test_page_and_figure_have_every_method(tmp_path: Path) -> None:
    rows = {
        name: [
            Row(
                name,
                f"python {i}",
                1.0,
                1.0,
                2 + i / 10 + seed,
                2.0,
                0.4,
                None,
                None,
                2e8 / 4**i,
                None,
            )
            for seed in range(3)
        ]
        for i, name in enumerate(text_bits.METHODS)
    }
    page = text_bits.page(rows)
    for i, name in enumerate(rows):
        assert f"| {name} | {3 + i / 10:.3f} | {2 + i / 10:.3f} to {4 + i / 10:.3f} |" in page
        assert f"1/{4**i}" in page and f"    python {i}" in page
    text_bits.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
