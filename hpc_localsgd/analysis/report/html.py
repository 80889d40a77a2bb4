"""The few pieces of HTML a report is made of. No script, nothing from outside the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

from hpc_localsgd.analysis.style import BLUE, GREY, INK, PALE, RED

Source: TypeAlias = tuple[str, int]  # of a figure: its data URI, and its width in pixels

LOOK = f"""
:root {{ color-scheme: light dark; --ink: {INK}; --quiet: {GREY}; --line: {PALE}; --paper: #ffffff;
  --link: {BLUE}; --alarm: {RED}; --code: #f7f8f9; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --ink: #e8eaee; --quiet: #a3a9b4;
  --line: #3a3f47; --paper: #16181c; --link: #8ab4f0; --alarm: #f08c9b; --code: #1f2228; }}
  figure img {{ background: #fff; border-radius: 6px; }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; font-size: 15px;
  font-family: "DejaVu Sans", "Segoe UI", system-ui, -apple-system, Roboto, sans-serif; }}
main {{ max-width: 1000px; margin: 0 auto; padding: 40px 28px 60px; }}
h1 {{ font-size: 25px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 17px; margin: 46px 0 10px; padding-top: 16px; border-top: 1px solid var(--line); }}
p {{ margin: 6px 0; max-width: 76ch; }}
a {{ color: var(--link); text-decoration: none; }} a:hover {{ text-decoration: underline; }}
.quiet, figcaption, footer {{ color: var(--quiet); }}
.status {{ display: inline-block; font-size: 12px; font-weight: 400; padding: 1px 9px;
  margin-left: 8px; border-radius: 10px; border: 1px solid currentColor; color: var(--quiet);
  vertical-align: 4px; }}
.status.complete {{ color: var(--link); }}
.status.diverged, .status.running {{ color: var(--alarm); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr));
  gap: 18px 26px; margin: 26px 0 10px; }}
.tile b {{ display: block; font-size: 22px; line-height: 1.2; font-weight: 700; }}
.tile span {{ display: block; font-size: 12.5px; color: var(--quiet); }}
nav {{ columns: 220px; margin: 18px 0 0; font-size: 14px; }} nav a {{ display: block; }}
.scroll {{ overflow-x: auto; background: linear-gradient(to right, var(--paper) 30%, transparent),
  linear-gradient(to left, var(--paper) 30%, transparent) right,
  linear-gradient(to right, var(--quiet), transparent),
  linear-gradient(to left, var(--quiet), transparent) right;
  background-size: 32px 100%, 32px 100%, 5px 100%, 5px 100%; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll; }}  /* a shadow where there is more */
table {{ border-collapse: collapse; font-size: 13.5px; margin: 10px 0; }}
th {{ text-align: left; font-weight: 400; color: var(--quiet); }}
th, td {{ padding: 5px 22px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.scroll td:first-child {{ white-space: nowrap; }} tr.best td {{ font-weight: 700; }}
.facts th {{ white-space: nowrap; }} .facts td {{ overflow-wrap: anywhere; }}
.notes {{ border-left: 3px solid #DDAA33; padding: 2px 0 2px 16px; margin: 20px 0;
  font-size: 14px; }}
.notes p {{ margin: 5px 0; }}
figure {{ margin: 14px 0 6px; }}
figure .scroll img {{ display: block; width: 100%; min-width: min(640px, 170vw); }}
figcaption {{ font-size: 13px; margin-top: 4px; max-width: 86ch; }}
code, pre {{ font-size: 12.5px;
  font-family: "DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace; }}
code {{ overflow-wrap: anywhere; }} code.short {{ white-space: nowrap; }}
pre {{ background: var(--code); padding: 12px 14px; overflow-x: auto; line-height: 1.45; }}
summary {{ cursor: pointer; color: var(--link); font-size: 14px; margin: 8px 0; }}
ol.papers {{ padding-left: 22px; font-size: 14px; }} ol.papers li {{ margin: 5px 0; }}
footer {{ margin-top: 56px; font-size: 12.5px; padding-top: 12px;
  border-top: 1px solid var(--line); }}
@media (max-width: 560px) {{ main {{ padding: 24px 16px 40px; }} h1 {{ font-size: 21px; }}
  th, td {{ padding-right: 14px; }} .tile b {{ font-size: 19px; }} }}
@media print {{ nav {{ display: none; }} main {{ max-width: none; padding: 0; }}
  h2 {{ break-after: avoid; }}
  figure {{ break-inside: avoid; }} details {{ display: none; }} }}
""".strip()


def document(title: str, body: str, again_s: int = 0) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        body: HTML.
        again_s: Seconds after which a browser loads the page again; 0 for never.
    """
    again = f'<meta http-equiv="refresh" content="{again_s}">\n' if again_s else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{again}"
        f"<title>{escape(title)}</title>\n<style>\n{LOOK}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, anchor: str = "") -> str:
    """Return the heading of a section; its anchor is made of the text if not given."""
    anchor = anchor or re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def contents(body: str) -> str:
    """Return links to the headings of a page; "" if there are fewer than three."""
    found = re.findall(r"<h2 id=\"([^\"]+)\">(.*?)</h2>", body)
    links = "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in found)
    return f"<nav aria-label=Contents>{links}</nav>" if len(found) > 2 else ""


def paragraph(text: str, quiet: bool = False) -> str:
    """Return a paragraph of plain text; what stands in backticks becomes code."""
    return f"<p{' class=quiet' if quiet else ''}>{inline(text)}</p>"


def inline(text: str) -> str:
    """Return plain text as HTML; what stands in backticks becomes code."""
    parts = escape(text).split("`")
    return "".join(_code(part) if i % 2 else part for i, part in enumerate(parts))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    best: Iterable[int] = (),
) -> str:
    """Return a table of plain texts, numbers aligned to the right.

    Args:
        header: Of the columns.
        rows: Cells.
        left: So many first columns are text, to the left.
        best: Rows in bold.
    """
    bold = set(best)
    head = "".join(_cell("th", text, i >= left) for i, text in enumerate(header))
    lines = [
        f"<tr{' class=best' if i in bold else ''}>"
        + "".join(_cell("td", text, j >= left) for j, text in enumerate(row))
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return f"<div class=scroll><table>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table></div>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and their values."""
    lines = (f"<tr><th>{escape(name)}</th><td>{inline(value)}</td></tr>" for name, value in rows)
    return "<table class=facts>\n" + "\n".join(lines) + "\n</table>"


def tiles(shown: Iterable[tuple[str, str]]) -> str:
    """Return tiles: large numbers with small words below them."""
    each = (f"<div class=tile><b>{escape(n)}</b><span>{escape(w)}</span></div>" for n, w in shown)
    return "<div class=tiles>\n" + "\n".join(each) + "\n</div>"


def notes(lines: Sequence[str]) -> str:
    """Return the notes that a reader should see first; "" if there are none."""
    return f"<div class=notes>{''.join(paragraph(n) for n in lines)}</div>" if lines else ""


def picture(source: Source, words: str, caption: str = "") -> str:
    """Return a figure from a data URI.

    Args:
        source: The URI, and the width at which it is shown.
        words: What it shows, for those who cannot see it.
        caption: Below it.
    """
    below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
    uri, width_px = source
    image = f'<img src="{uri}" alt="{escape(words)}" style="max-width:{width_px}px">'
    return f"<figure><div class=scroll>{image}</div>{below}</figure>"


def details(summary: str, text: str) -> str:
    """Return text as it is, folded away below its summary."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _code(text: str) -> str:
    """Return options as code that is not broken at its hyphens."""
    return f"<code{' class=short' if len(text) < 30 else ''}>{text}</code>"


def _cell(kind: str, text: str, number: bool) -> str:
    return f"<{kind}{' class=n' if number else ''}>{inline(text)}</{kind}>"
