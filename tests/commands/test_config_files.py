"""A run's options in a file: what it may hold, and where in it something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typed import config, in_file, refusal

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.schedules.local_steps import every, post_local


@pytest.mark.parametrize(
    "text",
    [
        "algorithm: allreduce\nschedule: every\nseed: 7\n",
        "algorithm: AllReduce\nschedule: {class_path: every, init_args: {steps: 1}}\nseed: 7\n",
        "algorithm:\n  class_path: allreduce\nschedule:\n  class_path: every\nseed: 7\n",
        "algorithm: hpc_localsgd.algorithms.allreduce.AllReduce\n"
        "schedule: {class_path: hpc_localsgd.schedules.local_steps.every}\nseed: 7\n",
    ],
)
def test_a_file_may_use_short_names_or_class_paths(tmp_path: Path, text: str) -> None:
    made = config(in_file(tmp_path, text))
    assert (made.algorithm, made.schedule, made.seed) == (AllReduce(), every(1), 7)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = in_file(tmp_path, "schedule: {class_path: post_local, init_args: {every: 8}}\nseed: 7\n")
    made = config(file, "--seed=8", "--schedule.switch=30")
    assert (made.schedule, made.seed) == (post_local(30, 8), 8)


def test_print_config_prints_the_whole_configuration_and_ends(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--seed=5", "--algorithm=allreduce", "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["seed"] == 5
    assert config(in_file(tmp_path, printed)) == config("--seed=5", "--algorithm=allreduce")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("algorithm: locl_sgd\n", "did you mean 'local_sgd'?"),
        ("algorithm: {class_path: locl_sgd}\n", "did you mean 'local_sgd'?"),
        ("sede: 3\n", "sede"),
        ("schedule: {class_path: every, init_args: {stps: 3}}\n", "stps"),
        ("seed: [\n", "line 2"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(in_file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " is empty: it wants lines like `seed: 1`"),
        ("- 1\n", " has no options: it wants"),
        ("seed: 1\nsteps: [\n", ", line 3: expected the node content"),
        ("seed: 1\nworker: 3\n", ", line 2: there is no option worker - did you mean workers?"),
        (
            "seed: 1\nbatch_per_worker: x\n",
            ", line 2: batch_per_worker wants a whole number, got x",
        ),
        (
            "seed: 1\nschedule:\n  class_path: every\n  init_args:\n    stps: 3\n",
            ", line 5: schedule every has no option 'stps': it has steps",
        ),
        ("seed: 1\nalgorithm: locl_sgd\n", ": unknown algorithm 'locl_sgd'"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    message = refusal("--workers=2", in_file(tmp_path, text))
    assert message.startswith(f"{tmp_path / 'run.yaml'}{said}")


def test_a_run_s_trajectory_is_no_configuration_but_has_one_beside_it(tmp_path: Path) -> None:
    slip = tmp_path / "trajectory.h5"
    slip.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert refusal("--config", str(slip)) == f"{slip} is not a text file"
    in_folder = tmp_path / "config.yaml"
    in_folder.write_text("seed: 1\n")
    assert refusal("--config", str(slip)).endswith(f"the options of the run are in {in_folder}")


def test_a_good_file_is_not_blamed_for_the_command_line(tmp_path: Path) -> None:
    assert refusal(in_file(tmp_path, "seed: 1\n"), "--workers=x").startswith("--workers wants")


def test_the_length_that_a_file_gives_is_taken_back_by_null(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 150\nworkers: 256\n")
    found = parse([f"--config={file}", "--steps=200", "--epochs", "null", "--workers=4"]).config
    assert (found.steps, found.epochs, found.workers) == (200, None, 4)


def test_a_name_may_have_any_letter(tmp_path: Path) -> None:
    assert (
        config(in_file(tmp_path, "out: runs/\U0001f600\u00fc\nseed: 7\n")).out
        == "runs/\U0001f600\u00fc"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "batch-per-worker: 8\n",
            "line 1: there is no option batch-per-worker - did you mean batch_per",
        ),
        ("print_config: true\n", "line 1: there is no option print_config (see"),
        ("out: !!binary gIGC\n", "a value is neither text nor a number"),
    ],
)
def test_what_no_file_can_say(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(in_file(tmp_path, text))


def test_what_is_no_text_is_refused() -> None:
    assert "'r\\udcfcn' is no text in this shell's encoding" in refusal("--out", "r\udcfcn")


def test_print_config_takes_no_value() -> None:
    assert "--print-config takes no value, or skip_default, got x" in refusal("--print-config=x")
