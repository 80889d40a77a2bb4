"""Topologies of every kind, and how many workers each takes."""

from __future__ import annotations

from hpc_localsgd.topology import (
    Topology,
    base_graph,
    complete,
    equi_dynamic,
    equi_static,
    exponential,
    grid,
    hypercube,
    lazy,
    one_peer_exponential,
    random_pairs,
    random_regular,
    ring,
    star,
    torus,
)

TOPOLOGIES: list[Topology] = [
    complete(),
    ring(),
    torus(),
    grid(),
    star(),
    hypercube(),
    exponential(),
    one_peer_exponential(),
    random_pairs(),
    random_pairs(seed=7),
    random_regular(degree=2),
    random_regular(degree=3, seed=1),
    random_regular(),
    base_graph(),
    base_graph(degree=3),
    equi_static(),
    equi_static(shifts=2, directed=False, seed=1),
    equi_dynamic(),
    equi_dynamic(directed=False, seed=3),
    lazy(),
    lazy(of=torus()),
    lazy(of=random_pairs()),
]
SYMMETRIC = (complete, ring, torus, grid, star, hypercube, random_pairs, random_regular, lazy)


def symmetric(topology: Topology) -> bool:
    """Whether every worker hears those it sends to, with equal weights."""
    undirected = getattr(topology, "directed", True) is False
    return undirected or isinstance(topology, (*SYMMETRIC, base_graph))


def allowed(topology: Topology, n: int) -> bool:
    """Whether the topology takes n workers."""
    try:
        topology.check(n)
    except ValueError:
        return False
    return True
