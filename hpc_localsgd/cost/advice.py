"""What a plan should make its reader think about, and what to type.

One function a warning, each a sentence or two, or nothing. They look at the plan alone, so they
are the same on a laptop as on the cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpc_localsgd.cost.formatting import grouped, human_seconds, slurm_time
from hpc_localsgd.cost.preview import Preview

NO_GAP = 1e-9  # a spectral gap below it is none
LITTLE = 0.05  # psi below it: local steps change the drift by less than a twentieth


@dataclass(frozen=True)
class Advice:
    """One warning: a stable name for machines, sentences for people."""

    kind: str
    text: str


@dataclass(frozen=True)
class Circumstances:
    """Facts that the warnings need beside the plan itself.

    Attributes:
        K: Workers.
        time_limit_s: Of the job; NaN if not known, infinity if there is none.
        evaluate_every: Cadence of evaluations in steps; 0 for never.
        momentum: Of the local SGD; None when the optimiser is another one.
        topology: How the algorithm's topology is spelled; empty for averages over all workers.
        gap: Spectral gap of the topology; NaN without one.
        parallel: Whether parallel SGD was asked for, whatever the schedule says.
        measured: Whether the schedule measures, so that its rounds are not known before the run.
    """

    K: int = 1
    time_limit_s: float = math.nan
    evaluate_every: int = 0
    momentum: float | None = None
    topology: str = ""
    gap: float = math.nan
    parallel: bool = False
    measured: bool = False

    @property
    def local(self) -> bool:
        """Whether there are workers that could take local steps."""
        return self.K > 1 and not self.parallel


def advise(plan: Preview, given: Circumstances) -> list[Advice]:
    """Return all warnings that apply, the most serious first."""
    said = ((check.__name__, check(plan, given)) for check in CHECKS)
    return [Advice(kind, text) for kind, text in said if text is not None]


def disconnected(plan: Preview, given: Circumstances) -> str | None:
    """Warn that the workers never agree."""
    del plan
    if not given.gap <= NO_GAP:
        return None
    return (
        f"{given.topology} has spectral gap 0 for {given.K} workers: they never agree on one "
        "model. Choose a connected topology (--algorithm.topology ring), or lazy(of=...) where "
        "the graph has two sides that take turns."
    )


def round_over_limit(plan: Preview, given: Circumstances) -> str | None:
    """Warn that the longest round does not fit in a job."""
    r, limit_s = plan.longest, given.time_limit_s
    round_s = r.H * plan.step_s
    if not round_s > limit_s:
        return None
    return (
        f"The round from step {grouped(r.begin)} takes {grouped(r.H)} steps, about "
        f"{human_seconds(round_s)}, and the job may last {human_seconds(limit_s)}: a whole job "
        "passes without an exchange, and a checkpoint that waits for the end of a round is never "
        f"written. Ask for more time (#SBATCH --time={slurm_time(1.2 * round_s)}) or shorten the "
        "round (a smaller --schedule.alpha, or another --schedule)."
    )


def run_over_limit(plan: Preview, given: Circumstances) -> str | None:
    """Warn that the run needs several jobs."""
    total_s = plan.compute_s + (0.0 if math.isnan(plan.exchange_s) else plan.exchange_s)
    if not total_s > given.time_limit_s:
        return None
    jobs = math.ceil(total_s / given.time_limit_s)
    return (
        f"The run takes about {human_seconds(total_s)} and the job may last "
        f"{human_seconds(given.time_limit_s)}: it needs about {jobs} jobs, the later ones with "
        f"--resume, or one with #SBATCH --time={slurm_time(1.2 * total_s)}."
    )


def limit_without_step_time(plan: Preview, given: Circumstances) -> str | None:
    """Warn that a time limit says nothing while the time of a step is unknown."""
    if not math.isfinite(given.time_limit_s) or not math.isnan(plan.step_s):
        return None
    return (
        f"Whether the run fits in {human_seconds(given.time_limit_s)} depends on the seconds of a "
        "local step: time a short run (--steps 50) and give --step-time SECONDS."
    )


def one_worker(plan: Preview, given: Circumstances) -> str | None:
    """Warn that there is only one worker."""
    del plan
    if given.K > 1:
        return None
    return "One worker has no other to average with, and sends nothing: give --workers 4, say."


def not_known(plan: Preview, given: Circumstances) -> str | None:
    """Warn of a plan that the run will not follow."""
    if not given.measured:
        return None
    return (
        "The schedule finds the length of each round from what the run measures. This plan shows "
        f"every round with the length of the first, {plan.longest.H}: the most that can be sent."
    )


def never_local(plan: Preview, given: Circumstances) -> str | None:
    """Warn of a method of local steps that takes none."""
    saves = plan.share < 0.99 or plan.exchange_s < 0.95 * plan.parallel_s
    if not given.local or given.topology or plan.longest.H > 1 or saves or given.measured:
        return None
    return (
        "The schedule never leaves H = 1, so this is parallel SGD and saves nothing. For local "
        "steps give --schedule every --schedule.steps 8, or --schedule post_local "
        '--schedule.switch "50%" --schedule.every 16.'
    )


def sends_more(plan: Preview, given: Circumstances) -> str | None:
    """Warn that the method needs more time on the network than parallel SGD."""
    if given.K == 1 or not plan.exchange_s > 1.05 * plan.parallel_s:
        return None
    text = (
        f"The exchanges take {plan.exchange_s / plan.parallel_s:.3g} times as long as those of "
        "parallel SGD. Exchange less often (--schedule every --schedule.steps 8)"
    )
    if given.topology:
        text += ", or with fewer neighbours (--algorithm.topology one_peer_exponential)"
    return text + "."


def local_steps_do_little(plan: Preview, given: Circumstances) -> str | None:
    """Warn that local steps do little: psi(2 eta H lambda), about eta H lambda, is small.

    psi is what local steps add to the drift towards flat minima, as a fraction of the most they
    can add. eta is lr / (1 - momentum). lambda, the curvature along a noisy direction, is not
    known before a run; 1 is taken. The theory is of SGD, so other optimisers are left alone.
    """
    if given.momentum is None or not given.local or plan.longest.H == 1:
        return None
    local = (stretch for stretch in plan.stretches if stretch.H > 1)
    most = max(stretch.lr_high * stretch.H for stretch in local) / max(1 - given.momentum, 1e-9)
    if most >= LITTLE:
        return None
    matters = f"above {LITTLE / most:.2g}" if most > 0 else "beyond any bound"
    return (
        f"lr H / (1 - momentum) is at most {most:.2g}: traffic is saved, but local steps move the "
        f"run noticeably (by more than {100 * LITTLE:.0f} % of what they can) only along "
        f"directions with curvature {matters}. That curvature is not known before a run, so this "
        "is a rule of thumb (psi of the Slow SDE at curvature 1). If generalisation is the aim, "
        "lengthen the rounds or raise --rate.lr."
    )


def evaluates_within_rounds(plan: Preview, given: Circumstances) -> str | None:
    """Warn of evaluations that fall within rounds, where the workers differ."""
    r = plan.longest
    if not given.local or not 0 < given.evaluate_every < r.H:
        return None
    return (
        f"Evaluations come every {grouped(given.evaluate_every)} steps and rounds last up to "
        f"{grouped(r.H)}: those within a round are of the average of workers that are apart, and "
        "each costs an exchange that is not billed as training. For evaluations no finer than "
        f"rounds give --evaluate-every {r.H}."
    )


CHECKS = (
    disconnected,
    round_over_limit,
    run_over_limit,
    limit_without_step_time,
    one_worker,
    not_known,
    never_local,
    sends_more,
    local_steps_do_little,
    evaluates_within_rounds,
)
