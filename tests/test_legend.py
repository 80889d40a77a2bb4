"""The names of things in figures."""

from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.compressors import TopK
from hpc_localsgd.topology import ring, star
from hpc_localsgd.types import legend


def test_a_legend_shows_what_is_not_as_by_default() -> None:
    assert legend(LocalSGD()) == "LocalSGD"
    assert legend(Gossip(topology=ring())) == "Gossip"
    assert legend(Gossip(topology=star(), order="awc")) == "Gossip(topology=star, order='awc')"
    topk = LocalSGD(compressor=TopK(fraction=0.1))
    assert legend(topk) == "LocalSGD(compressor=TopK(fraction=0.1))"
