"""The command line that every experiment has, and what it leaves in `benchmarks/reports`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reporting import circumstances

from harness import ranks
from harness.claim import Experiment, verdict
from harness.page import REPORTS, page, save_small
from harness.runs import Failed, Runs


def parser(about: str) -> argparse.ArgumentParser:
    """Give the options of an experiment.

    Args:
        about: What it is.
    """
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="fewer, shorter runs; no verdict")
    made.add_argument("--out", default="runs/reproduce", help="folder of the runs; complete: kept")
    return made


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Do an experiment, print its verdict and write its part of the report; the exit status."""
    about = about_of(experiment)
    options = parser(about).parse_args(argv)
    with contextlib.ExitStack() as stack:
        if not ranks.first():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(_nothing())))
        print(f"{about}\n", flush=True)
        try:
            result = done(experiment, options)
        except Failed as error:
            print(f"{experiment.claim.name}: {error}", file=sys.stderr)
            return 1
        for line in result["statements"]:
            print(f"{'yes' if line['holds'] else 'NO '}  {line['predicted']}: {line['measured']}")
        print(f"verdict: {result['verdict']}")
    return 0


def done(experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    """Do an experiment and keep what was found; gives that.

    Raises:
        Failed: Runs are missing.
    """
    several = (ranks.LAUNCH.size or 1) > 1
    kind = ("-quick" if options.quick else "") + ("-launched" if several else "")
    out = Path(f"{options.out}{kind}") / experiment.claim.name
    runs = Runs(out)
    measured = experiment.measure(runs, options.quick)
    statements = experiment.judge(measured)
    result = {
        **asdict(experiment.claim),
        "verdict": "none: a quick trial" if options.quick else verdict(statements),
        "statements": [asdict(statement) for statement in statements],
        "runs": runs.count,
        "diverged": runs.diverged,
        "minutes": round(runs.minutes, 1),
        "circumstances": circumstances(),
        "measured": measured,
    }
    if ranks.first():
        _keep(result, experiment, out if kind else REPORTS)
        if not kind:
            page()
    return result


def about_of(experiment: Experiment) -> str:
    """Return what is said before anything is measured."""
    claim = experiment.claim
    lines = [f"Claim {claim.number}. {claim.title}", f"claim:        {claim.says}"]
    lines += [f"source:       {claim.source}", f"set-up:       {claim.setup}"]
    lines += [f"deviation:    {claim.deviation}", f"must be seen: {claim.must_see}"]
    return "\n".join([*lines, f"refuted by:   {claim.refuted_by}"])


def _nothing() -> Any:
    return open(os.devnull, "w", encoding="utf-8")


def _keep(result: dict[str, Any], experiment: Experiment, folder: Path) -> None:
    """Write numbers and figure of an experiment into a folder."""
    import matplotlib as mpl

    from hpc_localsgd.analysis.style import RC

    folder.mkdir(parents=True, exist_ok=True)
    name = experiment.claim.name
    text = json.dumps(result, indent=None, separators=(",", ": "))
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    with mpl.rc_context(RC):
        save_small(experiment.draw(result["measured"]), folder / f"{name}.png")
