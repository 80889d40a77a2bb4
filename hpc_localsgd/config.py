"""The options of a run, and how a command line and YAML files become them.

Everything is jsonargparse: YAML files with `--config`, dotted overrides, help from docstrings. To
it come short names (`--algorithm local_sgd`, see `names`) and other words for what it refuses
(`refusals`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_loader

from hpc_localsgd import config_file, trust, yaml_text
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.command_line import expand, options, overruled
from hpc_localsgd.environment.launch import detect
from hpc_localsgd.given import KINDS, check_rate_is_elsewhere, settle
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.gradients.plain import plain
from hpc_localsgd.help_text import HelpText
from hpc_localsgd.names import CHOICES, choices
from hpc_localsgd.plan.rates import Rate, cosine
from hpc_localsgd.plan.schedule import Schedule, post_local
from hpc_localsgd.refusals import in_words, keys, written
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.trajectory.text import check_yaml
from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.values import check as check_values

NOT_THE_RUN = (  # may differ when resuming
    "config",
    "trust",
    "out",
    "resume",
    "resume_from_mean",
    "extend",
    "overwrite",
    "figures",
)
LENGTH = ("steps", "epochs")  # may differ too, where `extension` allows it
NO_NUMBERS = ("checkpoint_every", "checkpoint_keep", "watchdog")  # may differ too, and are kept
SGD = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9, "weight_decay": 1e-4}}


@dataclass
class Config:
    """A run of Local SGD or one of its family.

    Durations take any unit: 3000 (steps), "250 epochs", "2e6 samples", "50%" (of the run).

    Args:
        task: Model and data.
        algorithm: What is communicated, and what is done with it.
        gradient: Where the gradient is taken: at the worker's parameters or elsewhere (SAM, noise).
        schedule: Length in steps of the round that starts now.
        rate: Learning rate of a step.
        momentum_at_sync: Of the optimiser's state at the end of a round of local steps: each worker
            keeps its own, it is averaged (and sent), or reset.
        batchnorm: Of BatchNorm's statistics: re-estimated on training batches before an
            evaluation, averaged at every exchange, or local.
        batchnorm_batches: Training batches used to re-estimate them, by all workers together.
        workers: K, model replicas; a multiple of the number of ranks. Default: one a rank.
        world: Where workers live: simulated (this process), horovod, mpi, torch (torch's own
            collectives). auto takes torch under torchrun and, under another launcher of several
            ranks, horovod, or mpi where Horovod is missing.
        fabric: For the simulated world, whose seconds of communication are modelled: 1GbE, 10GbE,
            100GbE, hdr200, nvlink.
        steps: Length of the run in optimiser steps (any unit but %). Give this or epochs.
        epochs: Length of the run in epochs. Default: 60 epochs.
        batch_per_worker: Samples per worker and step.
        sampling: Deal one permutation per epoch to the workers, or draw with replacement.
        remainder: Samples left at the end of an epoch: carried into the next or dropped.
        seed: Of the initial parameters and the order of the data.
        dtype: Of the parameters.
        precision: Of convolutions and matrix products, by autocast: bf16 or fp16 (which scales the
            loss); the parameters stay in float32.
        accumulate: Micro-batches a worker's batch is cut into, to save memory.
        channels_last: Images in NHWC order, which tensor cores want.
        compile: torch.compile the model for training.
        replicas: Several workers of a process in one batched program (vmap) or one after another
            (loop). auto: by a rule on a CPU, by measuring the first batch on a GPU.
        device: auto takes a GPU if there is one for this rank.
        out: Folder for trajectory.h5, config.yaml, figures and checkpoints.
        resume: Go on from the last checkpoint in --out; auto does so if there is one and starts
            anew if there is none.
        resume_from_mean: When the last checkpoint is of another number of workers, start from the
            mean of theirs, at the same share of the run.
        extend: With --resume and other --steps or --epochs, go on although the steps so far had
            other rates or rounds than a run of that length has. Without it that is refused.
        overwrite: Replace the run in --out, with its checkpoints, figures, report and measured
            curvature; files of your own stay.
        evaluate_every: Cadence of test loss and accuracy of the mean model.
        evaluate_workers: Also evaluate every worker's own model.
        spread_every: Cadence of the spread, mean_k ||x_k - mean||^2: before an exchange that makes
            all workers equal, after one that leaves them different (gossip).
        deviations_every: Cadence, at the same moment, of what the workers' deviations from their
            mean say: eigenvalues of their covariance, loss at the workers against loss at the mean,
            curvature along the deviations. Takes no gradient; 0 for never.
        gradients_every: Cadence, at the same moment, of the effective learning rate, the part of
            the step orthogonal to the gradient and the gradient noise scale; 0 for never.
        probe_samples: Training samples of the fixed subset these two are measured on.
        snapshot_every: Cadence of parameter snapshots; 0 for none.
        snapshot_workers: Snapshots also keep every worker's parameters.
        snapshot_dtype: Of stored snapshots.
        checkpoint_every: Cadence of checkpoints, in time ("10 minutes") or any other unit; at ends
            of rounds, and within a round that is longer. 0 for the end only.
        checkpoint_keep: How many checkpoints to keep.
        on_nan: When a worker's numbers are no longer finite: stop the run, or put the worker into
            quarantine: it is left out of the exchange and goes on from the mean of the others.
        watchdog: Least time without a step until the job is taken for hung and ended (exit status
            86); the bound grows with the longest round of the plan, and a start may take three
            times as long. 0 for never.
        figures: Draw accuracy.png, spread.png and time.png at the end.
        smoke: Only try the configuration out, in seconds: the same model, algorithm and shapes on
            synthetic data, with few workers, samples and steps. The run is <out>-smoke.
    """

    task: TaskSpec = field(default_factory=digits)
    algorithm: Algorithm = field(default_factory=LocalSGD)
    gradient: GradientAt = field(default_factory=plain)
    schedule: Schedule = field(default_factory=lambda: post_local(switch="50%", every=16))
    rate: Rate = field(default_factory=lambda: cosine(lr=0.1, warmup="5%"))
    momentum_at_sync: Literal["keep", "average", "reset"] = "keep"
    batchnorm: Literal["reestimate", "average", "local"] = "reestimate"
    batchnorm_batches: int = 100
    workers: int | None = None
    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    fabric: str = "10GbE"
    steps: int | str | None = None
    epochs: float | None = None
    batch_per_worker: int = 16
    sampling: Literal["permutation", "replacement"] = "permutation"
    remainder: Literal["carry", "drop"] = "carry"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    replicas: Literal["auto", "vmap", "loop"] = "auto"
    device: str = "auto"
    out: str = "runs/digits"
    resume: bool | Literal["auto"] = False
    resume_from_mean: bool = False
    extend: bool = False
    overwrite: bool = False
    evaluate_every: int | str = "2%"
    evaluate_workers: bool = False
    spread_every: int | str = "0.5%"
    deviations_every: int | str = 0
    gradients_every: int | str = 0
    probe_samples: int = 512
    snapshot_every: int | str = 0
    snapshot_workers: bool = False
    snapshot_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    checkpoint_every: int | str = "10 minutes"
    checkpoint_keep: int = 2
    on_nan: Literal["stop", "quarantine"] = "stop"
    watchdog: int | str = "10 minutes"
    figures: bool = True
    smoke: bool = False


FLAGS = frozenset(f.name for f in fields(Config) if isinstance(f.default, bool))
MakeOptimizer = Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Resolved:
    """A parsed configuration: the objects, and the text that makes them again.

    Attributes:
        config: The options as objects.
        optimizer: Makes the torch optimiser from parameter groups.
        text: The whole configuration as YAML, without where it runs and where it is written.
        notes: What whoever typed it may have overlooked.
    """

    config: Config
    optimizer: MakeOptimizer
    text: str
    notes: tuple[str, ...] = ()


def parser(prog: str) -> ArgumentParser:
    """The parser of everything that takes the options of a run."""
    set_loader("yaml_short_names", _load, (yaml.YAMLError, ConfigurationError))
    _import_choices()
    about = (Config.__doc__ or "").split("\n\n")[0]
    yaml_text.read_numbers_as_typed()
    made = Parser(prog=prog, description=about, exit_on_error=False, formatter_class=HelpText)
    made.parser_mode = "yaml_short_names"
    made.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options")
    made.add_class_arguments(Config, nested_key=None)
    made.add_argument(
        "--optimizer",
        type=MakeOptimizer,
        default=SGD,
        help="Local optimiser, a class of torch.optim. Its learning rate is --rate.",
    )
    add_trust(made)
    return made


def add_trust(made: ArgumentParser) -> None:
    """Give a parser the option of everything that makes objects from a record."""
    made.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust.HELP)


def parse(argv: Sequence[str], prog: str = "python -m hpc_localsgd.train") -> Resolved:
    """Options of a run from a command line.

    Raises:
        ConfigurationError: Unknown names or keys, or contradicting options.
        SystemExit: jsonargparse refused the command line (it has printed why), or printed help.
    """
    return resolve(parser(prog), argv)


def recorded(text: str, trusted: Sequence[str] = ()) -> Resolved:
    """Options that a run has recorded, which may be anybody's.

    Args:
        text: As YAML.
        trusted: Modules it may name, beside what this package and torch ship.

    Raises:
        ConfigurationError: It is not understood, or names something else.
    """
    prog = "the configuration of the run"
    with tempfile.TemporaryDirectory() as folder, trust.guarded(trusted, recorded=True):
        file = Path(folder) / "config.yaml"
        file.write_text(text)
        try:
            return parse(["--config", str(file)], prog)
        except ConfigurationError as error:
            said = str(error).replace(f"{file}", "its text").removesuffix(f" (see {prog} --help)")
            raise ConfigurationError(
                f"the configuration that the run recorded is not understood: {said}"
            ) from error


def resolve(made: ArgumentParser, argv: Sequence[str]) -> Resolved:
    """Options of a run from a command line, by a parser that may have further options."""
    with trust.guarded(trust.trusted_in(argv)):
        return _resolved(made, argv)


def _resolved(made: ArgumentParser, argv: Sequence[str]) -> Resolved:
    parsed = arguments(made, argv)
    names = {f.name for f in fields(Config)}
    check_values(vars(parsed), get_type_hints(Config))
    try:
        objects = made.instantiate(without_rate(parsed))
    except (TypeError, ValueError, ArithmeticError) as error:  # of a class, which knows its values
        raise ConfigurationError(f"these options make no run: {_first_line(error)}") from error
    config = Config(**{name: objects[name] for name in names})
    if config.steps is not None and config.epochs is not None:
        raise ConfigurationError("give --steps or --epochs, not both")
    if config.checkpoint_keep < 1:
        raise ConfigurationError(f"--checkpoint-keep {config.checkpoint_keep}: keep at least one")
    notes = tuple(overruled(expand(argv, FLAGS)))
    return Resolved(config, objects.optimizer, _text(made, parsed), notes)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def arguments(made: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """What a command line gives a parser, with short names and bare switches.

    Args:
        made: The parser, which does not exit on errors.
        argv: The command line.

    Raises:
        ConfigurationError: Unknown options or values.
        SystemExit: Help was printed.
    """
    with trust.guarded(trust.trusted_in(argv)):
        return _arguments(made, argv)


def _arguments(made: ArgumentParser, argv: Sequence[str]) -> Namespace:
    words = expand(argv, FLAGS)
    _check_names(made, words)
    for path in config_file.named(words):
        trust.look_at(path)
    check_rate_is_elsewhere(words, _load)
    twice = overruled(words)
    if twice and not _has_files(made) and not detect(os.environ).rank:
        sys.stderr.write(f"{made.prog}: {'; '.join(twice)}\n")
    settled, named = settle(words, _load, _default_classes(made))
    for option, path in named.items():
        made.set_defaults({option: {"class_path": path}})
    try:
        parsed = made.parse_args(settled)
        if parsed.get("trust") not in (None, trust.trusted_in(words)):
            raise ConfigurationError("--trust is typed on the command line: no file can say it")
        return parsed
    except ArgumentError as error:  # without the page of usage that argparse prints
        said = _explained(made, words, str(error))
        raise ConfigurationError(f"{said} (see {made.prog} --help)") from error


def _check_names(made: ArgumentParser, words: Sequence[str]) -> None:
    """Whether there are such options: no beginning of a name stands for the whole.

    Raises:
        ConfigurationError: There is none.
    """
    known = _names(made)
    for _, option, _ in options(words):
        if option.partition(".")[0].removesuffix("+") not in known:
            said = in_words(f"unrecognized arguments: --{option}", known)
            raise ConfigurationError(f"{said} (see {made.prog} --help)")


def _has_files(made: ArgumentParser) -> bool:
    """Whether these are the options of a run, with files and wrapping job scripts."""
    return any(action.dest == "config" for action in made._actions)


def _default_classes(made: ArgumentParser) -> dict[str, str]:
    """Option -> path of the class that it is if none is named."""
    found = {}
    for action in made._actions:
        if action.dest in KINDS:
            inside = (
                vars(action.default) if isinstance(action.default, Namespace) else action.default
            )
            found[action.dest] = inside["class_path"]
    return found


def _explained(made: ArgumentParser, words: Sequence[str], message: str) -> str:
    """A refusal in words; with the line of a file where the file alone is refused likewise."""
    for path in config_file.named(words):
        try:
            made.parse_args([f"--config={path}"])
        except ArgumentError as error:
            if str(error) == message and Path(path).is_file():
                where = config_file.place(path, keys(message))
                return f"{where}: {in_words(message, _names(made), written)}"
    return in_words(message, _names(made))


def _names(made: ArgumentParser) -> list[str]:
    """All options of a parser that are no part of another."""
    known = [text for action in made._actions for text in action.option_strings]
    return [text[2:] for text in known if text.startswith("--") and "." not in text]


def _import_choices() -> None:
    for option in CHOICES:
        choices(option)


def _load(text: str) -> Any:
    """YAML as it was typed, with the short names in it replaced by class paths."""
    try:
        check_yaml(text)
        return _with_class_paths(trust.check_whole(yaml_text.load(text)))
    except RecursionError as error:
        raise yaml.YAMLError("it contains itself") from error


def _with_class_paths(value: Any, option: str = "") -> Any:
    """A loaded value, in which what belongs to an option of `CHOICES` is a class path."""
    if isinstance(value, dict):
        named = {k: _with_class_paths(v, str(k)) for k, v in value.items()}
        if "class_path" in value:
            named["class_path"] = trust.chosen(option, value["class_path"])
            trust.vet(option, named["class_path"])
        return named
    if isinstance(value, list):
        return [_with_class_paths(each) for each in value]
    return trust.chosen(option, value)


def without_rate(parsed: Namespace) -> Namespace:
    """Parsed options, without the optimiser's own learning rate, which nobody uses."""
    init_args = parsed.get("optimizer.init_args")
    if init_args is not None and "lr" in init_args:
        parsed = parsed.clone()
        del parsed["optimizer.init_args.lr"]
    return parsed


class Parser(ArgumentParser):
    """Prints configurations that can be read again: without a rate of the optimiser."""

    def dump(self, cfg: Namespace, *args: Any, **options: Any) -> str:
        """A configuration as text."""
        with yaml_text.of_its_own():
            return str(super().dump(without_rate(cfg), *args, **options))


def essence(text: str, but: Sequence[str] = ()) -> str:
    """Return the configuration without what changes no number of a run: it may differ later.

    Args:
        text: The configuration.
        but: Names of further options to leave out.
    """
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(":")[0] not in (*NO_NUMBERS, *but))


def _text(made: ArgumentParser, parsed: Any) -> str:
    whole = yaml.safe_load(made.dump(parsed, skip_unset=False))
    for name in NOT_THE_RUN:
        whole.pop(name, None)
    return str(yaml.safe_dump(_with_arguments(whole), sort_keys=False))


def _with_arguments(value: Any) -> Any:
    """Options in which every class has arguments, if none: one run has one text."""
    if not isinstance(value, dict):
        return value
    found = {name: _with_arguments(inside) for name, inside in value.items()}
    return {**found, "init_args": found.get("init_args", {})} if "class_path" in found else found
