"""Places to resume from: what a rank saves of its state, where, and when.

    checkpoints/step-00001200/rank-2-of-4.pt

A *place* (`RankCheckpoint`) is all that decides how one rank continues, always between two steps.
Between exchanges the ranks know nothing of each other, so their places fit together when each has
taken part in the same exchanges, however many local steps each has taken since. Hence one rule:

    A shard is one rank's place, in the folder of the last exchange before it. A folder counts when
    the shards of all ranks are in it, and the newest that counts is resumed.

Every rank writes its own shard, by atomic rename, without asking the others. In a long round it
replaces its shard by a newer one of the same folder as often as it likes: any mixture of old and
new shards of one folder is a state the run could have been in.

A rank that is asked to stop while it waits in an exchange is not between two steps. So there are
copies in memory: of its own, every few seconds where rounds are long, and two of the latest
moments that all ranks chose together (`CheckpointManager`), one of which all of them have. Copies
cost at most a hundredth of the time; up to four of them lie in host memory, each as large as a
shard.
"""

from hpc_localsgd.run.checkpoint.folder import Checkpoints as Checkpoints
from hpc_localsgd.run.checkpoint.manager import CheckpointManager as CheckpointManager
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint as RankCheckpoint
