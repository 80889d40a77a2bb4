"""Names of series in files of an older schema: a name means one thing in every file.

Schema 1 called two moments and two kinds of samples by one name. What it recorded under a name that
means something else today is read under a name that says what it is:

    before_exchange/...   before an exchange that leaves the workers different (gossip); today's
                          `spread`, `xi/...` and `gradient/effective_lr` are of the moment after it
    as_trained/...        on samples with augmentation, noise or mixup; today's are undisturbed
    sharpness/snapshot_xi_...   of the workers at a snapshot, which were called `sharpness/xi_...`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BEFORE, AS_TRAINED = "before_exchange/", "as_trained/"
_SHARPNESS = ("sharpness/xi_", "sharpness/snapshot_xi_")

# Algorithms of schema 1 that leave workers different after some exchange, as a header names them.
_APART = re.compile(
    r"\b(Gossip|D2|GradientTracking|Hierarchical|CoCoD|Overlap|StreamingDiLoCo)\b", re.IGNORECASE
)
_OF_A_MOMENT = re.compile(r"(spread|xi/.*|gradient/(effective_lr|orthogonal))")

# Tasks of schema 1 whose samples are others every time they are due, as a header names them.
_DISTURBED = re.compile(
    r"label_noise=|mixup=|^(manifold|quadratic)\b"
    r"|^(cifar10|cifar100|imagenet|synthetic_images)\b(?!.*augment=False)"
)
_OF_THE_LOSS = re.compile(
    r"xi/(mean_loss|worker_loss|gap|half_trace|curvature)|gradient/(effective_lr|norm)"
)


def name_today(name: str, attrs: Mapping[str, Any]) -> str:
    """Return the name under which a series of a file is read.

    Args:
        name: As it is in the file, for example ``xi/gap``.
        attrs: Attributes of the file's root.
    """
    if int(attrs.get("schema_version", 0)) != 1:
        return name
    if name.startswith(_SHARPNESS[0]):
        return name.replace(*_SHARPNESS, 1)
    apart = _OF_A_MOMENT.fullmatch(name) and _APART.search(str(attrs.get("algorithm", "")))
    other = _OF_THE_LOSS.fullmatch(name) and _DISTURBED.search(str(attrs.get("task", "")))
    return (BEFORE if apart else "") + (AS_TRAINED if other else "") + name


def name_in_file(name: str, attrs: Mapping[str, Any]) -> str | None:
    """Return a series' name in a file; None if the file has something else by that name.

    Args:
        name: As it is called today.
        attrs: Attributes of the file's root.
    """
    if int(attrs.get("schema_version", 0)) != 1:
        return name
    then = name.removeprefix(BEFORE).removeprefix(AS_TRAINED)
    if then.startswith(_SHARPNESS[1]):
        then = then.replace(_SHARPNESS[1], _SHARPNESS[0], 1)
    return then if name_today(then, attrs) == name else None
