"""The nesting of a body: told in one pass, whatever stands in it."""

from __future__ import annotations

import time

import pytest

from troth.core.errors import Invalid
from troth.server.http.bodies import MAX_DEPTH, check_depth

DEEP = b"[" * (MAX_DEPTH + 1)
MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    "tail",
    [
        b'"' + b'\\"' * (MEBIBYTE // 2),
        b'"' + b'\\"' * (MEBIBYTE // 2) + b"\\",
        b'"\\"' * (MEBIBYTE // 3),
        b'"a\\"[' * (MEBIBYTE // 5),
    ],
    ids=["unclosed", "cut", "restarting", "brackets"],
)
def test_a_body_of_quotes_costs_one_pass(tail: bytes) -> None:
    before = time.process_time()
    with pytest.raises(Invalid, match="nested deeper"):
        check_depth(DEEP + tail)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b'{"a\\"": "' + DEEP + b'"}',
        b'{"a": "\\\\", "b": "\\"' + DEEP + b'"}',
        b'{"a": "\\"' + DEEP,
    ],
    ids=["in-a-string", "after-a-backslash", "in-an-unclosed-string"],
)
def test_brackets_in_strings_are_no_depth(body: bytes) -> None:
    check_depth(body)


@pytest.mark.parametrize("body", [b'["\\""' + DEEP, b'["\\\\"' + DEEP, b'["\\\\\\""' + DEEP])
def test_brackets_after_an_escape_are_depth(body: bytes) -> None:
    with pytest.raises(Invalid, match="nested deeper"):
        check_depth(body)
