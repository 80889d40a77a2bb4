"""Mutation score of the folders whose numbers people quote.

    make mutants                                      the whole list (hours)
    make mutants ARGS="--sample 300 --seed 1"         so many of them, drawn at random
    make mutants ARGS="--only algorithms --jobs 4"

Faults are made by cosmic-ray, and one kind of our own (a statement is left out); besides those, the
list in `named.py`. Each runs in a process of its own, forked when torch and pytest are loaded, in
which the changed text is imported in place of the file: nothing on the disk is touched.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.append(str(ROOT / "build" / "mutants"))  # cosmic-ray; what the environment has comes first

from mutants.faults import Fault, faults_of  # noqa: E402
from mutants.known import EQUAL  # noqa: E402
from mutants.named import named_faults  # noqa: E402
from mutants.targets import TARGETS, files_of  # noqa: E402
from mutants.trial import Outcome, preload, tried  # noqa: E402


def chosen(given: argparse.Namespace) -> dict[str, list[Fault]]:
    """Target -> the faults to try."""
    drawn: dict[str, list[Fault]] = defaultdict(list)
    everything = [
        (target, fault)
        for target in TARGETS
        if given.only in ("", target)
        for path in files_of(target)
        for fault in faults_of(path)
    ]
    if given.sample and given.sample < len(everything):
        everything = sorted(random.Random(given.seed).sample(everything, given.sample), key=str)
    if given.named:
        everything = []
    for target, fault in everything:
        drawn[target].append(fault)
    for target, fault in named_faults():
        if given.only in ("", target):
            drawn[target].insert(0, fault)
    return drawn


def score(target: str, faults: list[Fault], jobs: int) -> tuple[int, int]:
    """Try all faults of a target; how many died, of how many that are faults at all."""
    tests = TARGETS[target]
    if not preload(tests):
        raise SystemExit(f"{target}: the tests fail without any fault: pytest {' '.join(tests)}")
    found: Counter[Outcome] = Counter()
    for fault, outcome in tried(faults, tests, jobs):
        if outcome is Outcome.LIVED and (reason := EQUAL.get(fault.key)):
            print(f"  equal   {fault}: {reason}", flush=True)
            continue
        found[outcome] += 1
        if outcome is not Outcome.DIED or fault.name:
            print(f"  {outcome.value:7} {fault}", flush=True)
    total = sum(found.values())
    died = total - found[Outcome.LIVED]
    print(f"{target}: {died} of {total} died ({found[Outcome.ENDLESS]} without an end)", flush=True)
    return died, total


def main() -> int:
    """Print every survivor and the score; 1 where fewer than nine in ten died."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="faults to draw; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", choices=["", *TARGETS], help="one folder or file")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--named", action="store_true", help="only the list in named.py")
    given = parser.parse_args()
    faults = chosen(given)
    print(f"{sum(map(len, faults.values()))} faults", flush=True)
    scores = [score(target, faults[target], given.jobs) for target in faults]
    died, total = (sum(column) for column in zip(*scores, strict=True))
    print(f"all: {died} of {total} died, {100 * died / total:.1f} %")
    return 0 if died >= 0.9 * total else 1


if __name__ == "__main__":
    sys.exit(main())
