"""A job of `slurm/job.sh` in which small scripts play Slurm's part, and the launchers'."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launching import ROOT

LAUNCHER = """#!/bin/bash
# Ranks: end as told, or when a signal comes. However they end, they write shards.
for word; do [[ $word != --nodelist=* ]] || node=${word#*=}; done
[[ $* != *--overlap* || " ${SILENT:-} " != *" $node "* ]] || exec sleep 60
[[ $* != *--overlap* ]] || { [[ " ${DEAD:-} " != *" $node "* ]]; exit; }  # is it well?
trap 'echo signalled >>"$TOLD"; kill $!; exit ${ON_USR2:-85}' USR2
echo "$(basename "$0") $*" >>"$TOLD"
mkdir -p "$OUT/checkpoints/step-1"
env >"$OUT/environment"
touch "$OUT/checkpoints/step-1/rank-0-of-2.pt"
[[ -z ${BEGAN:-} ]] || echo "$BEGAN" >"$OUT/began"
[[ -z ${FOREVER:-} ]] || { sleep 60 >/dev/null 2>&1 & wait; }
[[ -z ${STARTING:-} ]] || {  # the first STOP is taken for one of the job before
    until [[ -f $OUT/STOP ]]; do sleep 0.1; done
    rm "$OUT/STOP"
    until [[ -f $OUT/STOP ]]; do sleep 0.1; done
}
[[ -z ${CRASHES_FIRST:-} || -e $OUT/crashed ]] || { touch "$OUT/crashed"; exit 139; }
exit "${ENDS_WITH:-0}"
"""
PACKAGE = """#!/bin/bash
# The package where it is not started on ranks: the summary, or what a training would be.
[[ $* != *" --print_config" ]] || { printf "%s\n" "seed: 0" "workers: ${CONFIGURED:-32}"; exit; }
echo "${INSIDE:-outside}: python $*" >>"$TOLD"
[[ -z ${BROKEN:-} ]] || exit 1
[[ " $* " != *" --began "* ]] || cat "$OUT/began" 2>/dev/null || echo none
"""
CONTAINED = """#!/bin/bash
INSIDE=inside exec "$@"
"""
SCONTROL = """#!/bin/bash
case $1 in
show) [[ $3 == *"["* ]] && printf '%s\\n' n1 n2 || tr , '\\n' <<<"$3" ;;
requeue) echo "requeued $2" >>"$TOLD"; (($(grep -c requeued "$TOLD") > ${REFUSES:-0})) ;;
esac
"""
SQUEUE = """#!/bin/bash
[[ -z ${SQUEUE_FAILS:-} ]] || { echo "slurm_load_jobs error: $SQUEUE_FAILS" >&2; exit 1; }
[[ $* != *%i* ]] || { printf '%s\\n' "6 7_1" "7 ${NAMED:-7_$SLURM_ARRAY_TASK_ID}"; exit; }
[[ $* != *" --jobs ${GONE:-none} "* ]] || { sleep 1; exit 0; }
echo "${STATE-RUNNING}"
"""
SILENT = {"SQUEUE_FAILS": "Unable to contact slurm controller (connect failure)", "PAUSE": "0.1"}
SCRIPT = """#!/bin/bash
set -euo pipefail
source slurm/job.sh
begin "$OUT"
preflight
launch "$PYTHON" -m hpc_localsgd.train it
finish
"""


@dataclass
class Ended:
    status: int
    text: str
    told: str

    @property
    def requeued(self) -> bool:
        return "requeued 7" in self.told

    @property
    def trainings(self) -> list[str]:
        """The lines with which the training was started."""
        return [line for line in self.told.splitlines() if "hpc_localsgd.train" in line]

    @property
    def launchers(self) -> list[str]:
        """What stood in front of the training, each time."""
        return [line.partition(" python ")[0] for line in self.trainings]


class Stage:
    """A job that believes to be Slurm's job 7."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.told = folder, folder / "out", folder / "told"
        scripts = {"srun": LAUNCHER, "mpirun": LAUNCHER, "horovodrun": LAUNCHER}
        scripts |= {"python": PACKAGE, "contained": CONTAINED}
        for name, text in {**scripts, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "script").write_text(SCRIPT)
        self.site(f"PATH={folder}:$PATH PYTHON=python")

    def site(self, text: str) -> None:
        """Add to the site file."""
        site = self.folder / "site.sh"
        before = site.read_text() if site.exists() else "source slurm/sites/default.sh\n"
        site.write_text(f"{before}{text}\n")

    def sleeps_for(self, seconds: float) -> None:
        """Let every sleep of the job be as short."""
        (self.folder / "sleep").write_text(f"#!/bin/sh\nexec /bin/sleep {seconds}\n")
        (self.folder / "sleep").chmod(0o755)

    def start(self, template: str = "", *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start a template; by default one that trains and does nothing else."""
        script = ROOT / "slurm" / template if template else self.folder / "script"
        self.told.write_text("")
        env = {
            **os.environ,
            "SITE": str(self.folder / "site.sh"),
            "TOLD": str(self.told),
            "OUT": str(self.out),
            "PREFLIGHT": "0",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NTASKS": "4",
            "SLURM_TASKS_PER_NODE": "2(x2)",
            **variables,
        }
        return subprocess.Popen(
            ["bash", str(script), *options],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, template: str = "", *options: str, **variables: str) -> Ended:
        return self.end(self.start(template, *options, **variables))

    def end(self, job: subprocess.Popen[str]) -> Ended:
        text, _ = job.communicate(timeout=300)
        return Ended(job.returncode, text, self.told.read_text())

    def variables(self) -> dict[str, str]:
        """The environment that the last launcher was given."""
        lines = (self.out / "environment").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def is_training(self) -> bool:
        return "train it" in self.told.read_text()
