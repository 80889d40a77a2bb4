"""A place in a run: a copy of all that decides how one rank continues from between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.engine.state import moved
from hpc_localsgd.run.checkpoint.resharding import NO_STREAMS, TAKEN, has_drawn
from hpc_localsgd.run.stderr import say
from hpc_localsgd.worlds.pending import Pending

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run


DRAWN_ANEW = "what the model draws (dropout) starts over from the seed: "
WHERE = ("t", "s", "begin", "end", "parallel")  # of a position


@dataclass(frozen=True)
class RankCheckpoint:
    """State of one rank, in host memory.

    Attributes:
        after: Steps taken at the last exchange before it, 0 if there was none. The places of all
            ranks fit together when this is the same.
        t: Steps taken.
        state: Everything, as tensors and plain values.
    """

    after: int
    t: int
    state: dict[str, Any]

    @classmethod
    def of(
        cls, run: Run, p: Position, after: int, record: dict[str, Any] | None = None
    ) -> RankCheckpoint:
        """Return a copy of where a run is now.

        Exchanges under way are left out: `Algorithm.resume` begins them again.

        Args:
            run: Its parameters, buffers, optimiser and random numbers.
            p: Between two steps.
            after: As above.
            record: What the record holds of rounds that are not written yet.
        """
        device = run.world.device
        state = {
            "place": {name: getattr(p, name) for name in WHERE},
            "schedule": p.schedule.observed(),
            "after": after,
            "steps": run.steps,
            "workers": run.world.K,
            "x": p.x,
            "sync": {k: v for k, v in p.state.items() if not isinstance(v, Pending)},
            "buffers": run.task.buffers,
            "task": run.task.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "record": record or {},
        }
        return cls(after, p.t, moved(state, torch.device("cpu"), copy=True))

    @classmethod
    def saved(cls, state: dict[str, Any]) -> RankCheckpoint:
        """Make a place from what a shard holds."""
        return cls(state["after"], state["place"]["t"], state)

    def restore(self, run: Run, p: Position) -> Position:
        """Restore a run to this place. No collective; `Algorithm.resume` follows on all ranks."""
        state, device = self.state, run.world.device
        p.x.copy_(state["x"])
        run.task.buffers.copy_(state["buffers"])
        run.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda":
            _restore_gpu_numbers(state["cuda_rng"], device, aloud=run.world.rank == 0)
        run.task.load_state_dict(state["task"])  # and what its workers draw, after the process's
        if run.world.rank == 0 and _streams_are_missing(state, run):
            say(f"{DRAWN_ANEW}{NO_STREAMS}")
        p.state = moved(state["sync"], device)
        for name in WHERE:
            setattr(p, name, state["place"][name])
        if state["schedule"] is not None:
            p.schedule = run.schedule.having_observed(state["schedule"])
        return p


def _streams_are_missing(state: dict[str, Any], run: Run) -> bool:
    """Return whether workers that share a process drew from its generator, and no longer do.

    One that is alone in it goes on there, and so do all that draw at once; of workers that came
    from other ranks it was said already.
    """
    together = len(state["x"]) > 1 and TAKEN not in state
    kept = "draws" in state["task"] or bool(state["task"].get("vmapped", False))
    had = together and not kept and "draws" in run.task.state_dict()
    return had and has_drawn(state["rng"])


def _restore_gpu_numbers(kept: torch.Tensor | None, device: torch.device, aloud: bool) -> None:
    """Restore the GPU's generator; a job on CPUs kept none, and the seed's state stays."""
    if kept is not None:
        torch.cuda.set_rng_state(kept, device)
    elif aloud:
        say(
            "the checkpoint was written on a CPU: the run continues, but not bit for bit, and its "
            "GPU's random numbers (dropout) start over from the seed"
        )
