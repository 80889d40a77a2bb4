"""What is measured at one snapshot, and how each number is called in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.commands.sharpness.factors import eigenpairs_of, factors, trace_of
from hpc_localsgd.commands.sharpness.values import Value, of_estimate, of_pairs, of_trace
from hpc_localsgd.curvature import (
    along,
    deviations,
    smoothed,
    smoothed_by_workers,
    spectral_density,
    worst_direction,
)
from hpc_localsgd.curvature.eigenvalues import gram_eigenvalues, rounding

if TYPE_CHECKING:
    from hpc_localsgd.commands.sharpness.options import SharpnessOptions
    from hpc_localsgd.commands.sharpness.shared_loss import SharedLoss
    from hpc_localsgd.trajectory import Snapshot
    from hpc_localsgd.types import Rows, Vector


@dataclass(frozen=True)
class Measurer:
    """Measurement of snapshots on rank 0, by requests to the team.

    Attributes:
        team: All ranks.
        options: What to measure.
        like: A vector of the dtype and device of the computation.
        eps: Of the dtype in which snapshots were kept: workers that differ by less are equal.
    """

    team: SharedLoss
    options: SharpnessOptions
    like: Vector
    eps: float

    def measure(self, snapshot: Snapshot) -> list[Value]:
        """Measure everything asked for at one snapshot.

        Raises:
            ConfigurationError: The loss is not deterministic.
        """
        x = self._vector(snapshot.mean)
        self.team.at(x)
        values = [*self._at_mean(x)]
        if snapshot.workers is not None:
            workers = self._vector(snapshot.workers)
            values += self._spread(x, workers)
            if self.options.each_worker:
                values += self._each(workers)
        return values

    def _vector(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.like)

    def _at_mean(self, x: Vector) -> Iterator[Value]:
        o, team = self.options, self.team
        yield Value("loss", float(team.losses(x[None])[0]), "mean model, on the subset", (), "nat")
        pairs = eigenpairs_of(team.products, o, x)
        yield from of_pairs(pairs)
        if o.eigenvectors and pairs is not None:
            about = "eigenvectors of the eigenvalues, in rows; 0 where one has not converged"
            rows = pairs.vectors.cpu().numpy()
            yield Value("eigenvectors", rows, about, ("eigenvalue", "parameter"))
        yield from of_trace(trace_of(team.products, o, x, pairs))
        yield from factors(team, o, x, pairs)
        about = f"E L(x + e) - L(x), e ~ N(0, {o.sigma:g}^2 I), pairs of opposite directions"
        drawn = {"probes": o.direction_probes, "seed": o.seed}
        yield from of_estimate(
            "average_direction", smoothed(team.losses, x, o.sigma, **drawn), about
        )
        rise = worst_direction(team.losses, team.gradient, x, o.rho)
        about = f"L(x + {o.rho:g} g/|g|) - L(x), one ascent step"
        yield Value("worst_direction", rise, about, (), "nat")
        if o.density:
            yield from self._density(x)

    def _density(self, x: Vector) -> Iterator[Value]:
        o = self.options
        found = spectral_density(
            self.team.products,
            x,
            steps=o.density_steps,
            probes=o.density_probes,
            vectors=o.vectors,
            seed=o.seed,
        )
        dims = ("probe", "node")
        about = "of the density of eigenvalues by stochastic Lanczos quadrature"
        yield Value("density_nodes", found.nodes, f"eigenvalues {about}", dims)
        yield Value("density_weights", found.weights, f"shares {about}, each probe sums to 1", dims)

    def _spread(self, x: Vector, workers: Rows) -> Iterator[Value]:
        """Yield both sides of (1/K) sum L(w_k) - L(w) = 1/2 tr(H Xi) of Zhu et al.

        Of the workers at the snapshot, which follows an exchange: not the run's own `xi/...`
        where that makes all workers equal. Those that agree to rounding have Xi = 0.
        """
        apart = deviations(workers)
        trace = float((apart.double() ** 2).sum() / len(apart))
        if trace <= rounding(workers.mean(0), self.eps):
            apart, workers, trace = torch.zeros_like(apart), x.expand_as(apart), 0.0
        about = "tr Xi, the spread of the workers at the snapshot; 0 where they differ by rounding"
        yield Value("snapshot_xi_trace", trace, about)
        values = gram_eigenvalues(apart) / len(apart)
        about = "of Xi at the snapshot, descending; all others are 0"
        yield Value("snapshot_xi_eigenvalues", values, about, ("rank",))
        yield from self._landscape(x, workers, apart)

    def _landscape(self, x: Vector, workers: Rows, apart: Rows) -> Iterator[Value]:
        """Yield what the deviations [K, P] at the snapshot say of the loss."""
        o, team = self.options, self.team
        centre = float(team.losses(x[None])[0])
        gap = float(team.losses(workers).mean()) - centre if apart.any() else 0.0
        about = "(1/K) sum_k L(w_k) - L(mean), BatchNorm statistics of the mean model"
        yield Value("snapshot_xi_gap", gap, about, (), "nat")
        curved = along(team.products, apart, vectors=o.vectors)
        half = curved.sum() / (2 * len(apart))
        about = "1/2 tr(H Xi), what snapshot_xi_gap is to second order"
        yield Value("snapshot_xi_half_trace", half, about, (), "nat")
        lengths = (apart.double() ** 2).sum(1).cpu().numpy()
        about = "d^T H d / |d|^2 along each worker's deviation d from the mean"
        ratio = np.where(lengths > 0, curved / np.where(lengths > 0, lengths, 1.0), np.nan)
        yield Value("snapshot_xi_curvature", ratio, about, ("worker",))
        drawn = {"probes": o.direction_probes, "seed": o.seed}
        found = smoothed_by_workers(team.losses, x, apart, **drawn)
        yield from of_estimate("snapshot_xi_smoothed", found, "E L(x + e) - L(x), e ~ N(0, Xi)")

    def _each(self, workers: Rows) -> list[Value]:
        o, team, rows = self.options, self.team, []
        for w in workers:
            team.at(w)
            pairs = eigenpairs_of(team.products, o, w)
            rows.append([*of_pairs(pairs), *of_trace(trace_of(team.products, o, w, pairs))])
        return [
            Value(
                f"workers/{same[0].name}",
                np.stack([np.asarray(v.value, dtype=np.float64) for v in same]),
                f"each worker's own model: {same[0].meaning}",
                ("worker", *same[0].dims),
            )
            for same in zip(*rows, strict=True)
        ]
