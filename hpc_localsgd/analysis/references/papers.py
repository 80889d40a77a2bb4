"""The papers of `papers.bib`, each as a line of text and as BibTeX."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("papers.bib")
# Of the little BibTeX that is in the file: an entry ends at a brace of its own line, a field with
# its line.
_ENTRY = re.compile(r"^@\w+\{(?P<key>\w+),\n(?P<fields>.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*)\},?$", re.MULTILINE)
_NAME = re.compile(r"(?P<given>.*?) ?(?:\{(?P<words>.*)\}|(?P<word>\S+))")


@dataclass(frozen=True)
class Reference:
    """A paper.

    Attributes:
        key: Its BibTeX key, family name and year.
        authors: Names, given name first; "others" after those that are left out.
        title: Its title.
        year: Of the venue.
        venue: Conference or journal; empty for a preprint.
        arxiv: Identifier, empty if there is none or it is not known to us.
        entry: Its entry in the file.
    """

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    venue: str
    arxiv: str
    entry: str

    @property
    def text(self) -> str:
        """The paper in one line, ``S. U. Stich. Local SGD ... ICLR 2019. arXiv:1805.09767.``."""
        where = f"{self.venue} {self.year}" if self.venue else f"{self.year}"
        parts = [_listed(self.authors), self.title, where]
        parts += [f"arXiv:{self.arxiv}"] if self.arxiv else []
        return " ".join(part if part.endswith(("?", "!")) else f"{part}." for part in parts)

    @property
    def url(self) -> str:
        """Where it can be read; empty if not known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def bibtex(self) -> str:
        """The entry in BibTeX, in plain ASCII."""
        return _ascii(self.entry)


@cache
def papers() -> dict[str, Reference]:
    """Return all papers by their keys, in the order of the file."""
    found = _ENTRY.finditer(FILE.read_text(encoding="utf-8"))
    return {entry["key"]: _reference(entry) for entry in found}


def _reference(entry: re.Match[str]) -> Reference:
    said: dict[str, str] = dict(_FIELD.findall(entry["fields"]))
    return Reference(
        key=entry["key"],
        authors=tuple(said["author"].split(" and ")),
        title=said["title"].strip("{}"),
        year=int(said["year"]),
        venue=said.get("journal") or said.get("booktitle", ""),
        arxiv=said.get("eprint", ""),
        entry=entry[0],
    )


def _listed(authors: tuple[str, ...]) -> str:
    """List initials and family names; of more than six authors, the first three and "et al."."""
    short = [_initials(name) for name in authors if name != "others"]
    if len(short) > 6 or "others" in authors:
        return ", ".join(short[:3]) + " et al"
    return short[0] if len(short) == 1 else ", ".join(short[:-1]) + " and " + short[-1]


def _initials(name: str) -> str:
    """Shorten ``Paolo {Di Lorenzo}`` to ``P. Di Lorenzo``."""
    parts = _NAME.fullmatch(name)
    assert parts is not None, name
    return " ".join(
        [*(f"{g[0]}." for g in parts["given"].split()), parts["words"] or parts["word"]]
    )


def _ascii(text: str) -> str:
    r"""Encode letters that are not ASCII in LaTeX: an accent becomes ``{\'c}``."""
    accents = {"\u0301": "'", "\u0308": '"', "\u030c": "v ", "\u0300": "`"}
    accents |= {"\u0327": "c ", "\u0306": "u "}
    found = []
    for letter in text:
        parts = unicodedata.normalize("NFD", letter)
        known = len(parts) == 2 and parts[1] in accents
        found.append("{\\" + accents[parts[1]] + parts[0] + "}" if known else letter)
    return "".join(found)
