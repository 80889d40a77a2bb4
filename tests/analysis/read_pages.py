"""Pages that the command writes, as they are read; and the record of a run that was killed."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from hpc_localsgd.commands.report import main
from hpc_localsgd.trajectory import Header, Writer

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that were not closed, what comes from outside, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.words = ""
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.pictures += tag == "img"
        assert tag not in ("script", "link", "iframe")
        self.outside += [
            v or "" for k, v in attrs if k == "src" and not (v or "").startswith("data:")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(*arguments: object) -> Page:
    """The page the command writes without figures beside it, warnings being errors."""
    out = Path(str(arguments[-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [str(a) for a in arguments[:-1]]
        assert main([*runs, f"--out={out}", "--formats"]) == 0
    page = Page((out / "report.html").read_text())
    assert page.open == [] and page.outside == []
    return page


def contents_lead_to_every_section(page: str) -> None:
    """Of a complete run, whose page stays: links have ends, and anchors are unique."""
    anchors = re.findall(r" id=\"?([\w-]+)", page)
    assert len(anchors) == len(set(anchors)) > 3
    links = re.findall(r"href=['\"]#([\w-]+)", page)
    assert set(links) <= set(anchors) and links
    assert "refresh" not in page


def killed(folder: Path, rounds: int = 6) -> Path:
    """A record nobody closed, of two ranks with two workers each, the second always late."""
    text = "schedule: {class_path: hpc_localsgd.every, init_args: {steps: 4}}\nepochs: 3\n"
    text += "rate: {class_path: hpc_localsgd.schedules.rates.constant}\ndtype: float64\n"
    world = "horovod(2 x 2 workers, cpu, OpenMPI)"
    names = {"task": "t", "algorithm": "<b>own</b>", "schedule": "every(4)", "world": world}
    header = Header(text, **names, K=4, P=10, seed=0, steps=100, steps_per_epoch=5.0)
    writer = Writer(folder, header)
    late, nan = np.array([1.0, 1.0, 1.5, 1.5]), float("nan")
    for s in range(rounds):
        row = {"compute_s": late, "wait_s": 1.5 - late, "transfer_s": 0.1, "payload_bytes": 80}
        writer.round(step_begin=4 * s, step_end=4 * s + 4, lr=0.1, **row)
        writer.series("mystery/thing", 4 * s, [1.0, nan, 2.0], dims=("axis",), units="furlong")
        writer.series("probe/alpha_e", 4 * s, 0.05 * (s + 1))
        writer.series("sharpness/eigenvectors", 4 * s, np.ones(10), dims=("parameter",))
    writer.flush()
    return folder
