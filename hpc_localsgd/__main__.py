"""`hpc-localsgd COMMAND`, the same as `python -m hpc_localsgd COMMAND`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hpc_localsgd.commands import interrupted
from hpc_localsgd.commands.output import outlive_readers
from hpc_localsgd.environment import garbage, headless

# Each is a file or a folder of `hpc_localsgd.commands`.
COMMANDS = {
    "train": "train; the same as python -m hpc_localsgd.train",
    "plan": "what a run would do and cost, before it starts",
    "whatif": "what a recorded run would have cost with other workers, H, methods, networks",
    "sweep": "runs over a grid of options and seeds, here or under Slurm",
    "verify": "whether every algorithm is exact on this machine and launcher",
    "sharpness": "curvature of the loss at the snapshots of a run",
    "pack": "put a tree of images into one HDF5 file",
    "export": "the trained model as a file for other programs",
    "landscape": "the loss between two models, or in a plane of a run",
    "report": "one page on a run, to share",
    "compare": "runs side by side, seeds of one configuration together",
    "cite": "the papers that a run builds on",
    "summary": "what runs achieved and what they cost",
    "doctor": "check this machine, environment and launcher",
    "completion": "completion for the shell: source <(hpc-localsgd completion)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand over to a command; return its exit status."""
    command, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if command in ("-h", "--help"):
        print("usage: hpc-localsgd COMMAND [options]     (or python -m hpc_localsgd COMMAND ...)\n")
        print("\n".join(f"  {name:<10} {about}" for name, about in COMMANDS.items()))
        print("\nhpc-localsgd COMMAND --help says more; train and plan take the same options.")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        guess = f" - did you mean {near[0]!r}?" if near else ""
        print(f"unknown command {command!r}{guess} ({', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    try:
        with garbage.importing():
            module = import_module(f"hpc_localsgd.commands.{command}")
        return int(module.main(rest))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        said = "needs PyTorch, which is not installed here. In a clone: pip install '.[train]'"
        print(f"python -m hpc_localsgd {command}: {said}", file=sys.stderr)
        return 2


def run() -> int:
    """Be the program: `hpc-localsgd COMMAND`, or `python -m hpc_localsgd COMMAND`."""
    interrupted.say_in_a_line()
    outlive_readers()
    headless.draw_into_files()
    garbage.leave_at_exit()
    if not getattr(sys.flags, "safe_path", False) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own modules, as `python -m` finds them
    return main()


if __name__ == "__main__":
    sys.exit(run())
