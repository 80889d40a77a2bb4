"""The options of a run: what a person may write, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hpc_localsgd.commands.configuration.config as config_module
from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.commands.assembly.cadences import checkpoint_cadence, probes
from hpc_localsgd.commands.configuration.config import Config, choices, parse, parser
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
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


def config(*argv: str) -> Config:
    return parse(argv).config


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(argv)
    return str(caught.value)


def in_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return f"--config={path}"


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


def test_print_config_prints_the_whole_configuration_and_ends(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--seed=5", "--algorithm=allreduce", "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["seed"] == 5
    assert config(in_file(tmp_path, printed)) == config("--seed=5", "--algorithm=allreduce")


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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--algorithm", "locl_sgd"], "unknown algorithm 'locl_sgd' - did you mean 'local_sgd'?"),
        (["--algorithm=locl_sgd"], "(allreduce"),
        (["--schedule=post_locl"], "unknown schedule 'post_locl' - did you mean 'post_local'?"),
        (["--task=mnist_of_today"], "unknown task 'mnist_of_today'"),
        (["--rate", "cosin"], "did you mean 'cosine'?"),
        (["--sede=3"], "sede"),
        (["--schedule.evry=3"], "evry"),
        (["--batch-per-worker=many"], "--batch-per-worker wants a whole number, got many"),
        (["--world=moon"], "world"),
        (["--optimizer.lr=0.5"], "the learning rate is set by --rate.lr 0.5"),
        (
            ["--optimizer=torch.optim.RMSprop", "--optimizer.lr=0.5"],
            "the learning rate is set by --rate.lr 0.5",
        ),
        (["--steps=5", "--epochs=2"], "--steps or --epochs, not both"),
        (["--rate.lr=0"], "rate.lr must be positive"),
        (["--schedule.every=0"], "post_local.every must be at least 1"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_named(argv: list[str], said: str) -> None:
    message = refusal(*argv)
    assert said in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--algoritm local_sgd", "no option --algoritm - did you mean --algorithm?"),
        ("--algoritm.average x", "did you mean --algorithm.average?"),
        ("--batch-per-workers=4", "did you mean --batch-per-worker?"),
        ("--schedule every --schedule.every 16", "schedule every has no option 'every': it has st"),
        ("--schedule.evry 3", "it has switch, every - did you mean --schedule.every?"),
        ("--algorithm gossip --algorithm.compressor sign", "algorithm gossip has no option 'comp"),
        ("--algorithm gossip --algorithm.topology.foo 3", "topology ring has no option 'foo'"),
        ("--schedule.steps 8", "it has switch, every - of schedule every it is one"),
        ("--optimizer AdamWW", "unknown optimizer 'AdamWW' - did you mean 'AdamW'? (ASGD"),
        ("--optimizer torch.optim.sgd_", "unknown optimizer 'sgd_' - did you mean 'SGD'?"),
        ("--optimizer AdamW --optimizer.momentum 0.1", "optimizer AdamW has no option 'momentum'"),
        ("--optimizer.momentum x", "--optimizer.momentum wants a number, got x"),
        ("--workers 3.5", "--workers wants a whole number, got 3.5"),
        ("--world moon", "--world wants auto, simulated, horovod, mpi or torch, got moon"),
        ("--resume maybe", "--resume wants true, false or auto, got maybe"),
        ("--overwrite maybe", "--overwrite wants true or false, got maybe"),
        ("--seed=1 maybe", "'maybe' is not the value of an option"),
        ("--out.folder x", "there is no --out.folder"),
    ],
)
def test_a_slip_is_answered_in_a_line_with_what_there_is(argv: str, said: str) -> None:
    message = refusal(*argv.split())
    assert said in message
    assert "\n" not in message and "class" not in message and "Namespace" not in message


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


@pytest.mark.parametrize(
    "name", ["evaluate", "spread", "deviations", "gradients", "uncertainty", "snapshot"]
)
def test_a_cadence_that_is_none_is_named(name: str) -> None:
    made = config(f"--{name}-every", "2 weeks")
    with pytest.raises(ConfigurationError, match=f"^--{name}-every '2 weeks' is not a duration"):
        probes(made, Units(10, 10, 100))


def test_a_cadence_of_checkpoints_may_be_a_time_and_says_so() -> None:
    made = config("--checkpoint-every", "10 minuts")
    with pytest.raises(ConfigurationError, match='^--checkpoint-every .* type "10 minutes", steps'):
        checkpoint_cadence(made, Units(10, 10, 100))


def test_options_do_not_depend_on_those_that_were_read_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One parser serves them all: defaults of a class that was named, and a wish to print, go."""
    before = parse([])
    parse(["--rate=constant", "--algorithm=diloco", "--optimizer=AdamW"])
    assert "wants a number" in refusal("--print_config", "--rate.lr=x")
    again = parse([])
    assert (again.config, again.text) == (before.config, before.text)
    assert capsys.readouterr().out == ""


def test_the_length_that_a_file_gives_is_taken_back_by_null(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 150\nworkers: 256\n")
    found = parse([f"--config={file}", "--steps=200", "--epochs", "null", "--workers=4"]).config
    assert (found.steps, found.epochs, found.workers) == (200, None, 4)
