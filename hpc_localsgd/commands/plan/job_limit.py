"""The time limit of the Slurm job this process runs in, if it runs in one."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.time_limit import seconds_of

PATIENCE_S = 10.0  # a busy controller may be slow, and a plan does not depend on it


def job_limit_s(environ: Mapping[str, str] = os.environ) -> float:
    """Return the seconds this job may last in all; NaN outside a job, or if Slurm does not say."""
    job, squeue = environ.get("SLURM_JOB_ID"), shutil.which("squeue", path=environ.get("PATH"))
    if not job or squeue is None:
        return math.nan
    asked = [squeue, "--noheader", "--jobs", job, "--format", "%l"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        return seconds_of(said.stdout)
    except (OSError, subprocess.SubprocessError, ConfigurationError):
        return math.nan
