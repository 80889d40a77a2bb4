"""The Slow SDE of SGD and Local SGD along a manifold of minimisers (Gu et al., ICLR 2023).

After O(1/eta^2) steps the iterate moves along the minimisers, and there the length H of a round
shows: rounds of local steps leave the diffusion alone and strengthen the drift towards flat
minimisers by up to the factor K. Everything here is NumPy; a manifold is given as functions.

>>> import numpy as np
>>> from hpc_localsgd.analysis.slow_sde import Regime, psi
>>> psi(np.array([0.0, 1.0])).round(10)
array([0.        , 0.36787944])
>>> round(float(Regime(K=8, batch=8, lr=0.02, H=64).boost(np.array(1.0))), 4)
4.0518
"""

from __future__ import annotations

from hpc_localsgd.analysis.slow_sde.equation import Manifold, diffusion, drift
from hpc_localsgd.analysis.slow_sde.integrate import Path, euler_maruyama, flow_to_minimum
from hpc_localsgd.analysis.slow_sde.label_noise import label_noise_drift, regulariser
from hpc_localsgd.analysis.slow_sde.lyapunov import lyapunov, split
from hpc_localsgd.analysis.slow_sde.prediction import Prediction, Way, predict, way
from hpc_localsgd.analysis.slow_sde.psi import F, psi
from hpc_localsgd.analysis.slow_sde.regime import Regime

__all__ = [
    "F",
    "Manifold",
    "Path",
    "Prediction",
    "Regime",
    "Way",
    "diffusion",
    "drift",
    "euler_maruyama",
    "flow_to_minimum",
    "label_noise_drift",
    "lyapunov",
    "predict",
    "psi",
    "regulariser",
    "split",
    "way",
]
