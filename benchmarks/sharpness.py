"""Top ten Hessian eigenvalues and the trace: this package, PyHessian, curvlinops used plainly.

    pip install --target /tmp/peers --no-deps pyhessian curvlinops-for-pytorch==3.0.1 \
        backpack-for-pytorch einops einconv linear_operator opt-einsum jaxtyping mpmath \
        wadler-lindig
    PYTHONPATH=/tmp/peers python benchmarks/sharpness.py

Same model, parameters, samples and tolerances, one core each, and this package on two ranks as
well. The eigenvalues to a relative 1e-4 (residual here and in scipy's eigsh; in PyHessian the
change between two power iterations), the trace to a standard error of 2 %: the others have no such
rule, so they are asked for ten vectors at a time until theirs is as small. Targets: 3 x faster than
PyHessian on one core, 1.8 x more on two ranks. About two minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from reporting import write_report
from side_by_side import Figure, Gate, figures, hear_end, started, table, take_turns
from torch import nn

from hpc_localsgd.tasks.digits import conv, digits, mlp

EIGENVALUES, TOLERANCE, TRACE_TOLERANCE, VECTORS = 10, 1e-4, 0.02, 10
OURS, TWO, PYHESSIAN, CURVLINOPS = (
    "hpc_localsgd",
    "hpc_localsgd, 2 ranks",
    "PyHessian",
    "curvlinops",
)


@dataclass(frozen=True)
class Subject:
    """What is measured: a task, its module, how many samples, and how it is trained first."""

    spec: digits
    make: Callable[[], nn.Module]
    samples: int
    steps: int


# Without norms: curvlinops' Hessian cannot go through GroupNorm.
SUBJECTS = {
    "mlp": Subject(digits(hidden=128), lambda: mlp(128), 1437, 150),
    "conv": Subject(digits("conv", "none", hidden=32), lambda: conv("none", 32), 512, 60),
}
Found = tuple[list[float], float, float]  # eigenvalues, trace, its standard error


def subject_task(subject: Subject) -> Any:
    """Return the task of a subject, and its samples in one batch."""
    from hpc_localsgd.curvature import build_for_curvature, in_chunks, pieces

    task = build_for_curvature(subject.spec, batch=16, seed=0)
    return task, in_chunks(pieces(task, subject.samples), 10**9)


def trained(subject: Subject) -> torch.Tensor:
    """Return parameters after some steps of gradient descent, the same in every process."""
    from hpc_localsgd.curvature import Risk

    task, parts = subject_task(subject)
    risk, x = Risk(task, parts), task.init(0)
    for _ in range(subject.steps):
        x = x - 0.2 * risk.gradient(x)
    return x


def module_of(subject: Subject, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """Return the same model as a plain module, and the same samples, for the others."""
    task, parts = subject_task(subject)
    module = subject.make().eval()
    named = dict(module.named_parameters())
    for name, view in task.layout.views(trained(subject)).items():
        named[name].data = view.clone()
    inputs, targets = parts[0]
    return module.to(dtype), (inputs.to(dtype), targets)


def until_certain(draw: Callable[[], Any]) -> tuple[float, float]:
    """Mean and standard error of samples drawn ten at a time until the error is 2 %."""
    samples = np.asarray(draw())
    while True:
        mean, error = samples.mean(), samples.std(ddof=1) / np.sqrt(len(samples))
        if error <= TRACE_TOLERANCE * abs(mean) or len(samples) >= 2000:
            return float(mean), float(error)
        samples = np.concatenate([samples, np.asarray(draw())])


# --- the contestants: each makes its `measure() -> Found` -----------------------------------------


def pyhessian(subject: Subject) -> Callable[[], Found]:
    """Run PyHessian on one batch, its fastest way: the graph of the gradient is kept."""
    from pyhessian import hessian

    module, data = module_of(subject)

    def measure() -> Found:
        torch.manual_seed(0)
        for parameter in module.parameters():
            parameter.grad = None
        made = hessian(module, nn.functional.cross_entropy, data=data, cuda=False)
        values, _ = made.eigenvalues(maxIter=1000, tol=TOLERANCE, top_n=EIGENVALUES)
        trace = until_certain(lambda: made.trace(maxIter=VECTORS, tol=0.0))
        return sorted(values, reverse=True), *trace

    return measure


def curvlinops(subject: Subject) -> Callable[[], Found]:
    """Run curvlinops: its Hessian in scipy's eigsh, and ten random vectors at a time."""
    module, data = module_of(subject)

    def measure() -> Found:
        torch.manual_seed(0)
        H = operator(module, data)
        P = H.shape[0]

        def draw() -> Any:
            z = torch.randint(0, 2, (P, VECTORS)).float() * 2 - 1
            return (z * (H @ z)).sum(0).numpy()

        return eigenvalues(H, TOLERANCE, "float32"), *until_certain(draw)

    return measure


def operator(module: nn.Module, data: Any) -> Any:
    """Return the Hessian of curvlinops."""
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(module, nn.CrossEntropyLoss(), list(module.parameters()), [data])


def eigenvalues(H: Any, tolerance: float, dtype: str) -> list[float]:
    """Return the eigenvalues of an operator of curvlinops, by scipy, from one starting vector."""
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(H.shape[0]).astype(dtype)
    found = eigsh(
        H.to_scipy(), EIGENVALUES, which="LA", tol=tolerance, v0=start, return_eigenvectors=False
    )
    return sorted(found.tolist(), reverse=True)


def ours(subject: Subject) -> Callable[[], Found]:
    """Run what `python -m hpc_localsgd sharpness` does, alone or as rank 0."""
    from hpc_localsgd.curvature import hutchinson, top_eigenvalues

    x, new_team = trained(subject), team_of(subject)

    def measure() -> Found:
        team = new_team()
        team.at(x)
        pairs = top_eigenvalues(team.products, x, EIGENVALUES, tolerance=TOLERANCE)
        trace = hutchinson(
            team.products, x, tolerance=TRACE_TOLERANCE, most=2000, vectors=VECTORS, known=pairs
        )
        team.finish()
        return pairs.values.tolist(), trace.value, trace.error

    return measure


def team_of(subject: Subject) -> Callable[[], Any]:
    """Make the ranks of this job a team; its world and task are made once."""
    from hpc_localsgd.commands.sharpness.options import SharpnessOptions
    from hpc_localsgd.commands.sharpness.shared_loss import SharedLoss
    from hpc_localsgd.worlds.mpi import Mpi
    from hpc_localsgd.worlds.simulated import Simulated

    world: Any = Mpi()
    if world.n == 1:
        world = Simulated(1)
    task, _ = subject_task(subject)
    return lambda: SharedLoss(world, task, subject.samples, SharpnessOptions(run="").chunk)


def serving(subject: Subject) -> Callable[[], None]:
    """Serve as one of our ranks other than 0."""
    new_team = team_of(subject)
    return lambda: new_team().serve()


MAKE = {OURS: ours, TWO: ours, PYHESSIAN: pyhessian, CURVLINOPS: curvlinops}


def contestant(name: str, subject: Subject) -> None:
    """Run a rank: one step is everything, eigenvalues and trace."""
    import os

    torch.set_num_threads(1)
    first = os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0"
    measure: Callable[[], Any] = MAKE[name](subject) if first else serving(subject)
    gate, found = Gate(), None
    while gate.step():
        found = measure()
    gate.tell(found)


# --- the script -----------------------------------------------------------------------------------


def reference(subject: Subject) -> list[float]:
    """Return the eigenvalues in float64 to 1e-9, by curvlinops and scipy."""
    module, data = module_of(subject, torch.float64)
    return eigenvalues(operator(module, data), 1e-9, "float64")


def timed(name: str, rounds: int) -> tuple[dict[str, Figure], dict[str, Found]]:
    """Time all contestants on one subject, taking turns."""
    commands = {c: ["benchmarks/sharpness.py", "--contestant", c, "--subjects", name] for c in MAKE}
    two = {TWO: commands.pop(TWO)}
    with started(commands, 1) as alone, started(two, 2) as together:
        jobs = [*alone, *together]
        times = take_turns(jobs, {job.name: 1 for job in jobs}, rounds, warm_up=1)
        found = {job.name: next(f for f in hear_end(job) if f is not None) for job in jobs}
    return figures(times, OURS), found


def agreement(found: dict[str, Found], exact: list[float]) -> str:
    """Return how far each is from the reference, as a Markdown table.

    Raises:
        SystemExit: Our own eigenvalues or the traces disagree.
    """
    lines = [
        "| | largest eigenvalue | tenth | worst relative error | trace |",
        "|---|--:|--:|--:|--:|",
    ]
    errors = {}
    for name, (values, trace, error) in found.items():
        errors[name] = float(np.max(np.abs(np.array(values) / exact - 1)))
        lines.append(
            f"| {name} | {values[0]:.5f} | {values[-1]:.5f} | {errors[name]:.1e} "
            f"| {trace:.2f} +- {error:.2f} |"
        )
    traces, bars = (
        np.array([f[1] for f in found.values()]),
        np.array([f[2] for f in found.values()]),
    )
    apart = np.abs(traces[:, None] - traces) / np.hypot(bars[:, None], bars)
    if max(errors[OURS], errors[TWO]) > TOLERANCE or apart.max() > 5:
        sys.exit("the contestants disagree:\n" + "\n".join(lines))
    return "\n".join(lines)


def main() -> None:
    """Time all contestants on all subjects and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestant", choices=MAKE, help="used by the script itself")
    options = parser.parse_args()
    if options.contestant:
        return contestant(options.contestant, SUBJECTS[options.subjects[0]])
    parts, data = ["# Top ten eigenvalues and the trace of a Hessian"], {}
    for name in options.subjects:
        subject = SUBJECTS[name]
        speed, found = timed(name, options.rounds)
        exact = reference(subject)
        about = f"## {name}: {subject_task(subject)[0].dim} parameters, {subject.samples} samples"
        faster = speed[PYHESSIAN].ratio, 1 / speed[TWO].ratio
        said = f"{faster[0]:.1f} x faster than PyHessian; two ranks {faster[1]:.2f} x more."
        tables = [table(speed, OURS), agreement(found, exact)]
        parts.append("\n\n".join([about, said, *tables]))
        data[name] = {
            "speed": {n: asdict(f) for n, f in speed.items()},
            "found": {
                n: dict(zip(("eigenvalues", "trace", "error"), f, strict=True))
                for n, f in found.items()
            },
            "reference": exact,
        }
    write_report("sharpness", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
