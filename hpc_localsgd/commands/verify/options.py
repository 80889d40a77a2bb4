"""What can be asked of `verify`, and the parser that reads it off the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "python -m hpc_localsgd verify"
ABOUT = (
    "A conformance run on this machine and launcher, seconds long: a table of ok and failed. "
    "`mpirun -np 2 python -m hpc_localsgd verify`, and the same under horovodrun, torchrun, srun "
    "or alone. With `--model package.module:factory` it looks at a model of your own instead: "
    "factory() returns an nn.Module, or (module, inputs [B, ...], classes [B]). Exit status: 0 "
    "when every row is ok, 1 when one failed, 2 for a fault of the request."
)


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify`.

    Args:
        world: Where the workers live, as for training: auto, simulated, horovod, mpi or torch.
        device: auto takes a GPU if there is one for this rank.
        model: A model of your own to look at, "package.module:factory". The factory takes no
            arguments and returns an nn.Module, or a tuple (module, inputs [B, ...], classes [B]).
        input_shape: Of one sample, such as 3x32x32, where the factory returns only a module: the
            inputs are then made of random numbers.
        classes: How many classes the model tells apart, for the same case: the labels are random.
    """

    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    device: str = "auto"
    model: str | None = None
    input_shape: str | None = None
    classes: int | None = None


def parse(argv: Sequence[str]) -> tuple[VerifyOptions, bool]:
    """Parse the options, and whether JSON is wanted.

    Raises:
        ConfigurationError: Unknown options or values.
    """
    from hpc_localsgd.commands.configuration.config import arguments

    parsed = arguments(parser(), argv)
    names = VerifyOptions.__dataclass_fields__
    options = VerifyOptions(**{name: parsed[name] for name in names})
    if options.model is None and (options.input_shape or options.classes):
        raise ConfigurationError("--input-shape and --classes belong to --model: give that too")
    return options, bool(parsed.json)


def parser() -> ArgumentParser:
    """Return the parser of verify."""
    from jsonargparse import ArgumentParser

    from hpc_localsgd.commands.configuration.help_text import HelpText

    made = ArgumentParser(
        prog=PROG, description=ABOUT, exit_on_error=False, formatter_class=HelpText
    )
    made.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    made.add_class_arguments(VerifyOptions, nested_key=None)
    return made
