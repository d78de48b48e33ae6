"""The messages of the SPIFFE Workload API: requests into plain values, plain values into replies.

Source: workloadapi.proto and SPIFFE_Workload_API.md, sections 4.5, 5.1, 6.1 and 7.1 (of the
SPIFFE standards). Streams send only what changed, and what is equal must look equal: replies are
serialized deterministically.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.message import Message

from troth.core.errors import Invalid
from troth.wire.api.jwt_svids import MAX_AUDIENCES
from troth.wire.protobuf import Field, Shape, build_messages, parse_message

SERVICE = "SpiffeWorkloadAPI"
SECURITY_HEADER = "workload.spiffe.io"

MESSAGES: dict[str, tuple[Field, ...]] = {
    "X509SVIDRequest": (),
    "X509SVIDResponse": (
        Field("svids", 1, "X509SVID", Shape.MANY),
        Field("crl", 2, "bytes", Shape.MANY),
        Field("federated_bundles", 3, "bytes", Shape.MAP),
    ),
    "X509SVID": (
        Field("spiffe_id", 1, "string"),
        Field("x509_svid", 2, "bytes"),
        Field("x509_svid_key", 3, "bytes"),
        Field("bundle", 4, "bytes"),
        Field("hint", 5, "string"),
    ),
    "X509BundlesRequest": (),
    "X509BundlesResponse": (
        Field("crl", 1, "bytes", Shape.MANY),
        Field("bundles", 2, "bytes", Shape.MAP),
    ),
    "JWTSVIDRequest": (
        Field("audience", 1, "string", Shape.MANY),
        Field("spiffe_id", 2, "string"),
    ),
    "JWTSVIDResponse": (Field("svids", 1, "JWTSVID", Shape.MANY),),
    "JWTSVID": (
        Field("spiffe_id", 1, "string"),
        Field("svid", 2, "string"),
        Field("hint", 3, "string"),
    ),
    "JWTBundlesRequest": (),
    "JWTBundlesResponse": (Field("bundles", 1, "bytes", Shape.MAP),),
    "ValidateJWTSVIDRequest": (
        Field("audience", 1, "string"),
        Field("svid", 2, "string"),
    ),
    "ValidateJWTSVIDResponse": (
        Field("spiffe_id", 1, "string"),
        Field("claims", 2, "google.protobuf.Struct"),
    ),
}
"""Names and numbers of workloadapi.proto; the WIT-SVID profile is optional and not offered."""


@dataclass(frozen=True, slots=True)
class X509SvidEntry:
    """One X509SVID message: all DER, the chain leaf first and, as the bundle, concatenated."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    private_key: bytes = field(repr=False)
    bundle: tuple[bytes, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class JwtSvidRequest:
    """What FetchJWTSVID asks for; `spiffe_id` is None for all identities."""

    audiences: tuple[str, ...]
    spiffe_id: str | None


@dataclass(frozen=True, slots=True)
class ValidateRequest:
    """What ValidateJWTSVID asks for."""

    audience: str
    token: str = field(repr=False)


class WorkloadMessages:
    """Reads requests and writes replies; owns the message classes, so make one and share it."""

    def __init__(self) -> None:
        self._types = build_messages("troth/workload.proto", MESSAGES, (struct_pb2.DESCRIPTOR,))

    def check_request(self, name: str, data: bytes) -> None:
        """Raise `Invalid` unless `data` is the request `name`, which has no fields."""
        parse_message(self._types[name], data)

    def parse_jwt_svid_request(self, data: bytes) -> JwtSvidRequest:
        """Read a JWTSVIDRequest; raises `Invalid` without an audience."""
        request: Any = parse_message(self._types["JWTSVIDRequest"], data)
        audiences = tuple(request.audience)
        if not audiences or not all(audiences):
            raise Invalid("Name the audience: who will the token be shown to? It can't be empty.")
        if len(audiences) > MAX_AUDIENCES:
            raise Invalid(f"A token has at most {MAX_AUDIENCES} audiences.")
        return JwtSvidRequest(audiences, request.spiffe_id or None)

    def parse_validate_request(self, data: bytes) -> ValidateRequest:
        """Read a ValidateJWTSVIDRequest; raises `Invalid` if a field is empty."""
        request: Any = parse_message(self._types["ValidateJWTSVIDRequest"], data)
        if not request.audience:
            raise Invalid("Name the audience that the token must be meant for.")
        if not request.svid:
            raise Invalid("Send the JWT-SVID to validate in the field 'svid'.")
        return ValidateRequest(request.audience, request.svid)

    def render_x509_svids(
        self,
        svids: Iterable[X509SvidEntry],
        crls: Iterable[bytes],
        federated: Mapping[str, tuple[bytes, ...]],
    ) -> bytes:
        """An X509SVIDResponse. A hint that an earlier entry has is left out (section 5.2.1)."""
        reply: Any = self._types["X509SVIDResponse"]()
        hints: set[str] = set()
        for svid in svids:
            reply.svids.add(
                spiffe_id=svid.spiffe_id,
                x509_svid=b"".join(svid.chain),
                x509_svid_key=svid.private_key,
                bundle=b"".join(svid.bundle),
                hint="" if svid.hint in hints else svid.hint,
            )
            hints.add(svid.hint)
        reply.crl.extend(crls)
        for trust_domain, authorities in federated.items():
            reply.federated_bundles[trust_domain] = b"".join(authorities)
        return _serialize(reply)

    def render_x509_bundles(
        self, crls: Iterable[bytes], bundles: Mapping[str, tuple[bytes, ...]]
    ) -> bytes:
        """An X509BundlesResponse; `bundles` are keyed by the trust domain's SPIFFE ID."""
        reply: Any = self._types["X509BundlesResponse"]()
        reply.crl.extend(crls)
        for trust_domain, authorities in bundles.items():
            reply.bundles[trust_domain] = b"".join(authorities)
        return _serialize(reply)

    def render_jwt_svids(self, svids: Iterable[tuple[str, str, str]]) -> bytes:
        """A JWTSVIDResponse of (SPIFFE ID, token, hint)."""
        reply: Any = self._types["JWTSVIDResponse"]()
        for spiffe_id, token, hint in svids:
            reply.svids.add(spiffe_id=spiffe_id, svid=token, hint=hint)
        return _serialize(reply)

    def render_jwt_bundles(self, bundles: Mapping[str, bytes]) -> bytes:
        """A JWTBundlesResponse of JWK sets, keyed by the trust domain's SPIFFE ID."""
        reply: Any = self._types["JWTBundlesResponse"]()
        for trust_domain, jwks in bundles.items():
            reply.bundles[trust_domain] = jwks
        return _serialize(reply)

    def render_validation(self, spiffe_id: str, claims: Mapping[str, Any]) -> bytes:
        """A ValidateJWTSVIDResponse; numbers become doubles, as google.protobuf.Struct has it.

        Raises `Invalid` for claims that it can't hold: integers beyond any double, lone surrogates,
        endless nesting.
        """
        reply: Any = self._types["ValidateJWTSVIDResponse"](spiffe_id=spiffe_id)
        try:
            reply.claims.update(dict(claims))
        except (ValueError, OverflowError, RecursionError) as error:
            raise Invalid(
                "The token is sound, but protobuf can't hold its claims; ask its issuer for "
                "plainer ones."
            ) from error
        return _serialize(reply)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
