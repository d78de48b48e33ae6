"""What isn't a problem document is none, whatever it is."""

from __future__ import annotations

import pytest

from troth.core.errors import Internal
from troth.wire.api.problems import parse_problem
from troth.wire.api.routes import find_route, parse_failure, parse_result

RUBBISH = [b"", b"\x80", b'{"type":"\x80"}', b"[" * 5_000, b'{"detail":' + b"[" * 5_000, b"[]"]


@pytest.mark.parametrize("body", RUBBISH)
def test_rubbish_is_no_problem_document(body: bytes) -> None:
    assert parse_problem(body) is None
    assert "without saying why" in parse_failure(502, body).detail


@pytest.mark.parametrize("body", [*RUBBISH, b'{"items":[{"body":' + b'{"a":' * 5_000])
def test_an_answer_that_is_rubbish_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(Internal, match="was not understood"):
        parse_result(find_route("journal.ls"), 200, body)
