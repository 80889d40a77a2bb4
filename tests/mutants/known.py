"""Faults that are none: programs that do the same, each with the reason."""

from __future__ import annotations

_MARGIN = "a margin for rounding in float32: the bound holds with either"

# (file, the line, the line with the fault) -> why no test can notice
EQUAL: dict[tuple[str, str, str], str] = {
    (
        "engine/state.py",
        "def moved(value: Any, device: torch.device, copy: bool = False) -> Any:",
        "def moved(value: Any, device: torch.device, copy: bool = True) -> Any:",
    ): "a second copy of what was read from a file",
    (
        "run/checkpoint/folder.py",
        "rows = np.full((_LOOKED_AT, 2), -1)",
        "rows = np.full((_LOOKED_AT, 2), - 2)",
    ): "every negative number marks an empty place",
    (
        "compressors/int8.py",
        "half = (0.5 + 2**-12) * per_entry(_scales(x, sizes).double(), sizes)",
        "half = (0.5 + 2**- 13) * per_entry(_scales(x, sizes).double(), sizes)",
    ): _MARGIN,
    (
        "compressors/int8.py",
        "half = (0.5 + 2**-12) * per_entry(_scales(x, sizes).double(), sizes)",
        "half = (0.5 + 3**-12) * per_entry(_scales(x, sizes).double(), sizes)",
    ): _MARGIN,
    (
        "compressors/sign.py",
        "return lost.norm(dim=1) * (1 + 2**-20)",
        "return lost.norm(dim=1) * (1 + 2**- 19)",
    ): _MARGIN,
    (
        "compressors/sign.py",
        "return lost.norm(dim=1) * (1 + 2**-20)",
        "return lost.norm(dim=1) * (1 + 2**- 21)",
    ): _MARGIN,
    (
        "compressors/sign.py",
        "return lost.norm(dim=1) * (1 + 2**-20)",
        "return lost.norm(dim=1) * (1 + 3**-20)",
    ): _MARGIN,
    (
        "compressors/sparse.py",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**-20)",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**- 19)",
    ): _MARGIN,
    (
        "compressors/sparse.py",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**-20)",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**- 21)",
    ): _MARGIN,
    (
        "compressors/sparse.py",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**-20)",
        "dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 3**-20)",
    ): _MARGIN,
    (
        "gradients/average_direction.py",
        "x.add_(normal(x[0], seed, 0, t), alpha=float(sigma))",
        "x.add_(normal(x[ -1], seed, 0, t), alpha=float(sigma))",
    ): "a row for its shape and type, which all have",
    (
        "compressors/base.py",
        "error_feedback: bool",
        "pass",
    ): "an annotation of a class that is no dataclass",
    (
        "gradients/average_direction.py",
        "weights = torch.from_numpy(z).to(x, non_blocking=True)",
        "weights = torch.from_numpy(z).to(x, non_blocking=False)",
    ): "when a copy to a GPU ends, not what is in it",
    (
        "gradients/perturbed.py",
        "self._t = 0",
        "self._t = -1",
    ): "nobody asks before a batch is drawn: that is refused",
    (
        "gradients/perturbed.py",
        "self._t = 0",
        "self._t = 1",
    ): "nobody asks before a batch is drawn: that is refused",
    (
        "gradients/perturbed.py",
        'Shift = Callable[["Rows", Sequence[int], int], None]',
        "pass",
    ): "a name for annotations",
    (
        "gradients/perturbed.py",
        'Climb = Callable[["Rows", "Rows"], None]',
        "pass",
    ): "a name for annotations",
    (
        "run/checkpoint/folder.py",
        "def is_whole(self, after: int, since_ns: int = 0) -> bool:",
        "def is_whole(self, after: int, since_ns: int = 1) -> bool:",
    ): "no file was written in the first nanosecond of 1970",
    (
        "run/checkpoint/last_writes.py",
        "if self._clock() >= until or not written:",
        "if self._clock() > until or not written:",
    ): "a pause more, where the clock shows the very end of the wait",
    (
        "algorithms/d2.py",
        "if least <= -1 / 3 + 1e-9:",
        "if least < -1 / 3 + 1e-9:",
    ): "an eigenvalue is known to some 1e-15: none is this very number",
    (
        "schedules/time_limit.py",
        "_UNITS = [(3600, 24), (60, 60), (1, 60)]  # seconds, and how many make the next",
        "_UNITS = [(3600, 23), (60, 60), (1, 60)]  # seconds, and how many make the next",
    ): "hours without days are first, and the first number has no bound",
    (
        "attach/other_tensors.py",
        "sums = np.array([[checksum(t.contiguous()) if t.numel() else 0 for t in tensors]])",
        "sums = np.array([[checksum(t.contiguous()) if t.numel() else -1 for t in tensors]])",
    ): "what is empty is so on all ranks: any number is the same on each",
    (
        "attach/collectives.py",
        "rate: float = 0.0",
        "rate: float = -1.0",
    ): "where no rate is asked for, all ranks say the same and nobody reads it",
    (
        "engine/non_finite.py",
        "mean = world.mean(others)[0] * (len(bad) / (len(bad) - int(bad.sum())))",
        "mean = world.mean(others)[ -1] * (len(bad) / (len(bad) - int(bad.sum())))",
    ): "all rows of a mean are the same",
    (
        "engine/optimizer.py",
        "together = moved(slice(0, 2))",
        "together = moved(slice(0, 3))",
    ): "there are two rows",
    (
        "engine/optimizer.py",
        "gradients = [torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]), torch.ones(2, 3)]",
        "gradients = [torch.tensor([[1.0, -2.0, 3.0], [0.5, 3.0, -1.0]]), torch.ones(2, 3)]",
    ): "two rows that differ, whatever is in them",
    (
        "gradients/perturbed.py",
        "words = np.random.SeedSequence([_STREAM, seed, worker, t]).generate_state(1, np.uint64)",
        "words = np.random.SeedSequence([_STREAM, seed, worker, t]).generate_state( 2, np.uint64)",
    ): "the first of two words is the one of one",
    (
        "gradients/perturbed.py",
        "self._t = 0",
        "pass",
    ): "nobody asks before a batch is drawn: that is refused",
    (
        "schedules/local_steps.py",
        "if t < int(self.warmup or 0) or self.alpha == 0:",
        "if t < int(self.warmup or -1) or self.alpha == 0:",
    ): "no step is below 0",
    (
        "algorithms/slowmo.py",
        'return {"anchor": x[0].clone(), "u": u, **coded_state(self.compressor, x, model)}',
        'return {"anchor": x[ -1].clone(), "u": u, **coded_state(self.compressor, x, model)}',
    ): "all workers begin with the same parameters",
    (
        "algorithms/diloco.py",
        "self.outer(torch.zeros(1))",
        "self.outer(torch.zeros( 2))",
    ): "made to see whether it can be, and thrown away",
    (
        "run/checkpoint/manager.py",
        "ASK_WITHIN = 1000  # steps, at most, until it is asked again",
        "ASK_WITHIN = 999  # steps, at most, until it is asked again",
    ): "how often a clock is asked, not what for",
    (
        "run/checkpoint/manager.py",
        "ASK_WITHIN = 1000  # steps, at most, until it is asked again",
        "ASK_WITHIN = 1001  # steps, at most, until it is asked again",
    ): "how often a clock is asked, not what for",
    (
        "run/checkpoint/last_writes.py",
        "pause_s = 0.01 if checkpoints.world.n <= 16 else 0.05",
        "pause_s = 0.01 if checkpoints.world.n < 16 else 0.05",
    ): "how often the other ranks' files are looked for, not what is found",
    (
        "attach/flat_gradient.py",
        "SPARSE = -(2.0**-20)  # fewer than 2^20 ranks",
        "SPARSE = -( 3.0**-20)  # fewer than 2^20 ranks",
    ): "a small negative number, of which fewer than one over the ranks is small enough",
    (
        "engine/agreement.py",
        "found: Any = None",
        "pass",
    ): "a check that fails ends in its message, and what it found is not asked for",
}
