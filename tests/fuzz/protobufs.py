"""Protobuf messages of the Workload API and of Envoy's SDS, in the decoder that the socket uses.

HTTP/2 and gRPC frames against the living socket: `tests.fuzz.sockets`.
"""

from __future__ import annotations

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated
from troth.core.errors import TrothError
from troth.wire.api.jwt_svids import MAX_AUDIENCES
from troth.wire.protobuf import parse_message
from troth.wire.sds import MAX_ERROR_LENGTH, MAX_NAMES, TYPE_URL, parse_request
from troth.wire.workload import MESSAGES, WorkloadMessages

WORKLOAD = WorkloadMessages()


def _encode(name: str, **fields: Any) -> bytes:
    made: Any = WORKLOAD._types[name](**fields)
    encoded: bytes = made.SerializeToString()
    return encoded


_DEEP = b"\x0a\x7f" * 2_000
_JWT = _encode("JWTSVIDRequest", audience=["ledger", "é"], spiffe_id="spiffe://example.org/a")
_VALIDATE = _encode("ValidateJWTSVIDRequest", audience="ledger", svid="a.b.c")
_MANY = _encode("JWTSVIDRequest", audience=["a"] * 101)


@fuzz(mutated(_JWT, _VALIDATE, _MANY, _DEEP))
def fuzz_workload_message(data: bytes) -> None:
    asked = answer(WORKLOAD.parse_jwt_svid_request, data)
    if asked is not None:
        assert 1 <= len(asked.audiences) <= MAX_AUDIENCES
        again = _encode("JWTSVIDRequest", audience=asked.audiences, spiffe_id=asked.spiffe_id or "")
        assert WORKLOAD.parse_jwt_svid_request(again) == asked
    validate = answer(WORKLOAD.parse_validate_request, data)
    if validate is not None:
        again = _encode("ValidateJWTSVIDRequest", audience=validate.audience, svid=validate.token)
        assert WORKLOAD.parse_validate_request(again) == validate
    for name in MESSAGES:
        if name.endswith("Request"):
            answer(WORKLOAD.check_request, name, data)


def _discovery(**fields: Any) -> bytes:
    request = discovery_pb2.DiscoveryRequest(**fields)
    request.node.id = "envoy-1"
    request.node.metadata.update({"a": {"b": [1, "c"]}})
    encoded: bytes = request.SerializeToString()
    return encoded


_REFUSAL = discovery_pb2.DiscoveryRequest()
_REFUSAL.error_detail.message = "é" * 600
_REQUESTS = (
    _discovery(type_url=TYPE_URL, resource_names=["spiffe://example.org/a", "ALL", ""]),
    _discovery(version_info="1", response_nonce="2", resource_names=["x"] * 300),
    _discovery(type_url=TYPE_URL + "x"),
    _REFUSAL.SerializeToString(),
    _DEEP,
)


@fuzz(mutated(*_REQUESTS))
def fuzz_sds_request(data: bytes) -> None:
    request = answer(parse_request, data)
    if request is None:
        return
    assert len(request.names) == len(set(request.names)) <= MAX_NAMES
    assert all(request.names)
    assert len(request.refusal or "") <= MAX_ERROR_LENGTH
    again = discovery_pb2.DiscoveryRequest(
        resource_names=request.names, version_info=request.version, response_nonce=request.nonce
    )
    again.node.id = request.node
    if request.refusal is not None:
        again.error_detail.message = request.refusal
    assert parse_request(again.SerializeToString()) == request


@fuzz(mutated(_encode("ValidateJWTSVIDResponse", spiffe_id="a", claims={"a": [1, {"b": None}]})))
def fuzz_nested_message(data: bytes) -> None:
    """``google.protobuf.Struct`` nests without end: the decoder's own bound must hold."""
    for name in ("ValidateJWTSVIDResponse", "X509SVIDResponse"):
        try:
            parse_message(WORKLOAD._types[name], data)
        except TrothError:
            pass
