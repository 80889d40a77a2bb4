"""The options of a run: their names, defaults and spellings, and the text that makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typed import config, in_file

import hpc_localsgd.commands.configuration.config as config_module
from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.commands.configuration.config import choices, parse, parser
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import every, phases, post_local, qsr
from hpc_localsgd.schedules.rates import constant, cosine
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.tasks.digits import digits

# What people have written into scripts and files. A change here is a change for all of them.
OPTIONS = """
    --accumulate --algorithm --batch_per_worker --batchnorm --batchnorm_batches --channels_last
    --checkpoint_every --checkpoint_keep --compile --config --deviations_every --device --dtype
    --epochs --evaluate_every --evaluate_workers --extend --fabric --figures --gradient
    --gradients_every --help --init_from --init_with --label_noise_from --log_every
    --log --log_format --moments_every --momentum_at_sync --on_nan --optimizer --out --overwrite
    --partition --precision --print_config --probe_samples --rate --remainder --replicas --resume
    --resume_from_mean --sampling --save_model --schedule --seed --smoke --snapshot_dtype
    --snapshot_every --snapshot_workers --spread_every --steps --task --trust --uncertainty_every
    --watchdog --workers --world
"""
SHORT_NAMES = {
    "task": {"digits"},
    "algorithm": {"allreduce", "local_sgd"},
    "schedule": {"every", "post_local", "phases", "qsr"},
    "rate": {"constant", "multi_step", "cosine"},
}
DEFAULTS: dict[str, Any] = {
    "task": digits(),
    "algorithm": LocalSGD(),
    "schedule": post_local("50%", 16),
    "rate": cosine(0.1, "5%"),
    "momentum_at_sync": "keep",
    "batchnorm": "reestimate",
    "workers": None,
    "world": "auto",
    "batch_per_worker": 16,
    "seed": 0,
    "dtype": "float32",
    "out": "runs/digits",
}


def test_no_option_has_come_or_gone() -> None:
    known = parser("train")._actions
    names = {text for action in known for text in action.option_strings if text.startswith("--")}
    top = {name for name in names if "." not in name and not name.endswith("+")}
    assert top == set(OPTIONS.split())


def test_no_short_name_has_gone_and_every_one_works() -> None:
    for option, names in SHORT_NAMES.items():
        assert names <= set(choices(option))
        for name in choices(option):
            made = getattr(config(f"--{option}={name}"), option)
            assert f"{type(made).__module__}.{type(made).__name__}" == choices(option)[name]


def test_the_defaults_have_not_changed() -> None:
    made = config()
    assert {name: getattr(made, name) for name in DEFAULTS} == DEFAULTS
    optimizer = parse([]).optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.9, 1e-4)


@pytest.mark.parametrize(
    "spelling",
    [
        ["--algorithm", "allreduce"],
        ["--algorithm=allreduce"],
        ["--algorithm", "AllReduce"],
        ["--algorithm", "hpc_localsgd.algorithms.allreduce.AllReduce"],
    ],
)
def test_a_class_has_a_short_name_its_own_name_and_a_path(spelling: list[str]) -> None:
    assert config(*spelling).algorithm == AllReduce()


def test_dotted_options_set_fields_of_the_default_and_of_a_named_class() -> None:
    assert config("--schedule.every", "8").schedule == post_local("50%", 8)
    assert config("--schedule=every", "--schedule.steps=8").schedule == every(8)
    assert config("--schedule=qsr", "--schedule.alpha=.2").schedule == qsr(alpha=0.2)
    assert config("--task.model=conv", "--task.norm=batch").task == digits("conv", "batch")


def test_another_class_has_its_own_defaults() -> None:
    """So `--rate constant` has no warm-up, which the cosine that nobody names has."""
    assert config("--rate=constant", "--rate.lr=.3").rate == constant(0.3)
    assert config("--rate=constant", "--rate.warmup=5%").rate == constant(0.1, warmup="5%")
    assert config("--rate=multi_step").rate.warmup == 0
    assert config("--rate=cosine").rate == cosine(0.1)


@pytest.fixture
def other_task(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A task with options that digits has too, for a while."""

    @dataclass(frozen=True)
    class other(TaskSpec):
        model: str = "large"
        norm: str = "batch"

        def build(self, context: Any) -> Any:
            raise NotImplementedError

    other.__module__, other.__qualname__ = "hpc_localsgd.tasks.digits", "other"
    monkeypatch.setattr("hpc_localsgd.tasks.digits.other", other, raising=False)
    config_module.choices.cache_clear()
    yield "other"
    config_module.choices.cache_clear()


@pytest.mark.usefixtures("other_task")
@pytest.mark.parametrize("argv", [["--task=other"], ["--task", "other"], ["--config={file}"]])
def test_another_task_starts_from_its_own_defaults(tmp_path: Path, argv: list[str]) -> None:
    """A model of the default task is no model of another."""
    in_file(tmp_path, "task: {class_path: other}\n")
    argv = [word.format(file=tmp_path / "run.yaml") for word in argv]
    task: Any = config(*argv).task
    assert (task.model, task.norm) == ("large", "batch")
    task = config(*argv, "--task.norm=group").task
    assert (task.model, task.norm) == ("large", "group")


def test_lists_may_be_given() -> None:
    made = config("--schedule=phases", '--schedule.at=["20%", 500]', "--schedule.every=[1, 4, 8]")
    assert made.schedule == phases(["20%", 500], [1, 4, 8])
    assert config("--rate=multi_step", "--rate.at=[5 epochs]").rate.at == ["5 epochs"]


def test_hyphens_and_underscores_are_the_same() -> None:
    assert config("--batch-per-worker", "4").batch_per_worker == 4
    assert config("--batch_per_worker=4").batch_per_worker == 4
    assert config("--momentum-at-sync=average").momentum_at_sync == "average"


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--overwrite"], True),
        (["--overwrite", "--seed=1"], True),
        (["--seed=1", "--overwrite"], True),
        (["--overwrite", "true"], True),
        (["--overwrite", "false"], False),
        (["--overwrite=false"], False),
        (["--overwrite", "False"], False),
        ([], False),
    ],
)
def test_a_flag_may_stand_bare(argv: list[str], value: bool) -> None:
    assert config(*argv).overwrite is value
    assert config("--figures", "false").figures is False


def test_durations_reach_the_objects_as_written() -> None:
    made = config("--steps=3000", "--evaluate-every", "1 epoch", "--schedule.switch=2e6 samples")
    assert (made.steps, made.evaluate_every) == (3000, "1 epoch")
    assert made.schedule == post_local("2e6 samples", 16)


def test_the_text_makes_the_same_run_again_and_leaves_out_where_it_is_written(
    tmp_path: Path,
) -> None:
    options = ["--algorithm=allreduce", "--rate=constant", "--rate.lr=.3", "--epochs=2"]
    options += ["--optimizer=torch.optim.AdamW", "--optimizer.weight_decay=.1", "--workers=4"]
    first = parse([*options, "--out=elsewhere", "--overwrite"])
    again = parse([in_file(tmp_path, first.text)])
    assert again.text == first.text
    assert (again.config.algorithm, again.config.rate) == (AllReduce(), constant(0.3))
    assert set(yaml.safe_load(first.text)) == {
        name.removeprefix("--")
        for name in OPTIONS.split()
        if name not in ("--help", "--print_config", "--config", "--trust")
        and name not in ("--out", "--resume", "--resume_from_mean", "--extend")
        and name
        not in (
            "--init_from",
            "--init_with",
            "--partition",
            "--label_noise_from",
            "--moments_every",
            "--uncertainty_every",
        )  # written where they are asked for
        and name
        not in ("--overwrite", "--log", "--log_every", "--log_format", "--figures", "--save_model")
    }


def test_a_division_of_the_samples_is_written_where_it_is_one() -> None:
    assert "partition" not in parse([]).text and parse(["--partition=iid"]).text == parse([]).text
    assert yaml.safe_load(parse(["--partition=dirichlet:0.3"]).text)["partition"] == "dirichlet:0.3"
    with pytest.raises(ConfigurationError, match="type iid, disjoint, or dirichlet:ALPHA"):
        parse(["--partition=shards"])


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "1000")  # wider than any line: none is wrapped
    with pytest.raises(SystemExit) as ended:
        parse(["--help-all"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_option_as_it_is_typed(help_text: str) -> None:
    typed = [name.replace("_", "-") for name in OPTIONS.split()]
    assert [name for name in typed if name not in help_text] == []
    assert "--batch_per_worker" not in help_text
    assert "Samples per worker and step" in help_text


def test_help_names_what_can_be_chosen_by_its_short_names(help_text: str) -> None:
    for option in ("task", "algorithm", "gradient", "schedule", "rate"):
        assert f"One of: {', '.join(sorted(choices(option)))};" in help_text
    assert "--algorithm.help NAME shows the options of one. (default: local_sgd)" in help_text
    assert "SGD, SparseAdam;" in help_text
    assert "known subclasses" not in help_text and "hpc_localsgd.LocalSGD" not in help_text


def test_the_optimizer_is_any_of_torch() -> None:
    made = parse(["--optimizer=torch.optim.Adam", "--optimizer.betas=[0.8, 0.99]"])
    optimizer = made.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam)
    assert tuple(optimizer.defaults["betas"]) == (0.8, 0.99)


@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "Rprop"])
def test_an_optimizer_s_own_default_rate_is_nobody_s_wish(name: str) -> None:
    made = parse([f"--optimizer=torch.optim.{name}"])
    assert type(made.optimizer([torch.nn.Parameter(torch.zeros(1))])).__name__ == name
