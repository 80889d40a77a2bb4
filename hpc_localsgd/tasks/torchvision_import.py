"""Import torchvision beside any torch, the CPU build included.

The wheels of torchvision on PyPI are linked against CUDA. Beside a CPU build of torch its library
of compiled operators does not load, and `import torchvision` stops with "operator
torchvision::nms does not exist", because it attaches Python code to two operators which that
library would have declared. Nothing here uses them (they find boxes in images); models, data sets
and transforms need no compiled operator. So: declare the two, without an implementation, and
import again.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

from hpc_localsgd.errors import ConfigurationError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# torch forgets a declaration as soon as the Library object that made it is collected.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision in whatever way this machine allows, and return it.

    Raises:
        ImportError: torchvision is not installed; the text says what to type.
        RuntimeError: torchvision fails for another reason than the missing operators.
    """
    try:
        return _imported()
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError(
            "torchvision is not installed: pip install --no-deps torchvision pillow"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
    _declare_operators()
    return _imported()


def require_torchvision() -> ModuleType:
    """Import torchvision for a run that needs it, and return it.

    Raises:
        ConfigurationError: It is not installed, or cannot be imported.
    """
    try:
        return import_torchvision()
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(f"this task needs torchvision: {error}") from error


def _imported() -> ModuleType:
    import torchvision

    return torchvision


def _declare_operators() -> None:
    # The failed attempt leaves half-imported submodules behind, which a second import would reuse.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
