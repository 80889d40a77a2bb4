"""What a sweep is asked for: options, named choices, seeds; and the runs that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc_localsgd.commands.sweep import manifest
from hpc_localsgd.commands.sweep.dotted_options import flat, merged, of_words, words
from hpc_localsgd.commands.sweep.members import Member, members
from hpc_localsgd.commands.sweep.request import read, request
from hpc_localsgd.errors import ConfigurationError

FILE = """
out: runs/x
options: {task: digits, schedule: every, rate.lr: 1e-2}
grid:
  method:
    parallel: {algorithm: allreduce, schedule.steps: 1}
    two levels: {algorithm: hierarchical, algorithm.blocks: [2, 4], schedule.steps: 2}
  fabric: [1GbE, 10GbE]
seeds: 0-2
"""


def grid(path: Path, text: str = FILE, **said: Any) -> list[Member]:
    path.write_text(text)
    asked = request(read(str(path)), {}, **said)
    return members(asked.options, asked.axes, asked.seeds)


def test_nested_and_dotted_options_are_typed_alike() -> None:
    nested = {"schedule": {"class_path": "post_local", "init_args": {"switch": "50%", "every": 4}}}
    dotted = {"schedule": "post_local", "schedule.switch": "50%", "schedule.every": 4}
    assert flat(nested) == flat(dotted) == {k: str(v) for k, v in dotted.items()}
    assert words(flat({"a.b": [2, "x, y"], "a": True, "config": "f"})) == [
        "--config=f",
        "--a=true",
        '--a.b=[2, "x, y"]',
    ]
    typed = of_words(["--schedule", "every", "--figures", "--schedule.steps=4"])
    assert typed == {"schedule": "every", "figures": "true", "schedule.steps": "4"}
    with pytest.raises(ConfigurationError, match="'digits' behind `--`"):
        of_words(["digits"])


def test_another_class_comes_without_the_arguments_of_the_one_before() -> None:
    before = {"schedule": "every", "schedule.steps": "4", "steps": "9"}
    assert merged(before, {"schedule": "qsr"}) == {"schedule": "qsr", "steps": "9"}
    assert merged(before, {"schedule": "every"}) == before
    assert merged(before, {"schedule.steps": "8"}) == {**before, "schedule.steps": "8"}


def test_the_runs_are_all_choices_with_all_seeds(tmp_path: Path) -> None:
    runs = grid(tmp_path / "g.yaml")
    assert len(runs) == 2 * 2 * 3
    assert [run.title for run in runs[2:4]] == [
        "parallel, fabric 1GbE, seed 2",
        "parallel, fabric 10GbE, seed 0",
    ]
    assert runs[0].options == {
        "task": "digits",
        "schedule": "every",
        "rate.lr": "1e-2",
        "algorithm": "allreduce",
        "schedule.steps": "1",
        "fabric": "1GbE",
    }
    assert "--algorithm.blocks=[2, 4]" in runs[-1].words(Path("o"))
    assert runs[-1].words(Path("o"))[-3:] == [
        "--seed=2",
        f"--out=o/{runs[-1].name}",
        "--resume=auto",
    ]
    assert len({run.name for run in runs}) == len(runs)
    assert runs[0].name.startswith("parallel_fabric=1GbE_seed-0-")


def test_a_run_keeps_its_folder_when_the_grid_around_it_changes(tmp_path: Path) -> None:
    names = [run.name for run in grid(tmp_path / "g.yaml")]
    larger = FILE.replace("[1GbE, 10GbE]", "[hdr200, 10GbE, 1GbE]").replace("0-2", "[5, 0, 1, 2]")
    assert set(names) < {run.name for run in grid(tmp_path / "g.yaml", larger)}
    other = grid(tmp_path / "g.yaml", FILE.replace("1e-2", "2e-2"))
    assert not set(names) & {run.name for run in other}


def test_a_file_of_options_is_a_part_of_what_a_run_is(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    found = []
    for text in ("steps: 3", "steps: 4"):
        file.write_text(text)
        found.append(members({"config": str(file)}, {}, [0])[0].name)
    assert found[0] != found[1]


def test_the_command_line_counts_and_adds(tmp_path: Path) -> None:
    runs = grid(tmp_path / "g.yaml", vary=["steps=10,20", "batch-per-worker=4"], seeds="7")
    assert len(runs) == 2 * 2 * 2 and {run.seed for run in runs} == {7}
    assert {run.options["steps"] for run in runs} == {"10", "20"}
    assert {run.options["batch_per_worker"] for run in runs} == {"4"}
    blocks = request({}, {}, ["algorithm.blocks=[2,4],[2]"], "0", "o").axes["algorithm.blocks"]
    assert list(blocks) == ["[2, 4]", "[2]"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gird: {}", "has no 'gird' - did you mean 'grid'"),
        ("out: x\ngrid: {method: 3}", "grid: method wants a list of values, or named choices"),
        ("out: x\ngrid: {steps: [1, 1]}", "steps has a value twice"),
        ("out: x\nseeds: [1, 1]", "none twice"),
        ("out: x\nseeds: 3-1", "type them as 0,1,2 or 0-4"),
        (
            "out: x\noptions: {seed: 3}",
            "seed is not an option of a sweep's runs: seeds have a line",
        ),
        ("out: x\ngrid: {m: {a: {out: y}}}", "out is not an option of a sweep's runs"),
        ("seeds: 1", "a sweep needs a folder"),
        ("out: x\noptions: 3", "`options` of a sweep has lines like"),
    ],
)
def test_what_is_no_sweep_is_said_in_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        grid(tmp_path / "g.yaml", text)
    assert said in str(refused.value), refused.value


def test_a_grid_of_millions_is_refused_before_it_is_made() -> None:
    axes = {str(i): {str(j): {"steps": str(j)} for j in range(10)} for i in range(7)}
    with pytest.raises(ConfigurationError, match="10,000,000 runs"):
        members({}, axes, [0])


def test_the_list_of_runs_comes_back(tmp_path: Path) -> None:
    runs = grid(tmp_path / "g.yaml")
    manifest.write(runs, tmp_path / "out")
    assert manifest.read(tmp_path / "out") == runs
    file = tmp_path / "out" / manifest.FILE
    for text in (file.read_text().replace('"name": "p', '"name": "../p'), "{}", "x"):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match="not the list of a sweep's runs"):
            manifest.read(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="not the folder of a sweep"):
        manifest.read(tmp_path)
