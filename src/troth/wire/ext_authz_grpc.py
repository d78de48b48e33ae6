"""Envoy's ext_authz over gRPC: its messages as questions and answers.

Apart from the forms over HTTP, since generated messages take long to load.

Source: envoy/service/auth/v3/external_auth.proto and attribute_context.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.service.auth.v3 import external_auth_pb2

from troth.wire.api.enforcement import EnforcedDecision, EnforceDecision
from troth.wire.ext_authz import (
    list_identity_headers,
    list_refusal_headers,
    make_question,
    read_escaped_pem,
    render_refusal,
)
from troth.wire.protobuf import parse_message

SERVICE = "envoy.service.auth.v3.Authorization"
_OK, _UNAUTHENTICATED, _DENIED, _UNAVAILABLE = 0, 16, 7, 14
_CODES = {401: _UNAUTHENTICATED, 403: _DENIED}


def parse_check(data: bytes) -> EnforceDecision:
    """A CheckRequest. Who sent the request is what Envoy saw in the TLS handshake; the header
    ``x-forwarded-client-cert`` isn't looked at."""
    request = parse_message(external_auth_pb2.CheckRequest, data)
    attributes = request.attributes
    http, source = attributes.request.http, attributes.source
    headers: Mapping[str, str] = http.headers
    certificate = read_escaped_pem(source.certificate) if source.certificate else b""
    peer = source.principal if source.principal.startswith("spiffe://") else ""
    encrypted = attributes.HasField("tls_session") or http.scheme == "https"
    return make_question(
        method=http.method,
        host=http.host,
        path=http.path,
        authorization=headers.get("authorization", ""),
        dpop=headers.get("dpop", ""),
        certificate=certificate,
        peer=peer,
        ip=source.address.socket_address.address,
        transport="mtls" if certificate or peer else "tls" if encrypted else "plain",
        point="envoy",
    )


def render_check(answer: EnforcedDecision) -> bytes:
    """The CheckResponse of an answer."""
    response = external_auth_pb2.CheckResponse()
    if answer.allowed:
        response.status.code = _OK
        given = list_identity_headers(answer)
        for name, value in given:
            if value:
                added = response.ok_response.headers.add()
                added.header.key, added.header.value = name, value
                added.append_action = 2  # OVERWRITE_IF_EXISTS_OR_ADD
        response.ok_response.headers_to_remove.extend(name for name, value in given if not value)
    else:
        response.status.code = _CODES.get(answer.status, _UNAVAILABLE)
        response.status.message = answer.reason
        denied = response.denied_response
        denied.status.code = answer.status
        denied.body = render_refusal(answer).decode()
        for name, value in list_refusal_headers(answer):
            added = denied.headers.add()
            added.header.key, added.header.value = name, value
            added.append_action = 2
    data: bytes = response.SerializeToString(deterministic=True)
    return data
