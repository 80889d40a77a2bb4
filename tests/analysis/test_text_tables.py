"""Tables as text: what fits stays one table, what does not is never cut."""

from __future__ import annotations

import pytest

from hpc_localsgd.analysis.text_tables import named_values, text_table, wrapped

HEADER = ("network", "K", "sent", "computing", "speed-up")
ROWS = [("10GbE", "64", "7.96 MB", "4.59 s", "1.20 ± 0.06"), ("wide", "4 096", "8 MB", "5 s", "-")]


def test_a_table_that_fits_is_one() -> None:
    lines = text_table(HEADER, ROWS, width=52).splitlines()
    assert lines == [
        "network       K      sent   computing      speed-up",
        "10GbE        64   7.96 MB      4.59 s   1.20 ± 0.06",
        "wide      4 096      8 MB         5 s             -",
    ]
    assert text_table(HEADER, ROWS).splitlines() == lines


@pytest.mark.parametrize("width", [21, 30, 40, 50])
@pytest.mark.parametrize("keys", [1, 2])
def test_a_wide_table_keeps_every_cell_and_stays_within_the_width(width: int, keys: int) -> None:
    text = text_table(HEADER, ROWS, width=width, keys=keys)
    assert max(map(len, text.splitlines())) <= width
    for cell in (*HEADER, *(c for row in ROWS for c in row)):
        assert cell in text
    assert len(text.split("\n\n")) > 1


def test_the_parts_of_a_wide_table_say_which_row_is_which() -> None:
    first, *others = text_table(HEADER, ROWS, width=40, keys=2).split("\n\n")
    assert first.splitlines()[1].split() == ["1", "10GbE", "64"]
    assert [part.splitlines()[2].split()[0] for part in others] == ["2"] * len(others)
    by_name = text_table(HEADER, ROWS, width=30).split("\n\n")
    assert all(part.splitlines()[1].startswith("10GbE") for part in by_name)


def test_where_a_wide_table_is_cut() -> None:
    """Each part takes the columns that still fit; a name of several columns becomes a number."""
    parts = text_table(HEADER, ROWS, width=29, keys=2, left=3).split("\n\n")
    assert [part.splitlines() for part in parts] == [
        ["    network   K", "1   10GbE     64", "2   wide      4 096"],
        ["    sent      computing", "1   7.96 MB      4.59 s", "2   8 MB            5 s"],
        ["       speed-up", "1   1.20 ± 0.06", "2             -"],
    ]
    for width, beside in ((25, ["K", "sent"]), (24, ["K"])):  # 7 + 3 + 5 + 3 + 7 columns
        head = text_table(HEADER, ROWS, width=width).splitlines()[0]
        assert head.split() == ["network", *beside]


def test_lines_break_at_words_and_paths_stay_whole() -> None:
    path = "/a/path/that/is/longer/than-the-line"
    assert wrapped(["one two three", "", path], 8) == ["one two", "three", "", path]
    assert wrapped(["one two three"]) == ["one two three"]


def test_a_long_value_goes_on_below_its_beginning() -> None:
    said = named_values([("on", "simulated(4 workers, cpu)"), ("steps", "600")], 22)
    assert said.splitlines() == ["on     simulated(4", "       workers, cpu)", "steps  600"]
