"""Everything that one GPU can show, in under ten minutes: `make gpu`.

    python benchmarks/gpu.py                 # writes benchmarks/reports/gpu.md
    python benchmarks/gpu.py --device cpu --quick --out /tmp/gpu.md

Needs torch, numpy, h5py, jsonargparse and pyyaml: no Horovod, no MPI, no download. The tests marked
`cuda` (where pytest is there); many simulated workers by vmap and compiled; a step between two
syncs beside the bare loop; averages and codecs beside the card's copy; runs continued bit for bit;
memory beside the plan's; NCCL between ranks where there are several cards. A part that fails is
reported, and the others are run; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from on_gpu import between, exchanges, marked_tests, ranks, whole_runs, workers
from on_gpu.section import Bench, Section
from reporting import REPORTS, circumstances

PARTS: dict[str, Callable[[Bench], Section]] = {
    "A step between two syncs": between.section,
    "Many workers on one device": workers.section,
    "Averages and codecs": exchanges.section,
    "Runs that are continued": whole_runs.continued,
    "Memory": whole_runs.memory,
    "Several cards": ranks.section,
    "Tests": marked_tests.section,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts and write the report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--quick", action="store_true", help="a trial: measures nothing of worth")
    parser.add_argument("--out", type=Path, default=REPORTS / "gpu.md")
    options = parser.parse_args(argv)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --quick tries the script itself")
    bench, begin = Bench(options.device, options.quick), time.monotonic()
    sections = {title: _tried(part, bench) for title, part in PARTS.items()}
    minutes = (time.monotonic() - begin) / 60
    options.out.write_text(page(sections, minutes))
    data = {**circumstances(), **{title: section.data for title, section in sections.items()}}
    options.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    print(options.out.read_text())
    return 1 if any(section.wrong for section in sections.values()) else 0


def _tried(part: Callable[[Bench], Section], bench: Bench) -> Section:
    """Return the section of a part, or what it failed with."""
    try:
        return part(bench)
    except Exception as error:
        last = traceback.format_exc().strip()
        return Section(f"```\n{last}\n```", {"failed": str(error)}, [f"failed: {error}"])


def page(sections: dict[str, Section], minutes: float) -> str:
    """Return the report as Markdown, what is wrong first."""
    wrong = [f"- {title}: {said}" for title, s in sections.items() for said in s.wrong]
    first = "\n".join(wrong) if wrong else "Nothing is wrong."
    parts = [f"## {title}\n\n{section.text}" for title, section in sections.items()]
    about = [f"- {key}: {value}" for key, value in circumstances().items()]
    end = "\n".join([*about, f"- minutes: {minutes:.1f}"])
    return "\n\n".join(["# On a GPU", first, *parts, f"## Circumstances\n\n{end}\n"])


if __name__ == "__main__":
    raise SystemExit(main())
