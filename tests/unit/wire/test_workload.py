"""The Workload API's messages against the classes of the PyPI package `spiffe`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2

from troth.core.errors import Invalid
from troth.wire.workload import MESSAGES, WorkloadMessages, X509SvidEntry

WORKLOAD = WorkloadMessages()


def fields_of(message) -> set:
    """A message's fields and those of its map entries, down to numbers and types."""
    proto = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(proto)
    owners = [proto, *proto.nested_type]
    return {
        (owner.name, field.name, field.number, field.label, field.type, field.type_name)
        for owner in owners
        for field in owner.field
    }


@pytest.mark.parametrize("name", sorted(workload_pb2.DESCRIPTOR.message_types_by_name))
def test_every_message_has_the_fields_of_the_standard(name):
    assert fields_of(WORKLOAD._types[name]) == fields_of(getattr(workload_pb2, name))


def test_nothing_is_added_to_the_standard():
    assert set(MESSAGES) == set(workload_pb2.DESCRIPTOR.message_types_by_name)


def test_a_second_set_of_messages_does_no_harm():
    assert WorkloadMessages().parse_jwt_svid_request(b"\x0a\x01a").audiences == ("a",)


def test_equal_bundles_render_equally_in_any_order():
    names = [f"spiffe://td{number}.test" for number in range(20)]
    forward = WORKLOAD.render_jwt_bundles(dict.fromkeys(names, b"{}"))
    backward = WORKLOAD.render_jwt_bundles(dict.fromkeys(reversed(names), b"{}"))
    assert forward == backward


def test_a_private_key_stays_out_of_representations():
    entry = X509SvidEntry("spiffe://example.org/a", (b"c",), b"sesame", (b"b",), "")
    assert "sesame" not in repr(entry)
    assert "x.y.z" not in repr(
        WORKLOAD.parse_validate_request(
            workload_pb2.ValidateJWTSVIDRequest(audience="a", svid="x.y.z").SerializeToString()
        )
    )


def test_unknown_fields_are_tolerated():
    WORKLOAD.check_request("X509SVIDRequest", b"\x9a\x06\x03abc")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_invalid(data):
    for parse in (
        WORKLOAD.parse_jwt_svid_request,
        WORKLOAD.parse_validate_request,
        lambda data: WORKLOAD.check_request("X509SVIDRequest", data),
    ):
        with contextlib.suppress(Invalid):
            parse(data)


def test_claims_of_every_json_type_survive():
    claims = {"a": 1, "b": [1.5, "x", None, True], "c": {"d": {}}, "e": []}
    reply = workload_pb2.ValidateJWTSVIDResponse.FromString(
        WORKLOAD.render_validation("spiffe://example.org/a", claims)
    )
    assert reply.spiffe_id == "spiffe://example.org/a"
    assert dict(reply.claims.items())["a"] == 1
    assert list(reply.claims["b"]) == [1.5, "x", None, True]  # type: ignore[arg-type]  # a list


@pytest.mark.parametrize(
    "claim",
    [10**400, [{"a": "\ud800"}], json.loads("[" * 900 + "]" * 900)],
    ids=["int", "text", "deep"],
)
def test_claims_that_protobuf_cannot_hold_are_refused(claim: Any) -> None:
    with pytest.raises(Invalid, match="can't hold its claims"):
        WorkloadMessages().render_validation("spiffe://example.org/a", {"extra": claim})
