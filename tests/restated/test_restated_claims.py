"""What an algorithm says of itself is what its equation does; defaults are the published ones."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
import torch

from hpc_localsgd.commands.configuration.names import choices, class_at
from hpc_localsgd.compressors import Sign, TopK
from hpc_localsgd.topology import lazy, one_peer_exponential, random_pairs, ring
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.simulated import Simulated
from restated.problem import SHAPES, SIZES, P, equal
from restated.test_restated import restated_of

MODULES = {n: m for n, m in restated_of("algorithms").items() if hasattr(m, "CASES")}
RATE = {"lr": 0.1, "warmup": 0, "warmup_from": 0.0}

# From the papers, or their released code, where they name a value; else as our docstrings say.
DEFAULTS: dict[str, dict[str, Any]] = {
    "allreduce": {"compressor": None},
    "choco": {"topology": ring(), "gamma": 0.2, "compressor": TopK(fraction=0.1)},
    "cocod": {},
    "d2": {"topology": lazy(of=ring())},
    "diloco": {
        "lr": 0.7,
        "momentum": 0.9,
        "optimizer": "SGD",
        "options": {},
        "compressor": None,
    },
    "edit": {
        "lr": 0.8,
        "momentum": 0.85,
        "threshold": 3.0,
        "clip": 10.0,
        "smoothing": 0.02,
        "warmup": 10,
    },
    "gossip": {"topology": ring(), "order": "atc"},
    "gradient_tracking": {"topology": ring()},
    "hierarchical": {"blocks": (), "rounds": (4,), "parallel_first": False, "compressor": None},
    "local_sgd": {"average": "gradients", "compressor": None},
    "local_sign_momentum": {
        "momentum": 0.9,
        "nesterov": True,
        "compressor": Sign(error_feedback=False),
    },
    "overlap": {"pull": 0.6, "beta": 0.7},
    "noloco": {"alpha": 0.5, "beta": 0.7, "gamma": 0.7, "topology": random_pairs()},
    "push_sum": {"topology": one_peer_exponential()},
    "slowmo": {"alpha": 1.0, "beta": 0.5, "compressor": None},
    "streaming_diloco": {
        "fragments": 2,
        "delay": 0,
        "keep_local": 0.0,
        "lr": 0.7,
        "momentum": 0.9,
        "compressor": None,
    },
    "bf16": {"error_feedback": False},
    "chunked_top_k": {
        "chunk": 4096,
        "kept_of_chunk": 64,
        "decay": 0.95,
        "values": "float32",
        "error_feedback": True,
        "compressor": None,
    },
    "e3m0": {"block": 128, "error_feedback": False},
    "fp16": {"error_feedback": False},
    "int4": {"block": 128, "error_feedback": False},
    "int8": {"error_feedback": False},
    "power_sgd": {"rank": 4, "error_feedback": True},
    "sign": {"error_feedback": True},
    "top_k": {
        "fraction": 0.01,
        "values": "float32",
        "error_feedback": True,
        "compressor": None,
    },
    "asam": {"rho": 0.5, "eta": 0.01},
    "average_direction": {"sigma": 0.01},
    "noise_injected": {"sigma": 0.01},
    "plain": {},
    "sam": {"rho": 0.05},
    "doubling": {"at_least": 1, "every": "20%", "at_most": 16},
    "every": {"steps": 1},
    "phases": {"at": ("50%", "75%"), "every": (1, 16, 64)},
    "post_local": {"switch": "50%", "every": 16},
    "qsr": {"alpha": 0.0175, "at_least": 4, "power": 2.0, "warmup": None},
    "spread_triggered": {"target": 1e-3, "at_least": 1, "at_most": 1024},
    "adacomm": {"at_first": 16, "interval": "5%", "decay": 0.5},
    "constant": RATE,
    "cosine": RATE | {"floor": 0.0, "until": "100%"},
    "multi_step": RATE | {"at": ("50%", "75%"), "factor": 0.1},
}


@pytest.mark.parametrize("option", ["algorithm", "compressor", "gradient", "schedule", "rate"])
def test_defaults_are_the_published_ones(option: str) -> None:
    for name, path in choices(option).items():
        of = {
            f.name: f.default if f.default_factory is MISSING else f.default_factory()
            for f in fields(class_at(path))
            if not f.name.startswith("_")  # what a schedule has observed
        }
        assert DEFAULTS[name] == of, name


def exchanges(case: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parameters [K, P] before and after each exchange but the last, which may be another."""
    problem = case.problem()
    case.path(problem)
    ends = [end for _, _, end in problem.rounds()][:-1]
    return [(problem.noted[2 * end - 2], problem.noted[2 * end - 1]) for end in ends]


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() < 1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_whether_workers_end_equal_and_at_their_mean(name: str) -> None:
    """True of every exchange of a case that says so; of those that do not, it is not."""
    for case in MODULES[name].CASES:
        pairs = exchanges(case)
        assert case.made.ends_equal == all(near(x, equal(x)) for _, x in pairs), case.name
        assert case.made.ends_at_mean == all(near(x, equal(b)) for b, x in pairs), case.name


@pytest.mark.parametrize("name", MODULES)
def test_whether_gradients_are_sent_in_a_round_of_local_steps(name: str) -> None:
    now = Now(t=3, s=1, H=4, h=1, lr=0.1, lr_round=0.2)
    for case in MODULES[name].CASES:
        if case.made.only_single_steps:
            continue
        world = Simulated(case.problem().K)
        x = torch.from_numpy(case.problem().start)
        g = torch.from_numpy(case.problem().plain(x.numpy(), 3))
        state = case.made.init(x, world, ModelSize(SIZES, 8, SHAPES))
        world.ledger.take()
        case.made.on_gradient(g, state, world, now)
        sent = world.ledger.take().payload_bytes
        assert bool(np.any(sent)) == case.made.sends_gradients, case.name


@pytest.mark.parametrize("name", MODULES)
def test_which_algorithms_need_rounds_of_one_step(name: str) -> None:
    assert MODULES[name].CASES[0].made.only_single_steps == (name == "gradient_tracking")
    assert sum(SIZES) == P
