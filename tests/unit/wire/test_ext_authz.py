"""What proxies send, taken apart; what they are told, put together."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.wire.api.enforcement import EnforcedDecision
from troth.wire.ext_authz import (
    IDENTITY_HEADERS,
    ForwardedCertificate,
    list_identity_headers,
    read_bare_pem,
    read_escaped_pem,
    read_forwarded,
    render_refusal,
)
from troth.wire.ext_authz_grpc import parse_check, render_check

DER = bytes(range(256))
BASE64 = base64.b64encode(DER).decode()
PEM = f"-----BEGIN CERTIFICATE-----\n{BASE64}\n-----END CERTIFICATE-----\n"
ESCAPED = quote(PEM, safe="")
HASH = "468ed34c4730b00fdb29eb8ab09b0dd6e2b9cc17e84eb6ef55bfbee0a8ba0d37"
ME = "spiffe://example.org/billing"
OTHER = "spiffe://example.org/admin"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (f"URI={ME}", ForwardedCertificate(ME)),
        (f"By=spiffe://x/y;Hash={HASH.upper()};URI={ME}", ForwardedCertificate(ME, b"", HASH)),
        (f'Hash={HASH};Cert="{ESCAPED}";Subject="CN=a,O=b;c=\\"d\\"";URI={ME};DNS=a;DNS=b',
         ForwardedCertificate(ME, DER, HASH)),
        (f"URI={OTHER},URI={ME}", ForwardedCertificate(ME)),
        (f"URI={OTHER}, URI={ME}", ForwardedCertificate(ME)),
        (f'Subject="x,URI={OTHER}";URI={ME}', ForwardedCertificate(ME)),
        (f'URI={ME};Subject=",URI={OTHER}"', ForwardedCertificate(ME)),
        ('Subject=""', ForwardedCertificate()),
    ],
)  # fmt: skip
def test_the_element_that_the_proxy_added(value: str, wanted: ForwardedCertificate) -> None:
    assert read_forwarded(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        "", ",", "URI", "=x", f"URI={ME},", f"URI={ME};", f"URI={ME};URI={OTHER}",
        f'URI={ME}"x"', f'URI="{ME}', f'URI={ME};Subject="\\"', f"URI={ME} ;x", "Cert=abc",
        'Cert="-----BEGIN CERTIFICATE-----%0Aa%0A-----END CERTIFICATE-----"',
        "URI=" + "a" * 40_000, ",".join(["URI=a"] * 40), ";".join(["DNS=a"] * 80),
    ],
)  # fmt: skip
def test_what_is_no_forwarded_certificate(value: str) -> None:
    with pytest.raises(Invalid):
        read_forwarded(value)


@given(st.text(max_size=200))
def test_forwarded_certificates_are_read_or_refused(text: str) -> None:
    for read in (read_forwarded, read_escaped_pem, read_bare_pem):
        try:
            read(text)
        except Invalid:
            continue


def test_certificates_as_proxies_forward_them() -> None:
    assert read_escaped_pem(ESCAPED + quote(PEM)) == DER
    assert read_bare_pem(quote(BASE64)) == DER
    assert read_bare_pem(f"{BASE64},{BASE64}") == DER
    for text in ("%2D", "x" + ESCAPED, quote("-----BEGIN CERTIFICATE-----")):
        with pytest.raises(Invalid):
            read_escaped_pem(text)


def make_check() -> external_auth_pb2.CheckRequest:
    request = external_auth_pb2.CheckRequest()
    http, source = request.attributes.request.http, request.attributes.source
    http.method, http.host, http.path = "POST", "ledger.example.org", "/entries?x=1"
    http.headers["authorization"] = "Bearer abc"
    http.headers["x-forwarded-client-cert"] = f"URI={OTHER}"
    source.principal, source.certificate = ME, ESCAPED
    source.address.socket_address.address = "192.0.2.1"
    return request


def test_a_check_says_what_envoy_saw_and_not_what_the_client_wrote() -> None:
    found = parse_check(make_check().SerializeToString())
    assert (found.method, found.host, found.path) == ("POST", "ledger.example.org", "/entries?x=1")
    assert (found.peer, found.certificate, found.transport) == (ME, DER, "mtls")
    assert (found.authorization, found.ip, found.point) == ("Bearer abc", "192.0.2.1", "envoy")


def test_a_peer_without_a_spiffe_id_is_nobody() -> None:
    request = make_check()
    request.attributes.source.principal = "CN=somebody"
    request.attributes.source.certificate = ""
    found = parse_check(request.SerializeToString())
    assert (found.peer, found.transport) == ("", "plain")


def test_broken_checks() -> None:
    request = make_check()
    request.attributes.request.http.path = "/" + "a" * 9_000
    for data in (b"\xff\xff", request.SerializeToString()):
        with pytest.raises(Invalid):
            parse_check(data)


ALLOWED = EnforcedDecision(
    allowed=True, decision="dec_1", status=200, subject=ME, actors=[OTHER], resource="ledger"
)
DENIED = EnforcedDecision(
    allowed=False, decision="dec_2", status=401, reason="no_credential", detail="secret inside",
    challenge="Bearer",
)  # fmt: skip


def test_an_allowed_request_goes_on_with_our_headers_alone() -> None:
    response = external_auth_pb2.CheckResponse.FromString(render_check(ALLOWED))
    assert response.status.code == 0
    given = {one.header.key: one.header.value for one in response.ok_response.headers}
    assert given["x-troth-subject"] == ME
    assert given["x-troth-actors"] == OTHER
    assert {one.append_action for one in response.ok_response.headers} == {2}
    assert {*given, *response.ok_response.headers_to_remove} == set(IDENTITY_HEADERS)
    assert [name for name, _ in list_identity_headers(ALLOWED)] == list(IDENTITY_HEADERS)


def test_a_refusal_says_its_reason_and_nothing_of_what_is_declared() -> None:
    response = external_auth_pb2.CheckResponse.FromString(render_check(DENIED))
    assert response.status.code == 16
    denied = response.denied_response
    assert denied.status.code == 401
    assert denied.body == '{"error":"no_credential","decision":"dec_2"}'
    assert "secret" not in render_refusal(DENIED).decode()
    assert ("www-authenticate", "Bearer") in {
        (one.header.key, one.header.value) for one in denied.headers
    }
