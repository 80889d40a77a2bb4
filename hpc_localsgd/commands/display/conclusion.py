"""The closing table of a run: what it achieved, what it cost, and whom it waited for."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from hpc_localsgd.analysis.costs import rounds_said
from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS, without_accuracy
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.rich_text import as_text, page_width
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.engine.optimizer import described
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.trajectory.estimate import human_bytes

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Run
    from hpc_localsgd.trajectory import Rounds

WORTH_NAMING = 0.05  # of a run's time, spent waiting for one host


def show_conclusion(
    trajectory: Trajectory, run: Run, files: Sequence[Path], hosts: Sequence[str] = ()
) -> None:
    """Print what a run achieved and what it cost."""
    width = page_width(columns_of_output(launched=run.world.n > 1))
    table = conclusion(trajectory, run, files, hosts)
    put("\n" + as_text(table, width) + "\n" + _next_line(table, trajectory.path.parent, width))


def conclusion(
    trajectory: Trajectory, run: Run, files: Sequence[Path], hosts: Sequence[str] = ()
) -> Table:
    """Return the closing table: accuracy, rounds, payload, and where the seconds went.

    Args:
        trajectory: What was recorded.
        run: What ran.
        files: What it left behind.
        hosts: Where each of the K workers was.
    """
    totals = trajectory.totals
    parallel = run.task.x[0].nbytes * totals.steps if run.world.K > 1 else 0
    share = 100 * totals.rounds / totals.steps
    of = "per worker" + (", modelled" if run.world.ledger.modelled else "")
    sent, would = human_bytes(totals.payload_bytes), human_bytes(parallel)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a long path is not cut
    if without_accuracy(trajectory):
        loss = trajectory.series(TEST_LOSS).value[-1]
        table.add_row("test loss of the mean model", f"{loss:.4g}")
    elif ACCURACY in trajectory.names():  # --evaluate-every 0 leaves it out
        accuracy = trajectory.series(ACCURACY).value[-1]
        table.add_row("test accuracy of the mean model", f"{100 * accuracy:.2f} %")
    if "data/skipped" in trajectory.names():
        skipped = int(trajectory.series("data/skipped").value[-1])
        table.add_row("damaged images skipped", f"{skipped}, every time one was due in training")
    fewer = "" if run.algorithm.sends_gradients else f" ({share:.3g} %)"
    table.add_row("rounds", f"{rounds_said(trajectory)}{fewer}")
    table.add_row("sent by a worker", f"{sent}, against {would} of parallel SGD")
    table.add_row("optimiser", described(run.optimizer.torch))
    table.add_row("learning rate", repr(run.rate))
    table.add_row("computing", f"{human_seconds(totals.compute_s)} per worker")
    table.add_row("waiting for the slowest", f"{human_seconds(totals.wait_s)} {of}")
    if row := straggler(trajectory.rounds, hosts):
        table.add_row("they waited for", row)
    table.add_row("transferring", f"{human_seconds(totals.transfer_s)} {of}")
    table.add_row("wall time", f"{human_seconds(trajectory.attrs['wall_s'])}, all included")
    table.add_row("files", os.linesep.join(str(path) for path in files))
    return table


def _next_line(table: Table, folder: Path, width: int) -> str:
    """Return what to type next, in one line however long: to copy from two would type a half."""
    command = f"{_python()} -m hpc_localsgd report {_quoted(folder)}"
    column = max(len(str(label)) for label in table.columns[0].cells) + 2
    return f"{'next':<{column}}{command}" if column + len(command) <= width else f"next  {command}"


def _python() -> str:
    """Return what to type for this interpreter: that of `make train` is not on a shell's PATH.

    On a rank's PATH it is, where `mpirun` puts the folder that it lies in itself: whether an
    environment is active is said by a variable.
    """
    here = Path(sys.executable)
    found = shutil.which("python")
    active = sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix
    if active and found and Path(found).parent == here.parent:
        return "python"
    inside = here.is_relative_to(Path.cwd())
    return _quoted(here.relative_to(Path.cwd()) if inside else here)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def straggler(rounds: Rounds, hosts: Sequence[str]) -> str:
    """Return the host that others waited for, and how long; "" if there is no clear one.

    In every round the worker that waited least was the last to arrive, and the others' waiting was
    for it. Workers of one host count together.
    """
    wait_s = rounds.wait_s
    if not len(rounds) or wait_s.shape[1] != len(hosts) or len(hosts) == 1:
        return ""
    wait_s = np.nan_to_num(wait_s[np.isfinite(wait_s).all(1)])
    names, host = np.unique(np.asarray(hosts), return_inverse=True)
    for_host = np.zeros(len(names))
    np.add.at(for_host, host[wait_s.argmin(1)], wait_s.mean(1))
    whole_s = float((rounds.compute_s + rounds.wait_s + rounds.transfer_s).mean(1).sum())
    worst = int(for_host.argmax())
    share = for_host[worst] / max(whole_s, 1e-9)
    if len(names) == 1 or share < WORTH_NAMING:
        return ""
    waited = human_seconds(for_host[worst])
    return f"{names[worst]}, {waited} per worker ({100 * share:.0f} % of the time)"
