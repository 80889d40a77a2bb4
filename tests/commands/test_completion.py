"""`hpc-localsgd completion`: what bash completes with it."""

from __future__ import annotations

import subprocess

import pytest

from hpc_localsgd.commands.completion import main


@pytest.fixture(scope="module")
def function() -> str:
    """The function, printed once."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("hpc_localsgd.commands.completion.put", said.append)
        assert main([]) == 0
    return said[0]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["su"], {"summary"}),
        (["train", "--log-f"], {"--log-format"}),
        (["train", "--algorithm", "slow"], {"slowmo"}),
        (["plan", "--algorithm.topology", "one"], {"one_peer_exponential"}),
        (["sharpness", "--gg"], {"--ggn"}),
        (["report", "--wat"], {"--watch"}),
        (["nothing", "--"], set()),
    ],
)
def test_words_are_completed(function: str, typed: list[str], offered: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in ["hpc-localsgd", *typed])
    script = f"{function}\nCOMP_WORDS=({words}) COMP_CWORD={len(typed)}\n_hpc_localsgd\n"
    script += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and set(done.stdout.split()) == offered
