"""All claims after one another: `python benchmarks/reproduce [--quick] [--only slow_sde ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from harness.main import main as one
from harness.main import parser

CLAIMS = (
    "why_and_when",
    "slow_sde",
    "post_local",
    "ablations",
    "large_rates",
    "large_rates_recurrent",
    "average_direction",
    "average_direction_batch",
    "uncertainty",
    "quadratic_rule",
    "linear_scaling",
    "unequal_data",
)
LONG = ("images_why_and_when",)  # an hour of a processor; by --only


def main(argv: Sequence[str] | None = None) -> int:
    """Do all experiments; the highest exit status of them."""
    made = parser(__doc__ or "")
    made.add_argument("--only", nargs="+", default=CLAIMS, choices=CLAIMS + LONG, metavar="CLAIM")
    options = made.parse_args(argv)
    words = ["--quick"] if options.quick else []
    words += [f"--out={options.out}"]
    return max(one(import_module(name).EXPERIMENT, words) for name in options.only)


if __name__ == "__main__":
    sys.exit(main())
