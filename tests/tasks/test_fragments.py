"""Fragments are whole tensors, all there, about equally long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.fragments import cuts


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), data=st.data())
def test_every_tensor_is_in_one_fragment(sizes: list[int], data: st.DataObject) -> None:
    fragments = data.draw(st.integers(1, len(sizes)))
    at = cuts(sizes, fragments)
    ends = {sum(sizes[:i]) for i in range(len(sizes) + 1)}
    assert at[0] == 0 and at[-1] == sum(sizes) and len(at) == fragments + 1
    assert all(a < b for a, b in zip(at, at[1:], strict=False)) and set(at) <= ends


def test_equal_tensors_make_equal_fragments() -> None:
    assert cuts([10] * 8, 4) == (0, 20, 40, 60, 80)
    assert cuts([100, 1, 1], 3) == (0, 100, 101, 102)


def test_more_fragments_than_tensors_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at most 2"):
        cuts([5, 5], 3)
