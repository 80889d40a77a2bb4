"""What is typed is what is meant: defaults of a named class, numbers, times, what stands twice."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hpc_localsgd.commands.assembly.cadences import checkpoint_cadence, probes, watchdog_s
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.commands.configuration.names import CHOICES, choices, class_at, optimizers
from hpc_localsgd.commands.configuration.yaml_text import AsTyped, load
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.schedules.rates import constant, cosine, multi_step
from hpc_localsgd.trajectory.safe_text import is_plain

UNITS = Units(10, 10, 1000)
TOP = {"task", "algorithm", "gradient", "schedule", "rate"}
ROUND = str.maketrans("[]", "()")


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str, name: str = "run.yaml") -> str:
        (tmp_path / name).write_text(text)
        return f"--config={tmp_path / name}"

    return write


def optimizer(*argv: str) -> dict[str, Any]:
    made = parse(argv).optimizer([torch.nn.Parameter(torch.zeros(1))])
    return {"class": type(made).__name__, **made.defaults}


def own(name: str) -> dict[str, Any]:
    """What torch itself makes of an optimiser without arguments."""
    item = getattr(torch.optim, name)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    return {
        "class": name,
        **(item(parameters, lr=0.1) if name == "SGD" else item(parameters)).defaults,
    }


@pytest.mark.parametrize("name", sorted(set(optimizers()) - {"Muon", "SparseAdam"}))
@pytest.mark.parametrize("where", ["words", "file", "file, short"])
def test_an_optimizer_that_is_named_is_torch_s_own(name: str, where: str, file: Any) -> None:
    told = {
        "words": lambda: f"--optimizer={name}",
        "file": lambda: file(f"optimizer: {{class_path: torch.optim.{name}}}\n"),
        "file, short": lambda: file(f"optimizer: {name}\n"),
    }[where]()
    found, expected = optimizer(told), own(name)
    assert {**found, "lr": 0} == {**expected, "lr": 0}


def test_the_defaults_of_the_project_are_those_of_the_optimizer_nobody_named(file: Any) -> None:
    found = optimizer()
    assert (found["class"], found["momentum"], found["weight_decay"]) == ("SGD", 0.9, 1e-4)
    found = optimizer("--optimizer.momentum=0.5")
    assert (found["momentum"], found["weight_decay"]) == (0.5, 1e-4)
    found = optimizer(file("optimizer: {init_args: {momentum: 0.5}}\n"))
    assert (found["momentum"], found["weight_decay"]) == (0.5, 1e-4)


def same(one: Any, other: Any) -> bool:
    """Whether two are equal; a list that was parsed is as good as the tuple of a default."""
    first, second = (repr(each).translate(ROUND).replace(",)", ")") for each in (one, other))
    return first == second


@pytest.mark.parametrize("option", sorted(TOP))
def test_a_named_class_has_its_own_defaults_whatever_it_is(option: str, file: Any) -> None:
    for name, path in choices(option).items():
        try:
            expected = class_at(path)()
        except TypeError:
            continue  # it has no defaults
        for told in (f"--{option}={name}", file(f"{option}: {name}\n")):
            assert same(getattr(parse([told]).config, option), expected)


def test_an_argument_that_is_given_counts_wherever_it_stands(file: Any) -> None:
    for words in (["--rate=constant", "--rate.warmup=9"], ["--rate.warmup=9", "--rate=constant"]):
        assert parse(words).config.rate == constant(0.1, warmup=9)
    named = file("rate: {class_path: multi_step, init_args: {lr: 0.3, factor: 0.5}}\n")
    assert parse([named, "--rate.warmup=9"]).config.rate == multi_step(
        0.3, 9, at=["50%", "75%"], factor=0.5
    )
    assert same(parse([named, "--rate=multi_step"]).config.rate, multi_step(0.3, factor=0.5))
    assert parse([named, "--rate=constant"]).config.rate == constant(0.1)
    second = file("rate: {class_path: cosine, init_args: {floor: 1e-3}}\n", "second.yaml")
    assert parse([named, second]).config.rate == cosine(0.1, floor=1e-3)


def test_arguments_of_a_class_within_another_go_with_it(file: Any) -> None:
    text = "algorithm: {class_path: local_sgd, init_args: {compressor: {class_path: sign, "
    named = file(text + "init_args: {error_feedback: false}}}}\n")
    given: Any = parse([named]).config.algorithm
    assert given.compressor.error_feedback is False
    other: Any = parse([named, "--algorithm.compressor=int8"]).config.algorithm
    assert other.compressor == class_at(choices("compressor")["int8"])()
    nothing: Any = parse([named, "--algorithm=allreduce"]).config.algorithm
    assert nothing.compressor is None


@pytest.mark.parametrize("lr", ["1e-3", "0.001", "0.5"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", None])
def test_a_rate_of_the_optimizer_is_refused_with_what_to_type(
    lr: str, name: str, file: Any
) -> None:
    words = [] if name is None else [f"--optimizer={name}"]
    said = refusal(*words, f"--optimizer.lr={lr}")
    assert said.startswith(f"--optimizer.lr {lr}: the learning rate is set by --rate.lr {lr}")
    inside = f"{{class_path: {name}, init_args: {{lr: {lr}}}}}"
    if name is not None:
        said = refusal(file(f"seed: 1\noptimizer: {inside}\n"))
        assert f"run.yaml, line 2: optimizer.lr {lr}: the learning rate is set by rate" in said
        assert "set by --rate.lr" in refusal(f"--optimizer={inside}")


def test_what_print_config_prints_makes_the_same_run(file: Any) -> None:
    options = ["--optimizer=AdamW", "--rate=constant", "--gradient=sam", "--checkpoint-every=10:00"]
    printed = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(printed):
        parse([*options, "--print_config"])
    assert "lr" not in yaml.safe_load(printed.getvalue())["optimizer"]["init_args"]
    assert parse([file(printed.getvalue())]).text == parse(options).text
    assert parse([file(parse(options).text)]).text == parse(options).text


@pytest.mark.parametrize(("text", "seconds"), [("10:00", 600), ("1:30:00", 5400), ("1-12", 129600)])
def test_a_time_as_slurm_writes_it_is_a_time(text: str, seconds: int, file: Any) -> None:
    for told in ([f"--checkpoint-every={text}"], [file(f"checkpoint_every: {text}\n")]):
        assert checkpoint_cadence(parse(told).config, UNITS) == (0, seconds)
    for told in ([f"--watchdog={text}"], [file(f"watchdog: {text}\n")]):
        assert watchdog_s(parse(told).config) == seconds


@pytest.mark.parametrize("name", ["evaluate", "spread", "deviations", "gradients", "snapshot"])
def test_a_time_where_steps_are_counted_is_refused(name: str, file: Any) -> None:
    for told in ([f"--{name}-every", "10:00"], [file(f"{name}_every: 10:00\n")]):
        with pytest.raises(ConfigurationError, match=f"--{name}-every '10:00' is a time, and"):
            probes(parse(told).config, UNITS)
    for told in (["--steps", "1:30:00"], [file("steps: 1:30:00\n")]):
        with pytest.raises(ConfigurationError, match="'1:30:00' is a time, and"):
            UNITS.steps(parse(told).config.steps or 0)


@pytest.mark.parametrize("text", ["99:99:99", "1:60", "0:10:99", "1-24", "1-0:60"])
def test_a_clock_goes_to_59(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^--watchdog '{text}' is not a time: hours are followed by"
    ):
        watchdog_s(parse([f"--watchdog={text}"]).config)


@pytest.mark.parametrize("option", ["seed", "workers", "batch_per_worker"])
@pytest.mark.parametrize("text", ["10:00", "1:30:00", "0x1F", "0b11", "0o17", "2026-01-01"])
def test_a_whole_number_is_of_decimal_digits(option: str, text: str, file: Any) -> None:
    for told in (f"--{option}={text}", file(f"{option}: {text}\n")):
        assert f"wants a whole number, got {text}" in refusal(told)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("010", 10.0), ("1_000", 1000.0), ("+.5", 0.5), ("2.", 2.0)]
)
def test_a_number_is_what_it_looks_like(text: str, value: float, file: Any) -> None:
    assert parse([f"--rate.lr={text}"]).config.rate.lr == value
    inside = f"rate: {{class_path: constant, init_args: {{lr: {text}}}}}\n"
    assert parse([file(inside)]).config.rate.lr == value
    assert "wants a number, got 1:30.5" in refusal("--rate.lr=1:30.5")


@pytest.mark.parametrize(
    "text",
    [
        *("a", "0.1", "1_0", "_", "a.b.", "1.2.3", "0x1F", "true", "e1"),
        *("5%", "a%b.", "/a", "a/b/", "10 minutes", "a b/c 5%"),
    ],
)
def test_a_plain_text_is_what_yaml_makes_of_it(text: str) -> None:
    assert is_plain(text) and yaml.load(text, Loader=AsTyped) == load(text) == text  # noqa: S506
    assert not any(is_plain(odd + text) for odd in (".", "-", "%", "&", "!", "é", " ", "\x07"))
    assert not any(is_plain(text + odd) for odd in (":", "\n", " ", ",", "]", "#", "é", "\x07"))
    assert not any(is_plain(f"a{odd}{text}") for odd in ("  ", " .", " %", " #", ": ", "\n", "\t"))


@pytest.mark.parametrize("text", ["no", "on", "2026-01-01", "010", "10:00", "1e3", "null", "0x1F"])
def test_a_text_stays_what_was_typed(text: str, file: Any) -> None:
    assert parse([f"--out={text}"]).config.out == text
    assert parse([file(f"out: {text}\n")]).config.out == text


def test_a_key_that_stands_twice_and_one_without_value_are_refused(file: Any) -> None:
    said = refusal(file("seed: 1\nworkers: 2\nseed: 2\n"))
    assert "run.yaml, line 3: seed stands twice, in line 1 too: keep one" in said
    inside = "schedule:\n  class_path: every\n  init_args:\n    steps: 1\n    steps: 2\n"
    assert "line 5: steps stands twice, in line 4 too" in refusal(file(inside))
    for key in yaml.safe_load(parse([]).text):
        assert f"line 2: {key} is left empty: give it a value" in refusal(file(f"\n{key}:\n"))
    assert parse([file("workers: null\nsteps: null\n")]).config.steps is None
    assert "seed wants a whole number, got" in refusal(file("seed: null\n"))


def test_an_option_that_is_given_twice_is_told_about() -> None:
    made = parse(["--seed=1", "--schedule=qsr", "--seed", "2", "--schedule=every", "--steps=9"])
    assert (made.config.seed, made.config.schedule) == (2, every(1))
    assert made.notes == (
        "--seed is given twice: 2 counts, 1 does not",
        "--schedule is given twice: hpc_localsgd.schedules.local_steps.every counts, "
        "hpc_localsgd.schedules.local_steps.qsr does not",
    )
    assert parse(["--seed=1", "--seed=1"]).notes == ()


def test_every_kind_of_class_is_looked_at() -> None:
    assert TOP | {"topology", "compressor"} == set(CHOICES)


def test_a_file_that_nests_without_end_is_refused(file: Any) -> None:
    assert "nested too deeply" in refusal(file("seed: " + "[" * 100_000))
