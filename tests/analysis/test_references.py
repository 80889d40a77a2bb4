"""The table of papers: complete, consistent with the docstrings, and read from a run."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from hpc_localsgd.analysis.references import used_by
from hpc_localsgd.analysis.references.comes_from import COMES_FROM
from hpc_localsgd.analysis.references.papers import FILE, papers
from hpc_localsgd.analysis.references.used import papers_of
from hpc_localsgd.commands.cite import main
from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.trajectory import Header, Trajectory, Writer

OPTIONS = ("algorithm", "schedule", "rate", "gradient", "compressor", "topology")


def classes() -> list[tuple[str, str]]:
    return [(option, path) for option in OPTIONS for path in choices(option).values()]


@pytest.mark.parametrize(("option", "path"), classes())
def test_everything_that_can_be_chosen_is_in_the_table(option: str, path: str) -> None:
    """And every arXiv number in its `Source:` line is among its papers."""
    module, name = path.rsplit(".", 1)
    assert (option, name) in COMES_FROM, f"add ({option!r}, {name!r}) to comes_from.py"
    doc = getattr(import_module(module), name).__doc__
    source = re.search(
        r"Source:(.+?)(\n\s*(Here differs|Sends|Needs|Costs|Attributes|Gap)|\Z)", doc, re.S
    )
    named = set(re.findall(r"arXiv:(\d{4}\.\d{5})", source.group(1))) if source else set()
    listed = {papers()[key].arxiv for key in COMES_FROM[option, name]}
    assert named <= listed


def test_every_paper_is_used_for_something_and_named_once() -> None:
    keys = list(papers())
    assert len(keys) == FILE.read_text("utf-8").count("\n@")  # none twice, none left out
    assert set(keys) == {key for used in COMES_FROM.values() for key in used}
    assert keys == sorted(keys)


def test_bibtex_is_plain_and_whole() -> None:
    for paper in papers().values():
        assert paper.bibtex.isascii(), paper.key
        assert paper.bibtex.count("{") == paper.bibtex.count("}")
        assert f"{{{paper.key}," in paper.bibtex and str(paper.year) in paper.bibtex
    assert r"Nedi{\'c}" in papers()["nedic2017"].bibtex
    assert "P. Di Lorenzo and G. Scutari" in papers()["dilorenzo2016"].text
    assert papers()["goyal2017"].text == (
        "P. Goyal et al. Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour. 2017. "
        "arXiv:1706.02677."
    )


CONFIG = """
task: {class_path: my_package.my_task}
algorithm:
  class_path: hpc_localsgd.Gossip
  init_args:
    topology:
      class_path: hpc_localsgd.topology.derived.lazy
      init_args: {of: {class_path: hpc_localsgd.topology.static.torus}}
compressor: {class_path: hpc_localsgd.compressors.top_k.TopK, init_args: {error_feedback: true}}
moments_every: {exp_avg: 3}
rate: {class_path: hpc_localsgd.schedules.rates.cosine, init_args: {warmup: 5%}}
optimizer: {class_path: torch.optim.AdamW}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    names = {"task": "t", "algorithm": "a", "schedule": "s", "world": "horovod(2 x 1 workers)"}
    with Writer(tmp_path / "run", Header(CONFIG, **names, K=2, P=3, seed=0)) as writer:
        writer.series("alpha_e", 3, 0.1)
    return tmp_path / "run"


def test_what_a_run_used_is_found_at_any_depth(run: Path) -> None:
    used = used_by(Trajectory(run))
    named = {(u.option, u.name) for u in used}
    assert {("topology", "lazy"), ("topology", "torus"), ("compressor", "TopK")} <= named
    assert {("option", "error_feedback"), ("option", "warmup"), ("world", "horovod")} <= named
    assert ("option", "moments_every") in named
    assert ("measured", "alpha_e") in named
    assert [u.name for u in used if not u.known] == ["my_task"]
    keys = {paper.key for paper in papers_of(used)}
    assert {"koloskova2019", "tang2018", "karimireddy2019", "sergeev2018", "zhang2021"} <= keys
    assert "lin2020" not in keys


def test_cite_prints_text_and_bibtex(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    assert "topology torus" in text and "look yourself: task my_task" in text
    assert main([str(run), "--bibtex"]) == 0
    text = capsys.readouterr().out
    assert text.count("@inproceedings{loshchilov2019,") == 1 and "% optimizer AdamW" in text
    assert main([str(run / "nothing")]) == 2
    assert "no such trajectory" in capsys.readouterr().err
