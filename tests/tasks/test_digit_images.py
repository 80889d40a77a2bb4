"""The digits are scikit-learn's, divided as it divides them, without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.digit_images import load, stratified

FRACTIONS = (0.01, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.777, 0.99)
# What short runs leave loaded, and whether garbage is collected again.
SHORT_RUN = """
import gc, sys
from hpc_localsgd.train import main
small = "--steps=2 --algorithm=diloco --task.hidden=4 --figures=false --evaluate-every=0".split()
assert main([*small, f"--out={sys.argv[1]}"]) == 0
assert main([*small, "--workers=3", "--replicas=vmap", f"--out={sys.argv[1]}-3"]) == 0
assert gc.isenabled()
print({"sklearn", "pandas", "scipy", "matplotlib", "torch._dynamo", "sympy"} & set(sys.modules))
"""


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # two seconds, which other workers do not wait for

    for ours, theirs in zip(load(), load_digits(return_X_y=True), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("counts", [(40, 40, 40), (100, 7, 13), (3, 2, 500)])
def test_the_split_is_that_of_scikit_learn(counts: tuple[int, ...]) -> None:
    """Digits and classes of very different sizes, whose remainders are equal and are not."""
    from sklearn.model_selection import train_test_split

    uneven = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    for labels in (load()[1], uneven):
        everything = np.arange(len(labels))
        for fraction in FRACTIONS:
            if min(fraction, 1 - fraction) * len(labels) < len(np.unique(labels)):
                continue
            for seed in range(3):
                theirs = train_test_split(
                    everything, test_size=fraction, random_state=seed, stratify=labels
                )
                for part, other in zip(stratified(labels, fraction, seed), theirs, strict=True):
                    np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize(("fraction", "said"), [(0.001, "1,795 .* and 2"), (0.999, "1 .*1,796")])
def test_a_part_too_small_for_ten_digits_is_refused(fraction: float, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"leaves {said} for testing: each needs"):
        stratified(load()[1], fraction, 0)


def test_a_run_loads_none_of_the_slow_libraries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHORT_RUN, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "set()"
