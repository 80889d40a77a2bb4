"""The digits of scikit-learn and its stratified split, without the seconds its import takes.

Importing scikit-learn loads scipy.stats and, where it is installed, pandas: a quarter of the time
every rank of a run needs to start. Its file of images is read here as `load_digits` reads it, and
divided as `train_test_split(..., stratify=labels)` divides it, number for number; a test compares.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hpc_localsgd.errors import ConfigurationError

FILE = Path("datasets") / "data" / "digits.csv.gz"  # in the package sklearn


@cache  # nobody writes to them
def load() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [N, 64], from 0 to 16, and labels [N].

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    found = find_spec("sklearn")  # looks for the package and does not import it
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    table = np.loadtxt(Path(found.submodule_search_locations[0]) / FILE, delimiter=",")
    table.setflags(write=False)
    return table[:, :-1], table[:, -1].astype(int)


def stratified(
    labels: np.ndarray, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the samples for training and for testing, every class in both.

    Args:
        labels: The class of each sample [N].
        test_fraction: Share of the samples for testing, rounded up.
        seed: Of the draw.

    Raises:
        ConfigurationError: One of the two would have fewer samples than there are classes.
    """
    classes, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
    n_test = math.ceil(test_fraction * len(labels))
    n_train = len(labels) - n_test
    if min(n_test, n_train) < len(classes):
        raise ConfigurationError(
            f"--task.test-fraction {test_fraction:g} leaves {n_train:,} images for training and "
            f"{n_test:,} for testing: each needs at least one of {len(classes)} classes"
        )
    draw = np.random.RandomState(seed)
    train_counts = _shares(counts, n_train, draw)
    test_counts = _shares(counts - train_counts, n_test, draw)
    train, test = [], []
    for c, n in enumerate(counts):
        members = np.flatnonzero(of_class == c)[draw.permutation(n)]
        train.append(members[: train_counts[c]])
        test.append(members[train_counts[c] : train_counts[c] + test_counts[c]])
    return draw.permutation(np.concatenate(train)), draw.permutation(np.concatenate(test))


def _shares(counts: np.ndarray, n: int, draw: np.random.RandomState) -> np.ndarray:
    """Return how many of n samples each class gives; the largest remainders are rounded up."""
    exact = counts / counts.sum() * n
    shares = np.floor(exact)
    missing = int(n - shares.sum())
    remainders = exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        (equal,) = np.nonzero(remainders == remainder)
        chosen = draw.choice(equal, size=min(len(equal), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    return shares.astype(int)
