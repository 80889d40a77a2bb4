"""What follows from what ranks have said: pure functions."""

from __future__ import annotations

import pytest

from hpc_localsgd.rollcall.notes import SETTLED, At, Heard, Note, Verdict, judge

G6, A6 = At(0, "the exchange of gradients", 6), At(0, "averaged()", 6)
R8 = At(0, "the end of a round", 8)


def note(count: int, at: At, inside: bool = True, **more: object) -> Note:
    return Note(count, at, inside, 2.0, 1, more.pop("ended", {}), **more)  # type: ignore[arg-type]


def judged(**heard: Heard) -> str:
    ranks = {int(name[1:]): h for name, h in heard.items()}
    found = judge(ranks, lambda count: G6 if count == 3 else None, 100.0)
    return found.said if found else ""


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (Heard(note(7, A6)), Heard(note(7, G6)), "rank 0 is in averaged() after 6 steps, rank 1"),
        (Heard(note(7, A6)), Heard(note(7, A6)), ""),
        (Heard(note(7, A6)), Heard(note(7, SETTLED)), ""),
        (Heard(note(7, A6)), Heard(note(6, R8, inside=False), ago_s=50.0), ""),  # busy
        (Heard(note(7, A6)), Heard(note(3, R8)), "rank 0 is in the exchange of gradients"),
        (Heard(note(7, R8)), Heard(note(6, A6, False, left="has left")), "rank 1 has left"),
        (Heard(note(7, R8)), Heard(note(7, R8, False, left="has left")), ""),
        (Heard(note(7, R8)), Heard(note(6, A6, False, ended={0: "is over"})), "rank 1 is over"),
        (Heard(note(7, R8)), Heard(note(6, A6, False, ended={1: "is over"})), ""),
        (Heard(note(7, R8), 9.0), Heard(note(6, A6), gone_s=9.0), "process of rank 1 has ended"),
        (Heard(note(7, R8), 9.0), Heard(note(6, A6), gone_s=1.0), ""),
        (Heard(note(7, R8), 99.0), Heard(note(6, A6, False)), "has waited 101 s"),
        (Heard(note(7, R8), 97.0), Heard(note(6, A6, False)), ""),
    ],
)
def test_what_is_concluded(one: Heard, other: Heard, said: str) -> None:
    found = judged(r0=one, r1=other)
    assert said in found and bool(said) == bool(found), found


def test_lines_say_what_was_meant_and_nothing_else_is_read() -> None:
    told = note(7, A6, ended={0: "is over"}, left="has left")
    assert Note.from_json(told.to_json()) == told
    verdict = Verdict("out of step", 2, (0, 1))
    assert Verdict.from_json(verdict.to_json()) == verdict
    for line in (b"", b"[]", b'{"count": 1}'):
        with pytest.raises(ValueError):
            Note.from_json(line)
