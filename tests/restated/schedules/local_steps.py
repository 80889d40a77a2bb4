"""H of the round that starts at step t with learning rate lr, in the papers' words.

Each schedule's durations are of a run of 60 steps whose rate warms up in 6.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from hpc_localsgd.schedules.local_steps import Schedule, doubling, every, phases, post_local, qsr

WARMUP = 6


def switched(t: int, lr: float) -> int:
    """Lin et al.: single steps until 40 % of the run, then 5."""
    return 1 if t < 24 else 5


def in_phases(t: int, lr: float) -> int:
    """Gu et al.: 2 steps, from 15 on 7, from 45 on 4; a round ends where a phase does."""
    if t < 15:
        return min(2, 15 - t)
    return min(7, 45 - t) if t < 45 else 4


def quadratic_rule(alpha: str, at_least: int, power: int, warmup: int) -> Callable[..., int]:
    """Gu et al. 2024: H = max(H_base, floor((alpha / lr)^2)), H_base while the rate warms up.

    In exact fractions of what was typed: (0.3 / 0.1)^2 is 9.
    """

    def H(t: int, lr: float) -> int:
        if t < warmup:
            return at_least
        exact = (Fraction(alpha) / Fraction(repr(lr))) ** power
        return max(at_least, exact.numerator // exact.denominator)

    return H


def doubled(t: int, lr: float) -> int:
    """Lu et al. 2023: 2, doubled every 10 steps, 12 at most."""
    return min(12, 2 * 2 ** (t // 10))


SCHEDULES: list[tuple[Schedule, Callable[[int, float], int]]] = [
    (every(5), lambda t, lr: 5),
    (post_local(switch="40%", every=5), switched),
    (phases(at=(15, "75%"), every=(2, 7, 4)), in_phases),
    (qsr(alpha=0.3, at_least=2), quadratic_rule("0.3", 2, 2, WARMUP)),
    (qsr(alpha=0.2, at_least=3, power=3.0, warmup="20%"), quadratic_rule("0.2", 3, 3, 12)),
    (qsr(alpha=0.25, at_least=1, power=1.0, warmup=0), quadratic_rule("0.25", 1, 1, 0)),
    (doubling(at_least=2, every=10, at_most=12), doubled),
]


def after_measuring(target: float, least: int, most: int, H: int, spread: float) -> int:
    """H target / spread, changed by a factor of two at most, to the nearest whole number."""
    factor = 2.0 if spread == 0 else target / spread
    return min(most, max(least, round(H * min(2.0, max(0.5, factor)))))


def after_losses(first: int, interval: int, decay: float, losses: list[float]) -> list[int]:
    """Wang & Joshi 2019: tau_l = ceil(sqrt(F / F_0) tau_0), or decay tau if that is not less.

    Of every round, whose loss is known at its end. An interval is looked at when so many steps were
    taken since the last look and there is a loss beside F_0.
    """
    finite = [loss for loss in losses if abs(loss) < float("inf")]
    H, lengths, since, seen = first, list[int](), 0, list[float]()
    for loss in losses:
        lengths.append(H)
        since += H
        if loss in finite and loss is not finite[0]:
            seen.append(loss)
        begun = loss in finite and loss is finite[0]
        if since >= interval and seen and not begun:
            root = (sum(seen) / len(seen) / finite[0]) ** 0.5
            tau = -int(-root * first // 1)
            H = max(1, tau if tau < H else int(decay * H))
            since, seen = 0, []
    return lengths
