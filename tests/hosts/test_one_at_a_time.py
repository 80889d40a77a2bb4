"""Two starts in one folder on two hosts: exactly one runs, and the other says who does."""

from __future__ import annotations

from pathlib import Path

from holder import holders, left_by, race
from hosts import Hosts

# A run says again every half second that it lives, and who asks looks for two.
HURRIED = ("RENEWED_EVERY_S=0.5", "WATCHED_FOR_S=2.0", "SETTLED_S=0.5")


def test_of_two_that_start_at_once_one_runs_and_the_other_says_who(
    hosts: Hosts, tmp_path: Path
) -> None:
    outs = [tmp_path / str(i) for i in range(20)]
    for out in outs[::2]:  # over what a killed run of a third host left
        out.mkdir()
        left_by(out, 7, reach="another kernel")
    with holders(hosts["a"].on, hosts["b"].on, settings=HURRIED) as both:
        race(both, outs)


def test_a_host_that_is_gone_stands_in_nobodys_way_and_one_that_lives_does(
    hosts: Hosts, tmp_path: Path
) -> None:
    with holders(hosts["a"].on, hosts["b"].on, settings=HURRIED) as (first, second):
        assert first.take(tmp_path) == "ran"
        assert f"(process {first.pid} on a)" in second.take(tmp_path)
        first.kill()
        assert second.take(tmp_path) == "ran"
