"""Rank 0 freezes rank 1, waits for it in Horovod, and has another thread of its own thaw it.

That one begins when the main thread has come to the wait, so that it runs while that lasts.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"

import horovod.torch as hvd
import torch
from mpi4py import MPI


def thaw(pid: int) -> None:
    main = threading.main_thread().ident
    while "horovod" not in sys._current_frames()[main].f_code.co_filename:
        time.sleep(0.01)
    time.sleep(1.0)
    print("a thread runs", flush=True)
    os.kill(pid, signal.SIGCONT)


hvd.init()
fellow = MPI.COMM_WORLD.allgather(os.getpid())[1]
if hvd.rank() == 0:
    os.kill(fellow, signal.SIGSTOP)
time.sleep(1.0)  # rank 1 is frozen in it; Horovod's thread here comes to its next cycle and waits
if hvd.rank() == 0:
    threading.Thread(target=thaw, args=(fellow,)).start()
mean = hvd.allreduce(torch.full((3,), float(hvd.rank())), name="mean")
assert mean.tolist() == [0.5, 0.5, 0.5]
hvd.shutdown()
