"""What follows from what ranks have said: pure functions."""

from __future__ import annotations

import pytest

from hpc_localsgd.run.rollcall.judging import Heard, judge
from hpc_localsgd.run.rollcall.protocol import SETTLED, At, Note, Verdict, failed, read
from hpc_localsgd.run.stopping import HUNG

G6, A6 = At(0, "the exchange of gradients", 6), At(0, "averaged()", 6)
R8, OTHER = At(0, "the end of a round", 8), At(1, "averaged()", 2)
PATIENCE_S = 100.0
OVER, DIED = {0: "is over"}, {0: failed(ValueError("odd"))}


def note(count: int, at: At, inside: bool = True, **more: object) -> Note:
    return Note(count, at, inside, 2.0, **more)  # type: ignore[arg-type]


def verdict(*heard: Heard) -> Verdict | None:
    """Of ranks 0, 1, ...; rank 0 has been in G6 as number 3."""
    return judge(dict(enumerate(heard)), lambda count: G6 if count == 3 else None, PATIENCE_S)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (Heard(note(7, A6)), Heard(note(7, G6)), "rank 0 is in averaged() after 6 steps, rank 1"),
        (Heard(note(7, A6)), Heard(note(7, A6)), ""),
        (Heard(note(7, A6)), Heard(note(7, SETTLED)), ""),
        (Heard(note(7, SETTLED)), Heard(note(7, A6)), ""),
        (Heard(note(7, A6)), Heard(note(6, R8, inside=False), ago_s=50.0), ""),  # busy
        (Heard(note(7, A6)), Heard(note(3, R8)), "rank 0 is in the exchange of gradients"),
        (Heard(note(7, A6)), Heard(note(3, G6)), ""),
        (Heard(note(7, R8)), Heard(note(6, A6, False, left="has left")), "rank 1 has left"),
        (Heard(note(6, A6, False, left="has left")), Heard(note(7, R8)), "rank 0 has left"),
        (Heard(note(7, R8, False)), Heard(note(6, A6, False, left="has left")), ""),
        (Heard(note(7, R8)), Heard(note(7, R8, False, left="has left")), ""),
        (Heard(note(7, R8)), Heard(note(6, A6, False, ended=OVER)), "rank 1 is over"),
        (Heard(note(7, R8)), Heard(note(6, A6, False, ended={1: "is over"})), ""),
        (Heard(note(7, R8), 9.0), Heard(note(6, A6), gone_s=9.0), "process of rank 1 has ended"),
        (Heard(note(6, A6), gone_s=9.0), Heard(note(7, R8), 9.0), "process of rank 0 has ended"),
        (Heard(note(7, R8), 9.0), Heard(note(6, A6), gone_s=1.0), ""),
        (Heard(note(7, R8), 1.0), Heard(note(6, A6), gone_s=9.0), ""),
        (Heard(note(7, R8, gave_up=True)), Heard(note(6, A6), gone_s=0.0), "process of rank 1"),
        (Heard(note(7, R8, False), 9.0), Heard(note(6, A6), gone_s=9.0), ""),
        (Heard(note(7, R8), 9.0), Heard(note(7, R8, False, left="x"), gone_s=9.0), ""),
        (Heard(note(7, R8), 9.0), Heard(note(7, R8, False, ended=OVER), gone_s=9.0), ""),
        (Heard(note(7, R8), 99.0), Heard(note(6, A6, False)), "has waited 101 s"),
        (Heard(note(7, R8), 97.0), Heard(note(6, A6, False)), ""),
        (Heard(note(7, R8), 97.0), Heard(note(6, A6, False), ago_s=99.0), ""),  # frozen, so far
    ],
)
def test_what_is_concluded(one: Heard, other: Heard, said: str) -> None:
    found = verdict(one, other)
    text = found.said if found else ""
    assert said in text and bool(said) == bool(text), text


def test_nothing_follows_from_nothing() -> None:
    assert judge({}, lambda _: None, 1.0) is None


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (Heard(note(6, A6, False, left="has left")), 2),
        (Heard(note(6, A6, False, ended=OVER)), 2),
        (Heard(note(6, A6, False, ended=DIED)), HUNG),
        (Heard(note(7, A6)), 2),
        (Heard(note(6, A6, False), gone_s=9.0), HUNG),
        (Heard(note(6, A6, False), ago_s=98.0), HUNG),
    ],
)
def test_a_fault_of_the_script_has_another_status_than_bad_luck(other: Heard, status: int) -> None:
    found = verdict(Heard(note(7, R8), 99.0), other)
    assert found is not None and found.status == status
    assert 0 in found.ranks


def test_who_is_meant_waits_in_the_same_run() -> None:
    """Rank 1 has ended run 0, in which nobody waits; rank 2 waits for it in run 1, in vain."""
    ended = Heard(note(5, A6, False, ended={0: "is over", 1: "is over"}))
    found = verdict(Heard(note(5, A6)), ended, Heard(note(6, OTHER)))
    assert found is not None and found.ranks == (1, 2) and "attach number 2" in found.said
    assert "averaged() after 6 steps, and rank 2" in found.said


def test_who_waits_in_the_latest_operation_of_a_run_waits_in_vain() -> None:
    over = Heard(note(6, A6, False, ended=OVER))
    found = verdict(Heard(note(6, A6)), over, Heard(note(7, R8)))
    assert found is not None and found.ranks == (1, 2)
    over = Heard(note(5, A6, False, ended={1: "is over"}))
    found = verdict(Heard(note(7, R8)), over, Heard(note(6, OTHER)))
    assert found is not None and found.ranks == (1, 2)


def test_a_dead_rank_is_named_to_who_waits_longest() -> None:
    found = verdict(
        Heard(note(7, R8)), Heard(note(6, A6, False), gone_s=9.0), Heard(note(7, R8), 9.0)
    )
    assert found is not None and found.ranks == (1, 2)
    gave_up = Heard(note(7, R8, gave_up=True))
    found = verdict(Heard(note(7, R8), 2.0), Heard(note(6, A6, False), gone_s=0.0), gave_up)
    assert found is not None and found.ranks == (1, 2)  # who waits longer may yet be served


def test_where_all_are_is_said_when_patience_ends() -> None:
    heard = [Heard(note(7, R8), 99.0), Heard(note(7, R8)), Heard(note(6, A6, False))]
    heard += [Heard(note(5, G6)), Heard(note(6, A6, False), ago_s=90.0)]
    found = verdict(*heard)
    assert found is not None and found.ranks == (0,) and found.status == HUNG
    assert (
        "rank 2 has done nothing since averaged() after 6 steps, rank 3 is in the exchange of "
        "gradients after 6 steps, rank 4 has said nothing for 90 s, after averaged() after 6 steps"
        "; patience_s=100 were allowed" in found.said
    )
    together = verdict(Heard(note(7, R8), 99.0), Heard(note(7, R8), 99.0))
    assert together is not None and "all ranks are in it" in together.said


@pytest.mark.parametrize("of_dead", [False, True])
def test_the_cost_grows_with_the_ranks_and_not_with_their_square(of_dead: bool) -> None:
    asked = 0

    class Counting(Note):
        def absence(self, run: int) -> str:
            nonlocal asked
            asked += 1
            return super().absence(run)

    n = 1000
    heard = {r: Heard(note(7, R8), 9.0) for r in range(n)}
    gone_s = 9.0 if of_dead else None
    heard |= {r: Heard(Counting(8, R8, False, ended=OVER), gone_s=gone_s) for r in range(n, 2 * n)}
    assert judge(heard, lambda _: None, PATIENCE_S) is None
    assert n <= asked <= 2 * n


def test_lines_say_what_was_meant_and_nothing_else_is_read() -> None:
    told = note(7, A6, gave_up=True, ended={3: 'is over, "said" it'}, left="has left")
    assert read(told.to_json()) == told and b"\n" not in told.to_json()
    sentence = Verdict("out of step", 2, (0, 1))
    assert read(sentence.to_json()) == sentence
    for line in (
        b"", b"[]", b"7", b"null", b'{"count": 1}', b'{"said": 1}', b"\xff\x00", b"[" * 60_000,
        told.to_json().replace(b"7", b'"seven"'), told.to_json().replace(b'"averaged()", ', b""),
        told.to_json().replace(b" 6]", b" null]"),
        told.to_json().replace(b"2.0", b"[]"), told.to_json().replace(b"{", b"["),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="neither note nor verdict"):
            read(line)


def test_an_error_that_cannot_be_shown_is_said_by_its_kind() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError("text")

    assert failed(Mute()) == "has failed (Mute: no text)"
