"""What proxies send about a request, and what they are told: Envoy's ext_authz over gRPC and HTTP,
nginx's auth_request and Traefik's forwardAuth.

Sources: envoy/service/auth/v3/external_auth.proto and attribute_context.proto, and
``x-forwarded-client-cert`` in Envoy's "HTTP header manipulation". The message classes are Envoy's
own, from the package ``xds-protos``.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from troth.core.errors import Invalid
from troth.wire.api.enforcement import EnforcedDecision, EnforceDecision
from troth.wire.oauth.answers import plain_text

SUBJECT = "x-troth-subject"
DECISION = "x-troth-decision"
RESOURCE = "x-troth-resource"
ACTION = "x-troth-action"
ACTORS = "x-troth-actors"
REASON = "x-troth-reason"
IDENTITY_HEADERS = (SUBJECT, DECISION, RESOURCE, ACTION, ACTORS, REASON)
"""What applications behind a proxy read, and clients never write: each answer has all of them."""

MAX_FORWARDED = 32_768
MAX_ELEMENTS = 32
MAX_PAIRS = 64
_PEM = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*", re.ASCII
)
_PAIR = re.compile(r'([A-Za-z]{1,16})=("(?:[^"\\]|\\.)*"|[^",;]*)')


@dataclass(frozen=True, slots=True)
class ForwardedCertificate:
    """One element of ``x-forwarded-client-cert``: the peer's SPIFFE ID, its certificate (DER) and
    that one's SHA-256 in hexadecimal, as far as they were forwarded."""

    uri: str = ""
    certificate: bytes = b""
    fingerprint: str = ""


def read_forwarded(value: str) -> ForwardedCertificate:
    """The element that the proxy itself has added to ``x-forwarded-client-cert``: the last one.

    Those before it came with the request, from whoever sent it. Raises `Invalid` for what isn't of
    that form, or names two peers.
    """
    if len(value) > MAX_FORWARDED:
        raise Invalid(f"x-forwarded-client-cert is longer than {MAX_FORWARDED} characters.")
    pairs = _read_elements(value)[-1]
    uris = [text for name, text in pairs if name == "uri" and text]
    certificates = [text for name, text in pairs if name == "cert" and text]
    hashes = [text.lower() for name, text in pairs if name == "hash" and text]
    if max(len(uris), len(certificates), len(hashes)) > 1:
        raise Invalid("x-forwarded-client-cert must name one peer: one URI, Cert and Hash.")
    der = read_escaped_pem(certificates[0]) if certificates else b""
    return ForwardedCertificate(uris[0] if uris else "", der, hashes[0] if hashes else "")


def _read_elements(value: str) -> list[list[tuple[str, str]]]:
    """All elements, each as its pairs with names in lower case."""
    elements: list[list[tuple[str, str]]] = [[]]
    at = pairs = 0
    while True:
        found = _PAIR.match(value, at)
        if found is None:
            raise Invalid("x-forwarded-client-cert is not a list of elements of Key=Value.")
        text = found[2]
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        elements[-1].append((found[1].lower(), text))
        at, pairs = found.end(), pairs + 1
        if pairs > MAX_PAIRS or len(elements) > MAX_ELEMENTS:
            raise Invalid("x-forwarded-client-cert has too many elements.")
        if at == len(value):
            return elements
        if value[at] == ",":
            elements.append([])
        elif value[at] != ";":
            raise Invalid("x-forwarded-client-cert is not a list of elements of Key=Value.")
        at += 1
        while at < len(value) and value[at] == " ":
            at += 1


def read_escaped_pem(text: str) -> bytes:
    """The first certificate of a percent-encoded PEM, in DER: what Envoy and nginx forward."""
    if len(text) > MAX_FORWARDED:
        raise Invalid("The forwarded certificate is too long.")
    plain = unquote(text, "ascii", "replace")
    # A chain may follow the certificate.
    end = plain.find("-----END CERTIFICATE-----")
    found = _PEM.fullmatch(plain[: end + 25]) if end >= 0 else None
    if found is None:
        raise Invalid("The forwarded certificate is no percent-encoded PEM.")
    return _decode("".join(found[1].split()))


def read_bare_pem(text: str) -> bytes:
    """The first certificate of what Traefik forwards: base64 without the lines around it, with
    commas between several."""
    if len(text) > MAX_FORWARDED:
        raise Invalid("The forwarded certificate is too long.")
    return _decode(unquote(text, "ascii", "replace").split(",", 1)[0])


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("The forwarded certificate is no base64.") from None


def make_question(**values: Any) -> EnforceDecision:
    """The question with these fields; raises `Invalid` for what is too long."""
    try:
        return msgspec.convert(values, EnforceDecision)
    except msgspec.ValidationError as error:
        raise Invalid(f"The proxy's question can't be taken: {error}.") from None


def list_identity_headers(answer: EnforcedDecision) -> list[tuple[str, str]]:
    """The headers that a request goes on with, all of them, so that none of the client's stays."""
    values = {
        SUBJECT: answer.subject,
        DECISION: answer.decision,
        RESOURCE: answer.resource,
        ACTION: answer.action,
        ACTORS: ",".join(answer.actors),
    }
    return [(name, plain_text(values.get(name, ""))) for name in IDENTITY_HEADERS]


def list_refusal_headers(answer: EnforcedDecision) -> list[tuple[str, str]]:
    """The headers of a refusal, as the client gets it."""
    headers = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        (DECISION, answer.decision),
        (REASON, answer.reason),
    ]
    if answer.challenge:
        headers.append(("www-authenticate", answer.challenge))
    return headers


def render_refusal(answer: EnforcedDecision) -> bytes:
    """The body of a refusal: the reason's id and that of the decision, and nothing that tells
    strangers what is declared."""
    return msgspec.json.encode({"error": answer.reason, "decision": answer.decision})
