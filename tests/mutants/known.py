"""Faults that are none: programs that do the same, each with the reason."""

from __future__ import annotations

# (file, the line, the line with the fault) -> why no test can notice
EQUAL: dict[tuple[str, str, str], str] = {
    (
        "attach/storage.py",
        "flat = torch.zeros(length, dtype=parameters[0].dtype, device=parameters[0].device)",
        "flat = torch.zeros(length, dtype=parameters[0].dtype, device=parameters[ -1].device)",
    ): "all parameters of a group are on one device",
    (
        "checkpoint/place.py",
        "def _moved(value: Any, device: torch.device, copy: bool = False) -> Any:",
        "def _moved(value: Any, device: torch.device, copy: bool = True) -> Any:",
    ): "a second copy of what was read from a file",
    (
        "checkpoint/folder.py",
        "row = np.full(_LOOKED_AT, -1)",
        "row = np.full(_LOOKED_AT, - 2)",
    ): "every negative number marks an empty place",
    (
        "checkpoint/keeper.py",
        "pause_s = 0.01 if self._run.world.n <= 16 else 0.05",
        "pause_s = 0.01 if self._run.world.n < 16 else 0.05",
    ): "how often the other ranks' files are looked for, not what is found",
}
