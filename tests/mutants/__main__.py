"""Mutation score of the folders whose numbers people quote.

    make mutants                                      the whole list (hours)
    make mutants ARGS="--sample 30 --seed 1"          so many of each folder, drawn at random
    make mutants ARGS="--only algorithms --jobs 4"

Faults are made by cosmic-ray, and one kind of our own (a statement is left out); besides those, the
list in `named.py`. Each runs in a process of its own, forked when torch and pytest are loaded, in
which the changed text is imported in place of the file: nothing on the disk is touched.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.append(str(ROOT / "build" / "mutants"))  # cosmic-ray; what the environment has comes first

from mutants.anew import anew, preload  # noqa: E402
from mutants.callers import Callers  # noqa: E402
from mutants.collected import quickly  # noqa: E402
from mutants.faults import Fault, faults_of  # noqa: E402
from mutants.known import EQUAL  # noqa: E402
from mutants.named import named_faults  # noqa: E402
from mutants.targets import PACKAGE, TARGETS, files_of  # noqa: E402
from mutants.trial import Outcome, tried  # noqa: E402


def chosen(given: argparse.Namespace) -> dict[str, list[Fault]]:
    """Target -> the faults to try: those that have a name, and all others or some."""
    drawn: dict[str, list[Fault]] = {}
    for target in given.only or TARGETS:
        drawn[target] = [fault for of, fault in named_faults() if of == target]
        if given.named:
            continue
        faults = [fault for path in files_of(target) for fault in faults_of(path)]
        if 0 < given.sample < len(faults):
            draw = random.Random(f"{given.seed} {target}")
            faults = sorted(draw.sample(faults, given.sample), key=str)
        drawn[target] += faults
    return {target: faults for target, faults in drawn.items() if faults}


@dataclass
class Score:
    """Outcomes of a target's faults.

    Attributes:
        target: Folder or file.
        found: How many came to what.
        equal: Faults that are none.
        survivors: Those that no test noticed.
    """

    target: str
    found: Counter[Outcome] = field(default_factory=Counter)
    equal: int = 0
    survivors: list[Fault] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Faults that a test can notice."""
        return sum(self.found.values())

    @property
    def noticed(self) -> int:
        """Those that one did; a test without an end is one that somebody looks at."""
        return self.total - self.found[Outcome.SURVIVED]

    def __str__(self) -> str:
        share = 100 * self.noticed / max(1, self.total)
        counts = [self.found[outcome] for outcome in Outcome]
        return (
            f"{self.target:18}"
            + "".join(f"{n:11}" for n in [*counts, self.equal])
            + (f"{self.noticed:8} of {self.total:4} = {share:5.1f} %")
        )


def score(target: str, faults: list[Fault], callers: Callers, jobs: int) -> Score:
    """Try all faults of a target, and print what is not killed as it is found."""
    tests, got = TARGETS[target], Score(target)
    known = [fault for fault in faults if fault.key in EQUAL and not fault.name]
    got.equal, began_s = len(known), time.monotonic()
    for fault, outcome in outcomes([f for f in faults if f not in known], tests, callers, jobs):
        got.found[outcome] += 1
        if outcome is Outcome.SURVIVED:
            got.survivors.append(fault)
        if outcome is not Outcome.KILLED or fault.name:
            print(f"{outcome.value}: {fault}", flush=True)
    minutes = (time.monotonic() - began_s) / 60
    print(f"# {target}: {got.noticed} of {got.total} noticed, {minutes:.1f} minutes", flush=True)
    return got


def outcomes(
    faults: list[Fault], tests: list[str], callers: Callers, jobs: int
) -> Iterator[tuple[Fault, Outcome]]:
    """Outcome of each: first in the quick way, then anew what is left."""
    left = list(faults)
    for fault, outcome in quickly(faults, tests, callers, jobs):
        left.remove(fault)
        yield fault, outcome
    yield from tried(left, anew(tests, callers), jobs)


def table(scores: list[Score]) -> str:
    """One line a target, and every survivor as the change that it is."""
    head = [outcome.value.lower() for outcome in Outcome]
    lines = [f"{'':18}" + "".join(f"{name:>11}" for name in [*head, "equal"]) + "   noticed"]
    everything = Score("all", equal=sum(one.equal for one in scores))
    for one in scores:
        everything.found.update(one.found)
    lines += [str(one) for one in [*scores, everything]]
    for fault in (fault for one in scores for fault in one.survivors):
        lines += ["", f"survived: {fault.place}", f"  - {fault.was}", f"  + {fault.now}"]
    return "\n".join(lines)


def stale(targets: Iterable[str]) -> list[str]:
    """What `known.py` names that is no fault of today: files that are gone, too."""
    faults = {fault.key for target in targets for p in files_of(target) for fault in faults_of(p)}
    files = {file for file, _, _ in faults}
    return [
        f"{file}: {was}  ->  {now}"
        for file, was, now in EQUAL
        if (file, was, now) not in faults and (file in files or not (PACKAGE / file).exists())
    ]


def main() -> int:
    """Print survivors and scores; 1 where fewer than nine in ten of a target were noticed."""
    parser = argparse.ArgumentParser(
        prog="make mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=0, help="faults of each folder; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default=[], nargs="+", choices=list(TARGETS), help="these alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--named", action="store_true", help="only the list in named.py")
    given = parser.parse_args()
    for line in stale(given.only or TARGETS):
        print(f"known.py: no fault of today: {line}", flush=True)
    faults = chosen(given)
    print(f"{sum(map(len, faults.values()))} faults; first the tests without any", flush=True)
    tests = dict.fromkeys(word for target in faults for word in TARGETS[target])
    callers = preload(list(tests), [path for target in faults for path in files_of(target)])
    scores = [score(target, faults[target], callers, given.jobs) for target in faults]
    print("\n" + table(scores))
    return 0 if all(one.noticed >= 0.9 * one.total for one in scores) else 1


if __name__ == "__main__":
    sys.exit(main())
