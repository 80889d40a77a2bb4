"""Topologies: who mixes with whom, and with which weights, at a gossip step.

    X <- W X        X: [K, P], one row per worker        W: [K, K], the mixing matrix

A topology is a pure function `matrix(n, k) -> W` of the number of workers and the count of mixes
so far, so every rank computes the same W and no rank can deadlock. Every W is doubly stochastic:
rows that sum to one keep equal workers equal, columns that sum to one keep the mean, and both are
checked; but for push-sum, which takes graphs of which only the columns do (`push_matrix`). They are
spelled like the functions they are: `ring()`, `random_regular(degree=4)`.
"""

from hpc_localsgd.topology.base import (
    Topology,
    metropolis,
    neighbours,
    validate,
    validate_columns,
    vectors_sent,
)
from hpc_localsgd.topology.derived import custom, lazy
from hpc_localsgd.topology.directed import exponential, one_peer_exponential, random_directed
from hpc_localsgd.topology.equitopo import equi_dynamic, equi_static
from hpc_localsgd.topology.finite_time import base_graph
from hpc_localsgd.topology.random_graphs import random_pairs, random_regular
from hpc_localsgd.topology.spectrum import contraction, gap, lambda_min, spectral_gap
from hpc_localsgd.topology.static import complete, grid, hypercube, ring, star, torus

__all__ = [
    "Topology",
    "base_graph",
    "complete",
    "contraction",
    "custom",
    "equi_dynamic",
    "equi_static",
    "exponential",
    "gap",
    "grid",
    "hypercube",
    "lambda_min",
    "lazy",
    "metropolis",
    "neighbours",
    "one_peer_exponential",
    "random_directed",
    "random_pairs",
    "random_regular",
    "ring",
    "spectral_gap",
    "star",
    "torus",
    "validate",
    "validate_columns",
    "vectors_sent",
]
