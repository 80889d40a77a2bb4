"""`several_runs.py`, in which torchvision's large transformer of images is a small one."""

from __future__ import annotations

from functools import wraps
from typing import Any

from hpc_localsgd.environment import garbage

garbage.leave_at_exit()
with garbage.importing():
    from hpc_localsgd.tasks.torchvision_import import require_torchvision

    models = require_torchvision().models


@wraps(models.vit_b_16)
def small_vit(weights: None = None, **options: Any) -> Any:
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
    return models.VisionTransformer(patch_size=16, **sizes, **options)


models._api.BUILTIN_MODELS["vit_b_16"] = small_vit
import several_runs  # noqa: E402, F401  # does all of it
