"""What no sound client sends to the decision point, at a real server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.fakes.authzen import ask

pytestmark = pytest.mark.e2e

ONE, MANY = "/access/v1/evaluation", "/access/v1/evaluations"
JSON = {"content-type": "application/json"}


def quote(text: str) -> bytes:
    """A question with something else for the context."""
    question = json.dumps(ask())
    return f'{question[:-1]}, "context": {text}}}'.encode()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(quote('{"a": "' + "x" * 10_000_000 + '"}'), 413, id="10 MB"),
        pytest.param(quote('{"a": ' * 100 + "1" + "}" * 100), 400, id="nested"),
        pytest.param(quote("[" * 100_000 + "]" * 100_000), 400, id="nested far"),
        pytest.param(quote('{"ip": "10.0.0.1", "ip": "10.0.0.2"}'), 400, id="twice"),
        pytest.param(quote('{}, "context": {}'), 400, id="twice outside"),
        pytest.param(quote('{"a": NaN}'), 400, id="NaN"),
        pytest.param(quote('{"a": Infinity}'), 400, id="Infinity"),
        pytest.param(quote('{"a": "\\ud800"}'), 400, id="half a surrogate"),
        pytest.param(quote("[]"), 400, id="a list"),
        pytest.param(b"\xff" + quote("{}"), 400, id="no UTF-8"),
        pytest.param(b"\xef\xbb\xbf" + quote("{}"), 400, id="a mark"),
        pytest.param(quote("null"), 200, id="null"),
        pytest.param(quote('{"a": 1e999}'), 400, id="a number beyond floats"),
        pytest.param(quote('{"a": ' + "9" * 400 + "}"), 200, id="a large number"),
        pytest.param(
            quote('{"ip": 7, "path": [], "delegation": "x", "task": [1]}'), 200, id="kinds"
        ),
        pytest.param(json.dumps(ask({"type": "user", "id": "x" * 3000})).encode(), 400, id="an id"),
    ],
)
def test_bad_input(point: httpx.Client, content: bytes, status: int) -> None:
    for path in (ONE, MANY):
        answer = point.post(path, content=content, headers=JSON)
        assert answer.status_code == status, answer.text[:300]
        assert len(answer.text) < 1000
    assert point.post(ONE, json=ask()).json()["decision"] is True


def test_too_many_questions(point: httpx.Client) -> None:
    answer = point.post(MANY, json=ask(evaluations=[{}] * 257))
    assert answer.status_code == 400
    answer = point.post(MANY, json=ask(evaluations=[{}] * 256))
    found: list[Any] = answer.json()["evaluations"]
    assert len(found) == 256
