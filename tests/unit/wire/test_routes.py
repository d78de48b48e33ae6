"""Requests from their parts: what must cost no more than its size."""

from __future__ import annotations

import time

import pytest

from troth.core.errors import Invalid
from troth.wire.api.routes import find_route, parse_request


def test_many_members_cost_one_pass_to_find_the_one_given_twice() -> None:
    names = [f'"{number}":0' for number in range(100_000)]
    body = ("{" + ",".join([*names, names[-1]]) + "}").encode()
    before = time.process_time()
    with pytest.raises(Invalid, match="'99999' twice"):
        parse_request(find_route("node.attest"), {}, {}, body)
    assert time.process_time() - before < 2
