"""Roll call: notice a rank that has left, or that waits in another operation than the others.

An exchange waits for every rank, in C, and knows nothing of what the others do instead. So ranks
also talk beside it, over TCP: each says where it is when it has waited for a second, when it ends,
and now and then; rank 0 compares, and tells all when they cannot meet any more. Nothing is
sent, and no thread is woken, in a step that goes well.

    own_operations.py  what this rank does, noted at every exchange
    protocol.py        what ranks say to each other
    judging.py         what rank 0 concludes from what all have said
    hub.py             the connections: rank 0's end
    connection.py      another rank's end
    watch.py           the thread of a rank that talks with the others
    call.py            the operations it is told of, its begin and its end
"""

from hpc_localsgd.run.rollcall.call import PATIENCE_S, RollCall, leave, of_world

__all__ = ["PATIENCE_S", "RollCall", "leave", "of_world"]
