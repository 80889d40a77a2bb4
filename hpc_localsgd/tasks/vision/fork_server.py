"""What the fork server of the loader processes imports first. Nothing else should import it.

It ignores requests to stop, and so do the processes it forks: Slurm and mpirun signal every process
of a job, only the rank knows what to do, and while it does it still needs its loaders. They end
with the rank (see `reader`), and then so does the fork server. Torch is imported here once, and not
by every loader.
"""

from __future__ import annotations

import gc

gc.disable()  # what is imported here stays: no collection looks through it, in no loader either

from hpc_localsgd.tasks.vision.reader import leave_signals_to_the_rank  # noqa: E402

leave_signals_to_the_rank()
gc.freeze()
gc.enable()
