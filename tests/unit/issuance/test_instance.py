"""The claims that name running copies: read strictly, joined in order, bounded."""

from __future__ import annotations

from typing import Any

import pytest

from troth.core.errors import Invalid
from troth.issuance.instance import (
    INSTANCE,
    INSTANCES,
    MAX_INSTANCES,
    find_instance,
    join_instances,
    list_instances,
)


def test_who_says_nothing_of_copies_names_none() -> None:
    assert find_instance({"sub": "x"}) == ""
    assert list_instances({"sub": "x"}) == ()


def test_what_is_said_is_read_in_order() -> None:
    assert find_instance({INSTANCE: "ins_1"}) == "ins_1"
    assert list_instances({INSTANCES: ["ins_2", "ins_1"]}) == ("ins_2", "ins_1")


@pytest.mark.parametrize("value", [None, 7, ["ins_1"], {"ins_1": 1}])
def test_a_malformed_copy_is_none_to_overlook(value: Any) -> None:
    with pytest.raises(Invalid, match=INSTANCE):
        find_instance({INSTANCE: value})


@pytest.mark.parametrize("value", [None, "ins_1", [7], [["ins_1"]], {"ins_1": 1}])
def test_malformed_copies_are_none_to_overlook(value: Any) -> None:
    with pytest.raises(Invalid, match=INSTANCES):
        list_instances({INSTANCES: value})


def test_the_current_copy_comes_first_and_each_once() -> None:
    assert join_instances("", ()) == ()
    assert join_instances("", ("a", "b")) == ("a", "b")
    assert join_instances("c", ("a", "b")) == ("c", "a", "b")
    assert join_instances("b", ("a", "b")) == ("b", "a")


def test_a_token_passes_through_so_many_copies_and_no_more() -> None:
    known = tuple(f"ins_{number}" for number in range(MAX_INSTANCES))
    assert join_instances("ins_3", known)[0] == "ins_3"
    with pytest.raises(Invalid, match=f"through {MAX_INSTANCES} running copies"):
        join_instances("ins_new", known)
