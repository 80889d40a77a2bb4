from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("PIL")


def test_torchvision_beside_this_torch() -> None:
    # In a process of its own: an import cannot be undone.
    code = (
        "from hpc_localsgd.tasks.torchvision_import import import_torchvision as get\n"
        "tv = get(); assert get() is tv\n"
        "import torch, torchvision.datasets, torchvision.transforms.v2\n"
        "model = tv.models.resnet18(num_classes=10).eval()\n"
        "print(model(torch.zeros(1, 3, 64, 64)).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "[1, 10]" in done.stdout


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc_localsgd.tasks import torchvision_import

    def broken() -> None:
        raise RuntimeError("CUDA driver is too old")

    monkeypatch.setattr(torchvision_import, "_imported", broken)
    with pytest.raises(RuntimeError, match="too old"):
        torchvision_import.import_torchvision()
