"""TensorBoard: `tensorboard --logdir runs` beside the run."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, writer: SummaryWriter) -> None:
        """Write by this writer."""
        self._writer = writer

    def log(self, t: int, values: dict[str, float]) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, t)

    def close(self, status: str) -> None:
        """Write how the run ended, and close the file."""
        self._writer.add_text("status", status)
        self._writer.close()


def begin(out: Path, config: str) -> TensorBoard:
    """Begin an event file."""
    writer = SummaryWriter(str(out / "tensorboard"))
    writer.add_text("config", f"```yaml\n{config}\n```")
    return TensorBoard(writer)
