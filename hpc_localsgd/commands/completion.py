"""Completion for the shell: commands, options, and the names that can be chosen.

    source <(hpc-localsgd completion)                                # bash, in ~/.bashrc to keep it
    autoload -U bashcompinit && bashcompinit && source <(hpc-localsgd completion)       # zsh

What is printed is a plain function: completing a word starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules

from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.output import put

PROG = "python -m hpc_localsgd completion"
FUNCTION = """\
_hpc_localsgd() {{
    local words word="${{COMP_WORDS[COMP_CWORD]}}"
    case "${{COMP_WORDS[1]}}" in
{commands}
    esac
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{names}
    esac
    (( COMP_CWORD == 1 )) && words="{all}"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o default -F _hpc_localsgd hpc-localsgd"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the function; return the exit status."""
    parser().parse_args(argv)
    from hpc_localsgd.__main__ import COMMANDS
    from hpc_localsgd.commands.configuration.names import CHOICES, choices

    typed = {command: _options(command) for command in COMMANDS}
    names = {f"--{option}": sorted(choices(option)) for option in CHOICES}
    names |= {f"--algorithm.{part}": names[f"--{part}"] for part in ("topology", "compressor")}
    put(FUNCTION.format(commands=_cases(typed), names=_cases(names), all=" ".join(COMMANDS)))
    return 0


def _options(command: str) -> list[str]:
    """Return the options of a command, as they are typed."""
    if command == "train":
        made = import_module("hpc_localsgd.commands.configuration.config").parser(command)
    else:
        found = import_module(f"hpc_localsgd.commands.{command}")
        inside = {each.name for each in iter_modules(getattr(found, "__path__", []))}
        file = next((f".{name}" for name in ("options", "command") if name in inside), "")
        made = import_module(found.__name__ + file).parser()
    options = {option for action in made._actions for option in action.option_strings}
    return sorted(option.replace("_", "-") for option in options if option.startswith("--"))


def _cases(of: Mapping[str, Iterable[str]]) -> str:
    return "\n".join(f'        {word}) words="{" ".join(each)}" ;;' for word, each in of.items())


def parser() -> CommandParser:
    """Return the parser of the command."""
    about, _, rest = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    return CommandParser(prog=PROG, description=about, epilog=rest, formatter_class=form)


if __name__ == "__main__":
    sys.exit(main())
