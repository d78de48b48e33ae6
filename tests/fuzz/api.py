"""The API from both ends: what clients send to the server, and what servers answer to clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_json, mutated_text
from troth.core.errors import TrothError
from troth.core.manifest.problem import Limits, PlainDocument
from troth.manifests.reading import parse_manifests
from troth.operations.identity import _manifest_of
from troth.server.http.bodies import MAX_DEPTH, check_depth, decode_segments, parse_query
from troth.server.http.problems import render_problem
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import RegisterIdentity
from troth.wire.api.journal import JournalEntry, TailJournal
from troth.wire.api.nodes import Heartbeat, StreamEnd
from troth.wire.api.problems import parse_problem
from troth.wire.api.routes import (
    ROUTES,
    Route,
    find_route,
    parse_failure,
    parse_request,
    parse_result,
    render_request,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def make_sample(kind: Any) -> Any:
    """A value in JSON that is right for a type of the wire, with every field given."""
    return _sample(inspect.type_info(kind))


def _sample(info: inspect.Type, *around: type) -> Any:
    """`around` are the structs that it stands in: one that holds itself is given once."""
    match info:
        case inspect.Metadata():
            return _sample(info.type, *around)
        case inspect.StructType():
            inside = (*around, info.cls)
            members = {field.encode_name: _sample(field.type, *inside) for field in info.fields}
            tag = {info.tag_field: info.tag} if info.tag_field else {}
            return {**tag, **members}
        case inspect.UnionType():
            return _sample(info.types[0], *around)
        case inspect.ListType() | inspect.VarTupleType():
            again = isinstance(info.item_type, inspect.StructType) and info.item_type.cls in around
            return [] if again else [_sample(info.item_type, *around)]
        case inspect.TupleType():
            return [_sample(item, *around) for item in info.item_types]
        case inspect.DictType():
            return {"key": _sample(info.value_type, *around)}
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(iter(info.cls)).value
    return _plain_sample(info)


def _plain_sample(info: inspect.Type) -> Any:
    match info:
        case inspect.StrType():
            return "0123456789abcdef" if info.pattern else "payments"
        case inspect.BytesType():
            return "AAEC"
        case inspect.DateTimeType():
            return "2026-06-30T00:00:00Z"
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 7
        case inspect.FloatType():
            return 1.5
        case inspect.AnyType():
            return {"any": [1, None]}
    raise TypeError(f"no sample of {info}")


def _request_parts(route: Route) -> st.SearchStrategy[tuple[Route, dict[str, str], bytes, bytes]]:
    fields = make_sample(route.request)
    path = {name: str(fields[name]) for name in route.path_fields}
    rest = {name: value for name, value in fields.items() if name not in path}
    segments = st.fixed_dictionaries({name: mutated_text(path[name]) for name in path})
    body: st.SearchStrategy[bytes] = st.just(b"")
    query = body
    if route.method == "GET":
        query = mutated("&".join(f"{name}={value}" for name, value in rest.items()).encode())
    else:
        body = json_documents(rest, fields)
    return st.tuples(st.just(route), segments, query, body)


@fuzz(st.sampled_from(ROUTES).flatmap(_request_parts), examples=120)
def fuzz_request(found: tuple[Route, dict[str, str], bytes, bytes]) -> None:
    route, segments, raw_query, body = found
    try:
        check_depth(body)
        # As the router hands them on: text that came in as percent-encoded UTF-8.
        decoded = decode_segments(
            {k: v.encode(errors="replace").decode() for k, v in segments.items()}
        )
        query = parse_query(raw_query) if raw_query else {}
        request = parse_request(route, decoded, query, body)
    except TrothError as error:
        check_refusal(error)
        return
    assert type(request) is route.request
    assert _pass_on(route, request) == request
    if isinstance(request, RegisterIdentity):
        try:
            document = PlainDocument(_manifest_of(request))
        except TrothError as error:
            check_refusal(error)
        else:
            parse_manifests([document], Limits(), NOW)


def _pass_on(route: Route, request: Any) -> Any:
    """The request after a client of ours has rendered it and the server has read it again."""
    _, target, body = render_request(route.name, request)
    parts = urlsplit(target)
    pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route.path)
    match = re.fullmatch(pattern, parts.path)
    assert match, target
    path = {name: unquote(value) for name, value in match.groupdict().items()}
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return parse_request(route, path, query, body or b"")


@fuzz(mutated(b"after=a&limit=10&text=%C3%A9", b"a=b;c=d&e", b"a" * 70 + b"=&" * 70))
def fuzz_query(raw: bytes) -> None:
    fields = answer(parse_query, raw)
    for name, value in (fields or {}).items():
        (name + value).encode()


@fuzz(
    st.text('[]{}",:\\ a1\n', max_size=300).map(str.encode) | mutated(b"[" * 65, b'"[[[[\\"[[' * 20)
)
def fuzz_depth(body: bytes) -> None:
    """Whatever passes can be decoded without running out of stack."""
    try:
        check_depth(body)
    except TrothError as error:
        check_refusal(error)
        return
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert _measure_depth(value) <= MAX_DEPTH


def _measure_depth(value: Any) -> int:
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(_measure_depth, inner), default=0)


def _answer_parts(route: Route) -> st.SearchStrategy[tuple[Route, int, bytes]]:
    status = st.sampled_from([200, 204, 301, 400, 403, 409, 500, 503])
    return st.tuples(st.just(route), status, json_documents(make_sample(route.result)) | PROBLEMS)


PROBLEM = msgspec.json.decode(render_problem("conflict", "The name is taken.", "req_1")[1])
PROBLEMS = json_documents(PROBLEM, {**PROBLEM, "code": "no such", "detail": ""})


@fuzz(st.sampled_from(ROUTES).flatmap(_answer_parts), examples=120)
def fuzz_result(found: tuple[Route, int, bytes]) -> None:
    route, status, body = found
    result = answer(parse_result, route, status, body, internal=True)
    if result is not None:
        assert parse_result(route, 200, msgspec.json.encode(result)) == result


@fuzz(PROBLEMS | mutated(b"[" * 2_000, b'{"detail":' + b"[" * 2_000))
def fuzz_problem(body: bytes) -> None:
    problem = parse_problem(body)
    check_refusal(parse_failure(502, body), internal=True)
    if problem is not None:
        assert parse_problem(msgspec.json.encode(problem)) == problem


_LINES = [make_sample(JournalEntry), make_sample(Heartbeat), make_sample(StreamEnd)]


@fuzz(
    st.lists(
        json_documents(*_LINES) | st.sampled_from([b"", b"\n", b" \n", b"[" * 2_000]), max_size=6
    ),
)
def fuzz_json_lines(chunks: list[bytes]) -> None:
    """``journal.tail`` as the command line follows it, cut into chunks anywhere."""

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=iter(chunk + b"\n" for chunk in chunks))

    http = httpx.Client(transport=httpx.MockTransport(respond), base_url="http://x")
    values: list[Any] = []
    with ApiClient(http, "x") as client:
        try:
            for value in client.stream("journal.tail", TailJournal()):
                values.append(value)
        except TrothError as error:
            check_refusal(error, internal=True)
        else:
            raise AssertionError("a stream that ends always says why")
    assert all(isinstance(value, JournalEntry | Heartbeat) for value in values)
    assert find_route("journal.tail").stream


def chop(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` in pieces that end at `cuts`."""
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(edges):
        yield data[start:end]


@fuzz(mutated_json(make_sample(RegisterIdentity)))
def fuzz_registration(value: Any) -> None:
    """``identity.register`` has a parser of its own behind the wire: that of manifests."""
    try:
        request = msgspec.convert(value, RegisterIdentity)
    except (msgspec.ValidationError, UnicodeEncodeError):  # JSON has no lone surrogates
        return
    document = answer(_manifest_of, request)
    if document is not None:
        parse_manifests([PlainDocument(document)], Limits(), NOW)
