"""The spread of the workers, and the other probes of an exchange, which share its copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc_localsgd.run.probes.base import Measurement
from hpc_localsgd.run.probes.exchange import BEFORE, MOMENT, AtExchange, ExchangeView
from hpc_localsgd.worlds.consensus import consensus_distance

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.types import Now, Rows


@dataclass
class Spread(AtExchange):
    """Consensus distance at an exchange: mean_k ||x_k - mean||^2, which is tr Xi and sigma_w^2.

    Just before an exchange that makes all workers equal, just after one that does not; then the
    spread before it is another series. Where the algorithm leaves all workers at their mean, the
    mean is known after the exchange and costs nothing; elsewhere it takes a collective of its own,
    which is not billed. Rounds of length 1 of algorithms that end equal are not measured: it would
    cost a copy of the parameters at every step.

    Attributes:
        every: Measured at the first exchange after each multiple of so many steps.
        also: Further probes of an exchange, each with its own cadence.
    """

    every: int
    also: tuple[AtExchange, ...] = ()
    _due: list[AtExchange] = field(default_factory=list, repr=False)
    _before: Rows | None = field(default=None, repr=False)
    _equal: bool = field(default=True, repr=False)

    def check(self, run: Run) -> None:
        """Check that the run has what the other probes measure, see `AtExchange.check`."""
        for probe in self.also:
            probe.check(run)

    def before_sync(self, run: Run, p: Position, now: Now) -> None:
        """Keep the parameters, when a measurement is due."""
        self._due = [probe for probe in (self, *self.also) if probe.due(run, p, now)]
        self._before = p.x.clone() if self._due else None
        self._equal = run.algorithm.makes_equal(p.state, now)

    def after_sync(self, run: Run, p: Position, now: Now) -> Iterator[Measurement]:
        """Yield `spread` and what else was due."""
        if self._before is None:
            return
        before, self._before = self._before, None
        if self._equal:
            known = p.x[0] if run.algorithm.ends_at_mean else None
            exchange = ExchangeView(run, p.t, now.lr, before, known)
        else:
            lr = run.rate(p.t) if p.t < run.steps else now.lr
            exchange = ExchangeView(run, p.t, lr, before, None, after=p.x)
        for probe in self._due:
            yield from probe.measure(exchange)

    def measure(self, exchange: ExchangeView) -> Iterator[Measurement]:
        """Yield `spread`; `before_exchange/spread` too if workers differ after the exchange."""
        world, about = exchange.run.world, "mean_k ||x_k - mean||^2"
        value = consensus_distance(exchange.rows, exchange.mean, world)
        value = 0.0 if value <= exchange.rounding else value  # NaN is neither
        said = f"{about} {MOMENT}; 0 where they differ by rounding"
        yield Measurement("spread", value, "1", (), said)
        if exchange.after is not None:
            value = consensus_distance(exchange.before, None, world)
            about = f"{about} before an exchange that leaves the workers different"
            yield Measurement(f"{BEFORE}spread", value, "1", (), about)
