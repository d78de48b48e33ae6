"""The decision point: questions, what they tell of a request, searches and their pages."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_text
from tests.fuzz.oauth import _send_in_pieces
from troth.core.errors import TrothError
from troth.operations.evaluation import make_asked
from troth.server.http.authzen import AuthzenEndpoints, _read_headers
from troth.server.http.intake import read_all
from troth.server.settings import Limits
from troth.wire.authzen.question import (
    MAX_ACTION,
    MAX_BODY,
    MAX_ID,
    MAX_QUESTIONS,
    MAX_TYPE,
    Evaluations,
    Question,
    parse_evaluation,
    parse_evaluations,
)
from troth.wire.authzen.routes import EVALUATION_PATH, EVALUATIONS_PATH, SEARCH_PATHS
from troth.wire.authzen.search import Search, parse_search, parse_token, render_token
from troth.wire.authzen.told import read_told

_CONTEXT = {
    "ip": "::ffff:10.0.0.7",
    "method": "GET",
    "path": "/a/%C3%A9/b",
    "host": "api.example.org:8443",
    "transport": "mtls",
    "bound": True,
    "audience": ["https://a.example", "b"],
    "scopes": "read write",
    "task": {"id": "t1", "purpose": "closing"},
    "delegation": {"depth": 2, "actors": ["spiffe://example.org/a"]},
}
_QUESTION: dict[str, Any] = {
    "subject": {"type": "user", "id": "a", "properties": {"ip_address": "10.0.0.1", "x": [1]}},
    "action": {"name": "read", "properties": {"soft": True, "n": 7, "t": ["a", "b"]}},
    "resource": {"type": "record", "id": "1", "properties": {"status": "active", "f": 1.5}},
    "context": _CONTEXT,
}
_SINGLE = [
    _QUESTION,
    {**_QUESTION, "context": {**_CONTEXT, "audience": "one", "scopes": ["a"], "ip": "fe80::1%e"}},
]
_MANY = [
    {**_QUESTION, "evaluations": [{}, {"action": {"name": "write"}}, {"resource": {"id": "2"}}]},
    {"evaluations": [_QUESTION], "options": {"evaluations_semantic": "deny_on_first_deny"}},
]
_SEARCHED = {**_QUESTION, "page": {"limit": 5, "token": render_token("ab", "c")}}
_ODD = mutated(
    json.dumps(_QUESTION).encode(),
    b'{"subject":{"type":"a","type":"b","id":"c"}}',
    b'{"subject":{"type":"\\ud800","id":NaN}}',
    b'{"a":' * 70 + b"1" + b"}" * 70,
)


@fuzz(json_documents(*_SINGLE, *_MANY) | _ODD, examples=250)
def fuzz_authzen_question(body: bytes) -> None:
    """Read as both forms; what they tell can be a key, and is of the right kind."""
    for parse in (parse_evaluation, parse_evaluations):
        found = answer(parse, body)
        if found is None:
            continue
        assert 1 <= len(found.items) <= MAX_QUESTIONS
        for item in found.items:
            if isinstance(item, Question):
                _check_question(item)


def _check_question(item: Question) -> None:
    for entity in (item.subject, item.resource):
        assert len(entity.type) <= MAX_TYPE
        assert len(entity.id) <= MAX_ID
    assert len(item.action.name) <= MAX_ACTION
    told = read_told(item)
    assert told.keys() <= {"resource", "action", "request", "task", "delegation"}
    for facts in told.values():
        hash(tuple(facts.values()))
    request = told.get("request", {})
    assert "time" not in request
    assert "country" not in request
    address = request.get("ip")
    assert isinstance(address, IPv4Address | IPv6Address | None)
    assert not (isinstance(address, IPv6Address) and address.ipv4_mapped)
    path = request.get("path", "/")
    assert not {"", ".", ".."} & set(path[1:].removesuffix("/").split("/")) or path == "/"
    assert make_asked(item).inquiry.told == told


@fuzz(
    st.tuples(
        st.sampled_from([*SEARCH_PATHS]),
        json_documents(_SEARCHED, {**_SEARCHED, "page": None}) | _ODD,
    ),
    examples=200,
)
def fuzz_authzen_search(found: tuple[str, bytes]) -> None:
    """Of each kind; and a page's token leads back to its own search alone."""
    target, body = found
    search = answer(parse_search, target, body)
    if not isinstance(search, Search):
        return
    assert search.limit >= 1
    token = render_token(search.digest, "a place")
    assert parse_token(token, search.digest) == "a place"
    assert answer(parse_token, token, "another") is None


@fuzz(mutated_text(render_token("0123456789abcdef", "alice")), examples=150)
def fuzz_authzen_token(text: str) -> None:
    """Only what `render_token` could have made passes."""
    place = answer(parse_token, text, "0123456789abcdef")
    assert place is None or isinstance(place, str)


_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-type", b"host", b"dpop", b"authorization", b"content-encoding"]),
        mutated(b"application/json; charset=utf-8", b"Bearer a.b.c", b"identity"),
    ),
    max_size=3,
)


@fuzz(
    st.tuples(
        st.sampled_from([EVALUATION_PATH, EVALUATIONS_PATH, *SEARCH_PATHS.values()]),
        json_documents(*_SINGLE, *_MANY, _SEARCHED) | _ODD,
        st.just([(b"content-type", b"application/json")]) | _HEADERS,
    ),
    examples=200,
)
def fuzz_authzen_request(found: tuple[str, bytes, list[tuple[bytes, bytes]]]) -> None:
    """Read in pieces as a connection gives them, with its headers, nesting looked at."""
    path, body, headers = found
    given = answer(_read_headers, headers)
    if given is None:
        return
    endpoints = AuthzenEndpoints(None, None, Limits(), None)  # type: ignore[arg-type]

    def read_request() -> Any:
        return asyncio.run(
            endpoints._read_request({"extensions": {}}, _send_in_pieces(body), given, path)
        )

    request = answer(read_request)
    assert request is None or isinstance(request, Evaluations | Search)
    try:
        assert asyncio.run(read_all(_send_in_pieces(body), 5, MAX_BODY)) == body
    except TrothError:
        assert len(body) > MAX_BODY
