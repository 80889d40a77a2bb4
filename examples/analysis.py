"""A trajectory, read: a notebook as a Python file, for VS Code and Jupyter (with jupytext).

    python examples/analysis.py runs/local

It needs h5py, numpy and matplotlib only; no torch, no MPI. The run is that of docs/tutorial.md.
"""

# %%
from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np

from hpc_localsgd.trajectory import Trajectory

run = Trajectory(sys.argv[1] if len(sys.argv) > 1 else "runs/local")
print(run)

# %% [markdown]
# ## Rounds: how long, and what they sent
#
# One entry for each of the S rounds, `[S]`, or for each round and worker, `[S, K]`.

# %%
rounds = run.rounds
sent = rounds.payload_bytes.mean(axis=1).sum()
parallel = 4 * run.P * run.totals.steps
H = rounds.local_steps
print(f"{len(H)} rounds, H from {H.min()} to {H.max()}")
print(f"a worker sent {sent / 1e6:.3g} MB; parallel SGD in float32: {parallel / 1e6:.3g} MB")

# %% [markdown]
# ## Spread: how far workers drift apart in a round
#
# Measured before each exchange. A random walk makes it proportional to the rate squared, times H.

# %%
spread = run.series("spread")
of_round = np.searchsorted(rounds.step_end, spread.step)
local = H[of_round] > 1
ratio = spread.value[local] / (rounds.lr[of_round] ** 2 * H[of_round])[local]
if local.any():
    print(f"spread / (lr^2 H) over {local.sum()} rounds: {np.nanmedian(ratio):.3g}")

# %% [markdown]
# ## Accuracy of the mean model

# %%
accuracy = run.series("eval/test/accuracy")
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].plot(accuracy.step, 100 * accuracy.value, ".-")
axes[0].set(xlabel="optimiser steps", ylabel="test accuracy of the mean model, %")
axes[1].semilogy(spread.step[local], spread.value[local], ".")
axes[1].set(xlabel="optimiser steps", ylabel="spread before an exchange")
figure.savefig("analysis.png")
