"""One paper, as a line of text and as BibTeX."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A paper.

    Attributes:
        key: Its BibTeX key, family name and year.
        authors: Names, given name first.
        title: Its title.
        year: Of the venue.
        venue: Conference or journal; empty for a preprint.
        arxiv: Identifier, empty if there is none or it is not known to us.
        journal: Whether the venue is a journal.
    """

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""
    journal: bool = False

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
        """The entry in BibTeX, in plain ASCII, capitals of the title kept by braces."""
        fields = {
            "author": " and ".join(self.authors),
            "title": "{" + self.title + "}",
            "year": str(self.year),
        }
        if self.venue:
            fields["journal" if self.journal else "booktitle"] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        kind = "misc" if not self.venue else "article" if self.journal else "inproceedings"
        lines = [f"  {name} = {{{_ascii(value)}}}," for name, value in fields.items()]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


def _listed(authors: tuple[str, ...]) -> str:
    """List initials and family names; of more than six authors, the first three and "et al."."""
    short = [_initials(name) for name in authors if name != "others"]
    if len(short) > 6 or "others" in authors:
        return ", ".join(short[:3]) + " et al"
    return short[0] if len(short) == 1 else ", ".join(short[:-1]) + " and " + short[-1]


def _initials(name: str) -> str:
    given, _, family = name.rpartition(" ")
    if family in ("Lorenzo", "Sa", "Balso"):  # Di Lorenzo, De Sa, Del Balso
        given, _, particle = given.rpartition(" ")
        family = f"{particle} {family}"
    return " ".join([*(f"{part[0]}." for part in given.split()), family])


def _ascii(text: str) -> str:
    r"""Encode letters that are not ASCII in LaTeX: an accent becomes ``{\'c}``."""
    accents = {"\u0301": "'", "\u0308": '"', "\u030c": "v ", "\u0300": "`", "\u0327": "c "}
    found = []
    for letter in text:
        parts = unicodedata.normalize("NFD", letter)
        known = len(parts) == 2 and parts[1] in accents
        found.append("{\\" + accents[parts[1]] + parts[0] + "}" if known else letter)
    return "".join(found)
