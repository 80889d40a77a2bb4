"""Faults that once lived under the tests of their own folder. Each must die."""

from __future__ import annotations

from mutants.faults import Fault, between
from mutants.targets import PACKAGE

# What is wrong, target, file, the text, the text with the fault.
NAMED: list[tuple[str, str, str, str, str]] = [
    (
        "error feedback forgotten in the average of messages",
        "algorithms",
        "algorithms/compressed.py",
        "sent, memory = compress(codec, x, memory, sizes)",
        "sent, _ = compress(codec, x, memory, sizes)",
    ),
    (
        "error feedback forgotten in Local SGD",
        "algorithms",
        "algorithms/local_sgd.py",
        'return x, {**state, "memory": memory}',
        'return x, {**state, "memory": None}',
    ),
    (
        "SlowMo divides by the present rate",
        "algorithms",
        "algorithms/slowmo.py",
        "alpha=1 / now.lr_round)",
        "alpha=1 / now.lr)",
    ),
    (
        "streaming DiLoCo lands a step late",
        "algorithms",
        "algorithms/streaming_diloco.py",
        "now.h + 1 >= self.delay",
        "now.h >= self.delay",
    ),
    (
        "Overlap's velocity has the wrong sign",
        "algorithms",
        "algorithms/overlap.py",
        "add_(z - x)",
        "add_(x - z)",
    ),
    (
        "Local SGD with a codec moves away from the mean",
        "algorithms",
        "algorithms/compressed.py",
        "return x.neg_().add_(anchor), memory",
        "return x.add_(anchor), memory",
    ),
    (
        "random numbers left out of a checkpoint",
        "run/checkpoint",
        "run/checkpoint/rank_checkpoint.py",
        'torch.set_rng_state(state["rng"])',
        "pass",
    ),
    (
        "the last round is not called last",
        "attach",
        "attach/rounds.py",
        "last or p.end == self.steps",
        "False",
    ),
    (
        "the result of an algorithm that returns new tensors is thrown away",
        "attach",
        "attach/exchange.py",
        "x.copy_(result)",
        "pass",
    ),
]


def named_faults() -> list[tuple[str, Fault]]:
    """Target and fault, in order.

    Raises:
        AssertionError: The text is no longer there, once: write the fault into what it became.
    """
    found = []
    for name, target, file, was, now in NAMED:
        path = PACKAGE / file
        source = path.read_text()
        assert source.count(was) == 1, f"{name}: {file} has {was!r} {source.count(was)} times"
        found.append((target, between(path, source, source.replace(was, now), name)))
    return found
