"""What the fork server imports first where loaders decode images. Nothing else should import it.

Torchvision, once, and not by every loader: it brings a part of torch's compiler along, and takes as
long as torch.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

from hpc_localsgd.tasks.vision import fork_server  # noqa: F401
from hpc_localsgd.tasks.vision.decoding import import_torchvision

gc.disable()
with suppress(ImportError, RuntimeError):  # the loader that needs it says so
    import_torchvision()
    import_module("torchvision.transforms.v2")
gc.freeze()
gc.enable()
