"""`python -m hpc_localsgd landscape RUN`: joins the world, shares the points, draws the result.

Every rank evaluates whole points on the same samples, so the numbers do not depend on how many
ranks there are, to the last bit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.commands.collective_command import measure
from hpc_localsgd.commands.landscape.options import PROG, LandscapeOptions, parse
from hpc_localsgd.commands.output import put
from hpc_localsgd.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from hpc_localsgd.commands.landscape.slices import Runs, Slice
    from hpc_localsgd.commands.landscape.surface import Surface
    from hpc_localsgd.worlds.base import World

A_RANK = 4  # points of a rank between two writes to the disk


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a slice as the command line says; return the exit status."""
    return measure(argv, PROG, parse, landscape)


def landscape(options: LandscapeOptions, world: World) -> None:
    """Evaluate on all ranks together: rank 0 reads, decides and writes.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    from hpc_localsgd.commands.landscape.landscape_file import LandscapeFile
    from hpc_localsgd.commands.landscape.slices import open_runs, slice_of
    from hpc_localsgd.commands.landscape.surface import Surface, shapes_of
    from hpc_localsgd.commands.sharpness.measured_run import rebuilt
    from hpc_localsgd.commands.sharpness.shared_loss import text_of_rank_0
    from hpc_localsgd.engine.agreement import agree

    first = world.rank == 0
    runs: Any = agree(world, lambda: open_runs(options) if first else None)
    text = text_of_rank_0(world, runs.run.config_text if first else "")
    task = agree(world, lambda: rebuilt(text, options, world.device, runs.run if first else None))
    surface = Surface(task, options.samples, options.chunk, options.test)
    found: Any = agree(world, lambda: slice_of(runs, shapes_of(task), options) if first else None)
    store: Any = agree(world, lambda: LandscapeFile(runs, found, options) if first else None)
    missing = store.missing.tolist() if first else []
    asked = {"axes": [a.tolist() for a in found.axes], "missing": missing} if first else {}
    grid = json.loads(text_of_rank_0(world, json.dumps(asked)))
    basis = _basis(world, found, len(grid["axes"]), task.dim)
    for index in _blocks(grid["missing"], A_RANK * world.n):
        values = _shared(world, surface, basis, grid["axes"], index)
        if first:
            with _kept(store.path):
                store.add(index, values)
            _progress(grid["missing"], index)
    if first:
        with _kept(store.path):
            store.close()
            _conclude(runs, surface, store.path)


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Say of a disk that refuses what it leaves: the points so far are on it."""
    from hpc_localsgd.trajectory.diskspace import refused, to_continue

    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot write {refused(error, path)}. The points before are in {path}: "
            f"{to_continue(error)}"
        ) from error


def _basis(world: World, found: Slice | None, d: int, P: int) -> Any:
    """Return the origin and directions of rank 0 on every rank: float64 ``[1 + d, P]``."""
    import torch

    row = torch.zeros(1, (1 + d) * P, dtype=torch.float64, device=world.device)
    if found is not None:
        whole = np.concatenate([found.origin[None], found.directions])
        row[0] = torch.from_numpy(np.ascontiguousarray(whole).ravel()).to(world.device)
    return world.broadcast(row).view(1 + d, P)


def _blocks(missing: list[int], size: int) -> list[np.ndarray]:
    return [np.array(missing[at : at + size]) for at in range(0, len(missing), size)]


def _shared(
    world: World, surface: Surface, basis: Any, axes: list[list[float]], index: np.ndarray
) -> np.ndarray:
    """Return values ``[n, 3]`` at these flat indices; each rank evaluates its share."""
    import torch

    shape = tuple(len(axis) for axis in axes)
    mine = np.full((1, A_RANK, 3), np.nan)
    for j, flat in enumerate(index[world.rank :: world.n]):
        place = np.unravel_index(int(flat), shape)
        weights = [1.0, *(axis[i] for axis, i in zip(axes, place, strict=True))]
        x = torch.tensor(weights, dtype=torch.float64, device=basis.device) @ basis
        mine[0, j] = surface.at(x.to(surface.like))
    everyone = world.gather(mine)  # [n, A_RANK, 3]
    found = np.empty((len(index), 3))
    for rank in range(world.n):
        own = found[rank :: world.n]
        own[:] = everyone[rank, : len(own)]
    return found


def _progress(missing: list[int], index: np.ndarray) -> None:
    done = missing.index(int(index[-1])) + 1
    if sys.stderr.isatty():
        end = "\n" if done == len(missing) else ""
        sys.stderr.write(f"\r{done} of {len(missing)} points{end}")
        sys.stderr.flush()


def _conclude(runs: Runs, surface: Surface, path: Path) -> None:
    """Draw the file and say what is in it, on rank 0."""
    from hpc_localsgd.analysis.draw.landscape import draw_landscape
    from hpc_localsgd.analysis.figure_files import house_style, save
    from hpc_localsgd.analysis.landscape import Landscape
    from hpc_localsgd.commands.landscape.slices import figures_of

    found = Landscape.read(path)
    files = figures_of(path)
    with house_style(path.stem):
        figure = draw_landscape(found)
        for file in files:
            save(figure, file)
    shape = " x ".join(str(len(axis)) for axis in found.axes)
    lines = [f"{found.title}: {shape} points, on {surface.samples:,} training samples"]
    z = found.values["train_loss"]
    if np.isfinite(z).any():
        lines.append(f"train loss {np.nanmin(z):.4g} to {np.nanmax(z):.4g}")
    if found.directions == "between":
        lines.append(f"barrier {found.barrier('train_loss'):.4g} (train)" + _test_barrier(found))
    if len(found.explained):
        shares = " and ".join(f"{100 * share:.1f} %" for share in found.explained)
        of = "workers' spread" if found.directions == "workers" else "path"
        lines.append(f"the directions hold {shares} of the {of}")
    if left := len(runs.steps) - len(found.step):
        lines.append(f"{left} of the run's snapshots are left out: they are not finite")
    lines.append(f"{path} {' '.join(str(file) for file in files)}")
    put("\n".join(lines))


def _test_barrier(found: Any) -> str:
    barrier = found.barrier("test_loss")
    return f", {barrier:.4g} (test)" if np.isfinite(barrier) else ""
