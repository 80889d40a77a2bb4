"""Loss against bytes on the text task: Muon or AdamW inside, and what the differences are coded by.

    python benchmarks/text_bits.py [--steps 160] [--seeds 3] [--jobs 1]

Four workers in one process predict the next character of the bundled book with the Transformer of
`benchmarks/text.py`. All methods take the same steps on the same batches at the same rate, which is
not tuned for any of them, nor are outer rates and momenta. Writes benchmarks/reports/text_bits.md,
.json and .png; the runs themselves go to a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from reporting import REPORTS, write_report
from text import Row, measured

from hpc_localsgd.analysis.style import BLUE, RC, RED, YELLOW
from hpc_localsgd.trajectory.estimate import human_bytes

COMMON = (
    "--task text --workers 4 --world simulated --batch-per-worker 8 --steps {steps} --seed {seed} "
    "--rate.lr 0.002 --rate.warmup 5% --evaluate-every 25% --checkpoint-every 0 --figures false "
)
ADAMW = "--optimizer AdamW --optimizer.weight_decay 0.01 "
MUON = "--optimizer Muon --optimizer.weight_decay 0.01 --optimizer.adjust_lr_fn match_rms_adamw "
ROUNDS = "--schedule every --schedule.steps 10 "
DILOCO = ROUNDS + "--algorithm diloco --algorithm.lr 0.7 --algorithm.momentum 0.5 "
CHUNKS = (
    ROUNDS + "--algorithm diloco --algorithm.lr 1.0 --algorithm.momentum 0 "
    "--algorithm.compressor chunked_top_k "
)
METHODS = {
    "parallel AdamW": ADAMW + "--algorithm allreduce --schedule every",
    "DiLoCo": ADAMW + DILOCO,
    "MuLoCo": MUON + DILOCO,
    "DiLoCo, int4": ADAMW + DILOCO + "--algorithm.compressor int4",
    "DiLoCo, e3m0": ADAMW + DILOCO + "--algorithm.compressor e3m0",
    "DiLoCo, PowerSGD of rank 4": ADAMW + DILOCO + "--algorithm.compressor power_sgd",
    "SparseLoCo, 64 of 4096": ADAMW + CHUNKS,
    "SparseLoCo, then int4": ADAMW + CHUNKS + "--algorithm.compressor.compressor int4",
}
COLOURS = {"parallel AdamW": BLUE, "MuLoCo": RED}
BELOW = ("DiLoCo, e3m0", "SparseLoCo, then int4")  # names that would lie on others
BESIDE = ("DiLoCo, int4",)  # whose marks have others above and below


def draw(rows: dict[str, list[Row]], path: Path) -> None:
    """Draw the final loss against the bytes that a worker sent, a mark for each seed."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(figsize=(6.0, 3.2), layout="constrained")
        for method, runs in rows.items():
            sent, losses = [r.payload_bytes for r in runs], [r.test_loss for r in runs]
            colour, below = COLOURS.get(method, YELLOW), method in BELOW
            axes.plot(sent, losses, "o", color=colour, markersize=4)
            shift = (0, -12) if below else (7, -3) if method in BESIDE else (0, 5)
            axes.annotate(
                method, (sent[0], min(losses) if below else max(losses)), shift,
                textcoords="offset points",
                fontsize=8, ha="left" if sent[0] < 3e7 else "right",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("bytes sent by a worker in the whole run")
        axes.set_ylabel("test loss, nat a character")
        axes.margins(x=0.15, y=0.15)
        figure.savefig(path)
        plt.close(figure)


def page(rows: dict[str, list[Row]]) -> str:
    """Return the report."""
    dense = np.mean([row.payload_bytes for row in next(iter(rows.values()))])
    lines = [
        "# Text: loss against bytes, with Muon or AdamW inside and codes outside",
        "",
        "The next character of the bundled book, a Transformer of 0.42 million parameters,",
        "4 workers of 8 sequences of 64 characters in one process. Rounds are of 10 steps but in",
        "parallel; outer Nesterov momentum 0.5 and rate 0.7 (SparseLoCo: none, rate 1). One rate,",
        "0.002, for all: nothing was tuned, so the order of methods a few hundredths apart says",
        "little. Few steps, far from convergence. Mean and range over seeds.",
        "",
        "![Loss against bytes](text_bits.png)",
        "",
        "| method | test loss | range | a worker sent | of parallel |",
        "|---|--:|---|--:|--:|",
    ]
    for method, runs in rows.items():
        losses = [row.test_loss for row in runs]
        sent = np.mean([row.payload_bytes for row in runs])
        lines.append(
            f"| {method} | {np.mean(losses):.3f} | {min(losses):.3f} to {max(losses):.3f} "
            f"| {human_bytes(float(sent))} | 1/{dense / sent:.0f} |"
        )
    commands = (f"    {runs[0].command}" for runs in rows.values())
    return "\n".join([*lines, "", "The commands, with seed 0:", "", *commands])


def main(words: Sequence[str] | None = None) -> None:
    """Run all methods and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=160, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time: no clock is read")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        begun = {
            name: [
                pool.submit(
                    measured,
                    name,
                    COMMON.format(steps=given.steps, seed=seed) + options,
                    Path(folder) / f"{i}-{seed}",
                )
                for seed in range(given.seeds)
            ]
            for i, (name, options) in enumerate(METHODS.items())
        }
        rows = {name: [run.result() for run in runs] for name, runs in begun.items()}
    draw(rows, REPORTS / "text_bits.png")
    record = {name: [asdict(row) for row in runs] for name, runs in rows.items()}
    write_report("text_bits", page(rows), {"rows": record})


if __name__ == "__main__":
    main()
