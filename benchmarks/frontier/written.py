"""What is written of a frontier: figure, table, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frontier import draw, tables
from frontier.points import Point
from reporting import REPORTS, circumstances


@dataclass(frozen=True)
class Frontier:
    """Methods on networks.

    Attributes:
        networks: Name of a network -> the methods on it, the same ones everywhere.
        facts: What there is to say of the runs, each a few words.
        notes: What there is to say of the numbers, a sentence each.
    """

    networks: dict[str, list[Point]]
    facts: list[str]
    notes: list[str]


def write(made: Frontier, out: Path, floor: float | None, name: str = "frontier") -> list[Path]:
    """Write figure and table; gives the files.

    Args:
        made: What they show.
        out: Folder, made if missing.
        floor: Least accuracy that is drawn; None for a tenth below the best.
        name: Of the files.
    """
    import matplotlib as mpl

    from hpc_localsgd.analysis.style import RC

    out.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(RC):
        first = next(iter(made.networks.values()))
        least = draw.floor_of(first) if floor is None else floor
        figure = draw.draw(made.networks, made.facts, least)
        for suffix in ("png", "pdf"):
            files.append(out / f"{name}.{suffix}")
            figure.savefig(files[-1])
    for suffix, text in (
        ("csv", tables.as_csv(made.networks)),
        ("md", tables.as_markdown(made.networks)),
        ("tex", tables.as_latex(made.networks)),
    ):
        files.append(out / f"{name}.{suffix}")
        files[-1].write_text(text, encoding="utf-8")
    return files


def report(made: Frontier, floor: float | None, name: str) -> list[Path]:
    """Write the report, its figure and its table beside it; gives the files.

    Args:
        made: What it shows.
        floor: Least accuracy that is drawn; None for a tenth below the best.
        name: Of the files.
    """
    files = [f for f in write(made, REPORTS, floor, name) if f.suffix in (".png", ".csv")]
    _make_small(files[0])
    for other in (".pdf", ".md", ".tex"):
        (REPORTS / f"{name}{other}").unlink()
    about = "\n".join(f"- {key}: {value}" for key, value in circumstances().items())
    parts = [
        "# Accuracy against communication",
        f"{', '.join(made.facts)}. Accuracy is of the mean model on the test set, ± the larger of "
        "the deviation over seeds and the statistical error of the test set; in bold: nothing "
        "cheaper here is as accurate, to within that.",
        f"![Accuracy against bytes and seconds]({name}.png)",
        "On the pale line is what is in bold. Hollow symbols at the lower edge are of methods that "
        "are below it.",
        tables.as_markdown(made.networks).rstrip(),
        "\n".join(made.notes),
        f"## Circumstances\n\n{about}",
    ]
    page = REPORTS / f"{name}.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [page, *files]


def _make_small(picture: Path) -> None:
    """Keep a drawing in 128 colours, a third of the bytes: it is part of the repository."""
    from PIL import Image

    with Image.open(picture) as whole:
        small = whole.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)
