"""What a run is made of cannot be changed under it: every choice is a frozen dataclass."""

from __future__ import annotations

from hpc_localsgd.attach.collectives import Comparison, RankState
from hpc_localsgd.attach.comm_stats import CommStats
from hpc_localsgd.attach.flat_gradient import FlatGradient
from hpc_localsgd.attach.rounds import FromFunction
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.attach.sync import AttachContext
from hpc_localsgd.commands.configuration.names import CHOICES, choices, class_at
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.loop import Run
from hpc_localsgd.run.checkpoint import RankCheckpoint
from hpc_localsgd.schedules.base import Round
from hpc_localsgd.types import ModelSize, Now

OF_ATTACH = [CommStats, Comparison, FlatGradient, FromFunction, Group, AttachContext, RankState]
OF_A_RUN = [BatchNorm, ModelSize, Now, RankCheckpoint, Round, Run, *OF_ATTACH]
CHOSEN = [class_at(path) for option in CHOICES for path in choices(option).values()]


def test_they_are_frozen() -> None:
    made = [*CHOSEN, *OF_A_RUN]
    assert [each for each in made if not each.__dataclass_params__.frozen] == []
