"""What describes the loss is of samples as they are stored, whatever the run trains on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small_run

from hpc_localsgd.curvature import build_for_curvature, pieces
from hpc_localsgd.run.probes import Deviations, Gradients
from hpc_localsgd.run.probes.exchange import ExchangeView
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.manifold import manifold
from hpc_localsgd.tasks.quadratic import quadratic
from hpc_localsgd.tasks.synthetic_images import synthetic_images

OF_THE_NOISE = ("orthogonal", "orthogonal_of_samples", "orthogonal_of_spread")
OF_THE_NOISE += ("noise_trace", "noise_scale", "signal")
images = synthetic_images(model="resnet8", norm="group", groups=4, size=8, samples=96)
SPECS = [
    digits(hidden=4, label_noise=0.4),
    replace(images, label_noise=0.2, mixup=0.5),
    manifold(pairs=3, tangent=0.3),
    quadratic(dim=5, noise=2.0),
]


def found(spec: TaskSpec, t: int = 8) -> dict[str, Any]:
    run = small_run(spec=spec, K=3, batch=4)
    draw = torch.Generator().manual_seed(1)
    x = run.task.init(0) + 0.05 * torch.randn(3, run.task.dim, generator=draw, dtype=torch.float64)
    exchange = ExchangeView(run, t, 0.1, x, None)
    probes = Deviations(1, 24), Gradients(1, 24, fresh=spec.fresh)
    return {m.name: m.value for probe in probes for m in probe.measure(exchange)}


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_noise_mixup_and_augmentation_do_not_change_what_describes_the_loss(spec: TaskSpec) -> None:
    noisy, clean = found(spec), found(spec.undisturbed())
    for name, value in clean.items():
        if not name.endswith(OF_THE_NOISE):
            np.testing.assert_array_equal(noisy[name], value, err_msg=name)
    assert noisy["gradient/noise_trace"] != clean["gradient/noise_trace"]


def test_the_loss_is_the_same_at_every_exchange() -> None:
    """So that a difference between two moments is of the models."""
    first, later = (found(SPECS[0], t) for t in (8, 400))
    for name in ("xi/mean_loss", "xi/worker_loss", "xi/gap", "gradient/norm"):
        np.testing.assert_array_equal(first[name], later[name])


@pytest.mark.parametrize("spec", [manifold(pairs=3, tangent=0.3), quadratic(dim=5, noise=2.0)])
def test_curvature_of_a_formula_is_measured_on_its_exact_loss(spec: TaskSpec) -> None:
    task = build_for_curvature(spec, batch=4, dtype=torch.float64)
    x = task.init(3)
    for batch in pieces(task, 16):
        assert float(task.loss(x, batch)) == pytest.approx(float(task.risk(x)), rel=1e-12)  # type: ignore[attr-defined]


def test_without_spread_the_effective_rate_of_noisy_labels_is_the_rate() -> None:
    """Both gradients are of one loss; noise on one side only would lower it."""
    run = small_run(spec=digits(hidden=4, label_noise=0.5), K=3, batch=400)
    x = run.task.init(0).repeat(3, 1)
    exchange = ExchangeView(run, 0, 0.1, x, None)
    probe = Gradients(1, 1200, fresh=True)
    value = {m.name: m.value for m in probe.measure(exchange)}["gradient/effective_lr"]
    assert value == pytest.approx(0.1, rel=0.1)
