"""The text task's default by parallel SGD, Local SGD and DiLoCo, side by side.

    python benchmarks/text.py

Four workers in one process predict the next character of the bundled book, each method for the same
number of steps with the same AdamW. What is looked at: after how many seconds of computing, and how
many bytes sent by a worker, the mean model's test loss is at the target. Writes
benchmarks/reports/text.md and text.json; the runs themselves go to a temporary folder.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from reporting import write_report

from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.trajectory.estimate import human_bytes

TARGET = 1.95  # nat a character, test loss of the mean model
COMMON = (
    "--task text --workers 4 --world simulated --batch-per-worker 16 --steps {steps} "
    "--optimizer torch.optim.AdamW --optimizer.weight_decay 0.01 --rate.lr 0.002 --rate.warmup 5% "
    "--evaluate-every 5% --checkpoint-every 0 --figures false"
)
METHODS = {
    "parallel AdamW": "--algorithm allreduce --schedule every",
    "Local AdamW, H = 16": "--algorithm local_sgd --schedule every --schedule.steps 16",
    "DiLoCo, H = 16": "--algorithm diloco --schedule every --schedule.steps 16",
    # Its momentum of 0.9 is made for hundreds of rounds; here there are 38.
    "DiLoCo, H = 16, outer momentum 0.5": (
        "--algorithm diloco --algorithm.momentum 0.5 --schedule every --schedule.steps 16"
    ),
}


@dataclass(frozen=True)
class Row:
    """Result of one method.

    Attributes:
        method: Its name.
        command: What was run.
        wall_s: Seconds of the whole command, start and evaluations included.
        compute_s: Seconds of local steps, of all four workers after one another.
        test_loss: Of the mean model at the end, nat a character.
        best_loss: The lowest on the way.
        accuracy: Share of characters that are guessed, at the end.
        steps_to_target: Steps until an evaluation was at the target; None if none was.
        wall_to_target_s: That share of `wall_s`.
        payload_bytes: Sent by a worker in the whole run.
        payload_to_target_bytes: Until the target.
    """

    method: str
    command: str
    wall_s: float
    compute_s: float
    test_loss: float
    best_loss: float
    accuracy: float
    steps_to_target: int | None
    wall_to_target_s: float | None
    payload_bytes: float
    payload_to_target_bytes: float | None


def measured(method: str, options: str, folder: Path) -> Row:
    """Run one method and read its record."""
    words = [sys.executable, "-m", "hpc_localsgd.train", *options.split(), "--out", str(folder)]
    begin = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    wall_s = time.perf_counter() - begin
    run = Trajectory(folder)
    loss, accuracy = run.series("eval/test/loss"), run.series("eval/test/accuracy")
    sent, ends = run.rounds.payload_bytes.mean(1), run.rounds.step_end
    reached = loss.step[loss.value <= TARGET]
    steps = int(reached[0]) if len(reached) else None
    return Row(
        method=method,
        command=shlex.join(["python", *words[1:-2]]),
        wall_s=wall_s,
        compute_s=float(run.rounds.compute_s.mean(1).sum()),
        test_loss=float(loss.value[-1]),
        best_loss=float(loss.value.min()),
        accuracy=float(accuracy.value[-1]),
        steps_to_target=steps,
        wall_to_target_s=None if steps is None else wall_s * steps / int(ends[-1]),
        payload_bytes=float(sent.sum()),
        payload_to_target_bytes=None if steps is None else float(sent[ends <= steps].sum()),
    )


def page(rows: list[Row]) -> str:
    """Return the report."""
    lines = [
        "# Text: parallel, Local and DiLoCo side by side",
        "",
        "The next character of the bundled book, a Transformer of 0.42 million parameters,",
        "4 workers of 16 sequences of 64 characters in one process.",
        f"Target: test loss {TARGET} nat a character. One run each, seed 0. Seconds to the target",
        "are the run's seconds in proportion to its steps, evaluations and start included.",
        "",
        "| method | to the target | steps | sent by a worker "
        "| whole run | sent | test loss (lowest) | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        never = row.steps_to_target is None
        seconds = "never" if row.wall_to_target_s is None else f"{row.wall_to_target_s:.0f} s"
        sent = (
            "" if row.payload_to_target_bytes is None else human_bytes(row.payload_to_target_bytes)
        )
        lines.append(
            f"| {row.method} | {seconds} | {'' if never else row.steps_to_target} | {sent} "
            f"| {row.wall_s:.0f} s | {human_bytes(row.payload_bytes)} "
            f"| {row.test_loss:.3f} ({row.best_loss:.3f}) | {row.accuracy:.3f} |"
        )
    commands = (f"    {row.command}" for row in rows)
    return "\n".join([*lines, "", "The commands:", "", *commands])


def main() -> None:
    """Run all methods and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measured(name, f"{COMMON.format(steps=given.steps)} {options}", Path(folder) / str(i))
            for i, (name, options) in enumerate(METHODS.items())
        ]
    write_report("text", page(rows), {"target": TARGET, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
