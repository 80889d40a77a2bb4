"""A recorded task that cannot be had here is refused in words, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpc_localsgd.commands.sharpness.measured_run import rebuilt
from hpc_localsgd.commands.sharpness.options import SharpnessOptions
from hpc_localsgd.errors import ConfigurationError

ENORMOUS = (
    "task: {class_path: quadratic, init_args: {dim: 1000000000000000}}\n",
    "task: {class_path: digits, init_args: {hidden: 1000000000000}}\n",
)


@pytest.mark.parametrize("text", ENORMOUS)
def test_an_enormous_recorded_task_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made"):
        rebuilt(text, SharpnessOptions(run=Path("run")), torch.device("cpu"))


@pytest.mark.parametrize("tokens", ["bytes", "characters"])
def test_text_without_an_end_is_refused(tokens: str) -> None:
    arguments = f"{{file: /dev/zero, tokens: {tokens}}}"
    text = f"task: {{class_path: text, init_args: {arguments}}}\n"
    with pytest.raises(ConfigurationError, match="--task.file /dev/zero: it is a device or a pipe"):
        rebuilt(text, SharpnessOptions(run=Path("run")), torch.device("cpu"))
