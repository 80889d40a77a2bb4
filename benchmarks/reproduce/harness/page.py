"""The page of all claims, written from what the experiments have recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "reproduce"
HEAD = """# The papers' claims

Written by `make reproduce` from the records of its runs. Each script of `benchmarks/reproduce`
says what must be seen before it measures; the verdict follows by rule: *reproduced* if every
prediction holds, *partly* if some do, *not at this scale* if none does. A prediction of a
difference holds if the interval of the differences, paired by seed, leaves 0 out, or if all of at
least five seeds agree in sign. Intervals are 95 % for all predictions of a claim together
(Student's t, Bonferroni); p is of the exact permutation test, which with five seeds is never below
0.0625. Runs that diverged count as runs without a number, with which no prediction holds, unless
the prediction is about divergence.
"""


def page() -> Path:
    """Write the page, and return its file."""
    kept = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(REPORTS.glob("*.json"))]
    results = sorted(kept, key=in_order)
    parts = [HEAD, _table(results), *map(_section, results)]
    file = REPORTS.parent / "reproduce.md"
    file.write_text("\n".join(parts), encoding="utf-8")
    return file


def in_order(result: Mapping[str, Any]) -> tuple[int, str]:
    """Return where a claim stands: 1, 1b, 2, ..., 10."""
    number = str(result["number"])
    return int(number.rstrip("abc")), number


def _table(results: list[dict[str, Any]]) -> str:
    lines = ["| | claim | predictions that hold | verdict |", "|--:|---|---|---|"]
    for result in results:
        held = sum(each["holds"] for each in result["statements"])
        where = f"[{result['title']}](#{result['number']})"
        of = f"{held} of {len(result['statements'])}"
        lines.append(f"| {result['number']} | {where} | {of} | **{result['verdict']}** |")
    return "\n".join([*lines, ""])


def _section(result: Mapping[str, Any]) -> str:
    about = ("says", "source", "setup", "deviation", "must_see", "refuted_by")
    names = ("Claim", "Source", "Set-up", "Deviation", "Must be seen", "Refuted by")
    lines = [f'## <a id="{result["number"]}"></a>{result["number"]}. {result["title"]}', ""]
    lines += [f"![{result['title']}](reproduce/{result['name']}.png)", ""]
    lines += [f"- **{name}.** {result[key]}" for name, key in zip(names, about, strict=True)]
    lines += ["", "| predicted | measured | holds |", "|---|---|---|"]
    for each in result["statements"]:
        yes = "yes" if each["holds"] else "**no**"
        lines.append(f"| {each['predicted']} | {each['measured']} | {yes} |")
    said = f" {result['remark']}" if result["remark"] else ""
    lines += ["", f"Verdict: **{result['verdict']}**.{said}", "", _runs(result), ""]
    return "\n".join(lines)


def _runs(result: Mapping[str, Any]) -> str:
    c, gone = result["circumstances"], len(result["diverged"])
    of = f"{result['runs']} runs, {gone or 'none'} of them diverged"
    where = f"{c['processor']} ({c['cores']} cores, shared), torch {c['torch']}"
    of += f", {result['minutes']:g} minutes of a processor"
    return f"{of}; `{c['command']}`, commit {c['commit']}, {c['date']}, {where}."


def save_small(figure: Figure, file: Path) -> None:
    """Save a drawing in 128 colours, a third of the bytes: it is part of the repository."""
    from PIL import Image

    figure.savefig(file)
    with Image.open(file) as whole:
        small = whole.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
