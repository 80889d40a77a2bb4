"""Networks by name, by two numbers, or from a file that says what was measured.

`benchmarks/collectives.py` writes such a file. A person can write one too, of two lines:

    latency_s: 5.0e-5      # alpha: seconds a message takes, whatever its length
    bytes_per_s: 1.17e8    # 1 / beta

or type the same in place of a name: `50us,117MB/s`, or `alpha=50us,beta=117MB/s`. What workers
share, and how an average is made, is typed behind it, or behind a name:

    100GbE,trunk=25GB/s/32                            # 32 workers in a row behind each trunk
    20us,1.2GB/s,core=10GB/s,allreduce=halving        # all that they send each other meets there

and written into a file as `allreduce: halving` and `shared: {workers: 32, trunk_bytes_per_s:
2.5e10, core_bytes_per_s: .inf}`, on one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpc_localsgd.cost.contention import ALLREDUCE, Shared
from hpc_localsgd.cost.cost_model import NETWORKS, Cost, Network, Piece
from hpc_localsgd.cost.fitting import Cell, errors, predicted_s, rms
from hpc_localsgd.cost.typed_network import typed, with_words
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file

MOST_BYTES = 2**20
NORMAL = 1.48  # deviation of a normal distribution by its median absolute value


def network(name: str) -> Network:
    """Return a network: by name, typed in numbers, or from a file; with what is shared behind it.

    Raises:
        ConfigurationError: None of these; lists the known names.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if (made := typed(name)) is not None:
        return made
    first, *rest = name.split(",")
    if rest and (first in NETWORKS or _is_there(first)):
        return replace(with_words(network(first), rest), name=name)
    if _is_there(name):
        return read(name)
    near = [known for known in NETWORKS if known.lower() == name.lower()]
    guess = f" - did you mean {near[0]}?" if near else ":"
    raise ConfigurationError(
        f"unknown network {name!r}{guess} type one of {', '.join(NETWORKS)}, latency and rate "
        '("50us,117MB/s"), or the file that benchmarks/collectives.py wrote; behind it what '
        'workers share (",trunk=25GB/s/32", ",core=10GB/s")'
    )


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError as error:  # of a folder that one may not look into
        raise ConfigurationError(f"{name}: {error.strerror}") from error


def written(
    name: str,
    cells: Sequence[Cell],
    costs: Mapping[str, Cost],
    about: Mapping[str, str],
    workers_per_host: int = 1,
) -> str:
    """Return the text of the file: link, costs, residuals, and every cell."""
    import yaml

    link = costs["mean" if "mean" in costs else next(iter(costs))].pieces[-1]
    rows = [
        {**asdict(cell), "predicted_s": predicted_s(costs, cell), "error": round(error, 4)}
        for cell, error in zip(cells, errors(costs, cells), strict=True)
    ]
    said = {
        "name": name,
        "about": dict(about),
        "latency_s": link.alpha_s,
        "bytes_per_s": 1 / link.beta_s if link.beta_s else math.inf,
        "workers_per_host": workers_per_host,
        "costs": {kind: _as_written(cost, kind, cells) for kind, cost in costs.items()},
        "cells": rows,
    }
    return yaml.safe_dump(said, sort_keys=False)


def _as_written(cost: Cost, kind: str, cells: Sequence[Cell]) -> dict[str, Any]:
    found = np.abs(errors({kind: cost}, [cell for cell in cells if cell.kind == kind]))
    residuals = {"median": float(np.median(found)), "largest": max(found)}
    residuals["rms"] = rms(cost, [cell for cell in cells if cell.kind == kind])
    pieces = [{key: float(v) for key, v in asdict(piece).items()} for piece in cost.pieces]
    residuals = {key: round(float(value), 4) for key, value in residuals.items()}
    return {"pieces": pieces, "gamma_s": cost.gamma_s, "relative_residuals": residuals}


def read(path: str) -> Network:
    """Return the network of a file.

    Raises:
        ConfigurationError: It cannot be read, or does not describe a network.
    """
    import yaml

    try:
        said = yaml.safe_load(regular_file.read(path, MOST_BYTES).decode())
    except OSError as error:
        raise ConfigurationError(f"network file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"network file {path} is not YAML") from error
    if not isinstance(said, dict) or not {"latency_s", "bytes_per_s"} <= set(said):
        raise ConfigurationError(
            f"network file {path}: write `latency_s: 5.0e-5` and `bytes_per_s: 1.17e8`, or let "
            "benchmarks/collectives.py measure"
        )
    costs = said.get("costs") or {}
    try:
        made = {str(kind): _read_cost(cost) for kind, cost in costs.items()}
        latency, rate = _number(said["latency_s"]), _number(said["bytes_per_s"])
        per_host = int(_number(said.get("workers_per_host", 1)))
        if not rate or not per_host:
            raise ValueError("bytes_per_s or workers_per_host is 0")
        shared = _read_shared(said.get("shared") or {})
        allreduce = str(said.get("allreduce", "ring"))
        if allreduce not in ALLREDUCE:
            raise ValueError(f"allreduce is one of {', '.join(ALLREDUCE)}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"network file {path}: not a network ({error})") from error
    name = str(said.get("name", Path(path).stem))
    return Network(name, latency, rate, made, per_host, shared, allreduce)


def _read_cost(said: Mapping[str, Any]) -> Cost:
    pieces = [Piece(*(_number(p[key]) for key in Piece.__match_args__)) for p in said["pieces"]]
    ends = [piece.up_to_bytes for piece in pieces]
    if not ends or ends != sorted(ends) or not math.isinf(ends[-1]):
        raise ValueError("pieces go up to larger and larger sizes, the last to .inf")
    return Cost(tuple(pieces), _number(said.get("gamma_s", 0.0)), _read_off(said))


def _read_off(said: Mapping[str, Any]) -> float:
    """Return the error of a fit; files of before it was written have the median alone."""
    residuals = said.get("relative_residuals") or {}
    off = residuals.get("rms", NORMAL * _number(residuals.get("median", 0.0)))
    return _number(off)


def _read_shared(said: Mapping[str, Any]) -> Shared:
    if unknown := set(said) - {"workers", "trunk_bytes_per_s", "core_bytes_per_s"}:
        raise ValueError(f"shared has no {min(unknown)}")
    trunk, core = (_number(said.get(f"{at}_bytes_per_s", math.inf)) for at in ("trunk", "core"))
    workers = int(_number(said.get("workers", 1)))
    if not (workers and trunk and core):
        raise ValueError("shared: no rate and no number of workers is 0")
    return Shared(workers, trunk, core)


def _number(said: Any) -> float:
    """Return a number that is not negative; YAML takes 5e-5 for a word."""
    value = float(said)
    if not value >= 0 or isinstance(said, bool):
        raise ValueError(f"{said!r} is not a number from 0 on")
    return value
