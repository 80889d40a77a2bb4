"""Jobs of the templates in the cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cluster import OVER, Cluster
from launching import ROOT, until


@dataclass(frozen=True)
class Submitted:
    """A job of one of the templates.

    Attributes:
        cluster: Where.
        number: Its number.
        out: The folder of the run.
        said: The file of its output.
    """

    cluster: Cluster
    number: str
    out: Path
    said: Path

    def ended(self, timeout_s: float = 240) -> tuple[str, str]:
        """Its final state, and what it said."""
        state = self.cluster.wait(self.number, timeout_s)
        return state, self.said.read_text()

    def says(self, pattern: str, timeout_s: float = 60) -> None:
        """Wait until a line of its output matches; fails at once where it ends before."""

        def found() -> bool:
            said = self.said.read_text() if self.said.exists() else ""
            return re.search(pattern, said, re.MULTILINE) is not None

        until(
            lambda: found() or self.cluster.state(self.number)[0] in OVER,
            timeout_s,
            f"job {self.number} says {pattern}",
        )
        assert found(), f"it ended, and did not say {pattern}:\n{self.said.read_text()[-3000:]}"

    def completed(self) -> str:
        """What it said; fails the test when it did not succeed."""
        state, said = self.ended()
        assert state == "COMPLETED", f"{state}\n{said[-3000:]}"
        return said


def submit(
    cluster: Cluster, template: str, out: Path, *options: str, sbatch: str = "", **variables: str
) -> Submitted:
    """Submit a template with options of its own, and of sbatch."""
    out.parent.mkdir(parents=True, exist_ok=True)
    said = out.parent / f"{out.name}.said"
    number = cluster.sbatch(
        *f"--output={said} {sbatch}".split(),
        str(ROOT / "slurm" / f"{template}.sbatch"),
        *options,
        **{"OUT": str(out), "PREFLIGHT": "0", **variables},
    )
    return Submitted(cluster, number, out, said)


def open_mpi_crashed(said: str) -> bool:
    """Open MPI 5.0.11 sometimes takes a message in MPI_Init before it can; the job tries again."""
    return "Segmentation fault" in said and "ompi_mpi_init" in said
