"""What proves something: requests for certificates, client certificates, tokens, bundles."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer, encode_spki, make_private_key
from tests.fakes.machines import DOMAIN, Maker
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import (
    HUGE,
    json_documents,
    mutated_der,
    mutated_json,
    mutated_text,
    read_first,
)
from troth.agent.credential import check_roots, read_leaf
from troth.cli.chain import describe_chain, load_chain
from troth.core.ids import SpiffeId
from troth.core.jose.jwk import derive_key_id, parse_key, render_jwk, render_key
from troth.core.jose.jws import parse_token
from troth.identity.selfsigned import find_faults, is_self_issued, read_validity
from troth.identity.x509pop import (
    NODE,
    Possession,
    find_trust_domain,
    load_authorities,
    verify_possession,
)
from troth.issuance.csr import parse_csr
from troth.issuance.der import assemble_signed, split_der
from troth.issuance.jwtsvid import LEEWAY, finish_jwt, validate_jwt_svid
from troth.issuance.presented import is_signed_by, read_presented
from troth.server.tls import _load_clients
from troth.wire.bundle import list_jwks, parse_bundle, render_bundle
from troth.wire.pem import render_pem_certificates
from troth.wire.workload import WorkloadMessages
from troth.wire.x509pop import parse_evidence

DER = Encoding.DER
KEY = make_private_key()
ISSUER = FakeIssuer()
KID = derive_key_id(ISSUER.jwt.public_key)
JWK = render_jwk(KID, ISSUER.jwt.public_key, "jwt-svid")
MESSAGES = WorkloadMessages()


def _make_csr(*extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(DER)


def _resign(der: bytes) -> bytes:
    """`der` with a signature that is right again, so that what is behind it is reached too."""
    try:
        body = read_first(der)
    except ValueError:
        return der
    return assemble_signed(body, KEY.sign(body, ec.ECDSA(hashes.SHA256())))


_NAMES = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org/a")])
_CSRS = mutated_der(_make_csr(), _make_csr(_NAMES, x509.BasicConstraints(True, 0)))


@fuzz(_CSRS | _CSRS.map(_resign))
def fuzz_csr(der: bytes) -> None:
    public_key = answer(parse_csr, der)
    if public_key is not None:
        assert public_key == encode_spki(KEY)  # nobody else's key can sign for itself here


_LEAF = ISSUER.issue(ISSUER.plan())
_FULL = ISSUER.issue(ISSUER.plan(dns_names=("a.example.org",)))
_CERTIFICATES = mutated_der(_LEAF, _FULL, ISSUER.x509.certificate)
_PKCS8 = KEY.private_bytes(DER, PrivateFormat.PKCS8, NoEncryption())


_MAKER = Maker("Acme root")
_BETWEEN = _MAKER.make_maker("Acme plant")
_MACHINE = replace(_BETWEEN.make("press-4"), others=(_BETWEEN.certificate,))
_CSR = b"a request"
_PROOF = json.loads(_MACHINE.prove(_CSR, NOW))


@fuzz(mutated_text(json.dumps(_PROOF)) | mutated_json(_PROOF).map(json.dumps), examples=200)
def fuzz_x509pop_evidence(text: str) -> None:
    """From anybody's text to a machine: only the one that was made here can come out."""
    found = answer(parse_evidence, text)
    if found is None:
        return
    possession = answer(_verify_machine, found.chain, found.signature, found.at)
    if possession is not None:
        assert possession.fingerprint == _MACHINE.certificate.fingerprint(hashes.SHA256()).hex()


@fuzz(mutated_der(*_MACHINE.chain))
def fuzz_x509pop_certificate(der: bytes) -> None:
    """A certificate in either place of the chain, an anchor, and a root that names the domain."""
    leaf, between = _MACHINE.chain
    signature = _MACHINE.sign(_CSR, NOW)
    answer(_verify_machine, (der, between), signature, NOW)
    answer(_verify_machine, (leaf, der), signature, NOW)
    answer(load_authorities, render_pem_certificates([der]))
    answer(find_trust_domain, [der])


def _verify_machine(chain: tuple[bytes, ...], signature: bytes, at: datetime) -> Possession:
    return verify_possession(
        authorities=(_MAKER.certificate,),
        chain=chain,
        signature=signature,
        at=at,
        purpose=NODE,
        trust_domain=DOMAIN,
        csr=_CSR,
        now=NOW,
    )


@fuzz(_CERTIFICATES)
def fuzz_client_certificate(der: bytes) -> None:
    found = answer(read_presented, der, ISSUER.trust_domain, NOW)
    if found is not None:
        assert found.spiffe_id.trust_domain == ISSUER.trust_domain
        assert SpiffeId.parse(str(found.spiffe_id)) == found.spiffe_id
        assert found.serial
    ours = is_signed_by(der, ISSUER.x509.certificate)
    assert not ours or der in (_LEAF, _FULL, ISSUER.x509.certificate)


@fuzz(_CERTIFICATES)
def fuzz_registered_certificate(der: bytes) -> None:
    """What identities register, and what strangers show as such: nothing of it breaks a listener,
    and what has no fault is taken as an anchor."""
    is_self_issued(der)
    validity = read_validity(der)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_clients(context, [der], [_LEAF])
    if validity is not None and not list(find_faults(x509.load_der_x509_certificate(der))):
        assert is_self_issued(der)


@fuzz(_CERTIFICATES)
def fuzz_received_certificate(der: bytes) -> None:
    """What an agent is sent, and what a person hands to ``troth svid show``."""
    answer(check_roots, (der,), internal=True)
    answer(read_leaf, (der,), _PKCS8, "spiffe://example.org/payments", internal=True)
    try:
        chain = load_chain(split_der(der))
    except ValueError:
        return
    answer(describe_chain, chain)


_START = int(NOW.timestamp())
_HEADER = {"alg": "ES256", "kid": KID, "typ": "JWT"}
_CLAIMS = {
    "sub": "spiffe://example.org/payments",
    "aud": ["ledger", "audit"],
    "exp": _START + 60,
    "iat": _START,
    "nbf": _START,
    "extra": {"n": [1, 2.5, None, "text"]},
}
_ODD_CLAIMS = (
    _CLAIMS,
    _CLAIMS | {"exp": HUGE},
    _CLAIMS | {"extra": [HUGE]},
    _CLAIMS | {"extra": "\ud800", "\udc00": 1},
)
_ALGORITHMS = ["none", "HS256", "RS256", "PS512", "ES384", "ES512", "EdDSA", "es256"]


def _encode(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def _sign(header: bytes, claims: bytes) -> str:
    signing_input = _encode(header) + b"." + _encode(claims)
    return finish_jwt(signing_input, ISSUER.keystore.sign("jwt", signing_input))


_TOKENS = (
    mutated_text(ISSUER.issue_jwt())
    | st.builds(_sign, st.just(json.dumps(_HEADER).encode()), json_documents(*_ODD_CLAIMS))
    | st.builds(
        _sign,
        json_documents(_HEADER, *({**_HEADER, "alg": name} for name in _ALGORITHMS)),
        st.just(json.dumps(_CLAIMS).encode()),
    )
)


@fuzz(_TOKENS, examples=200)
def fuzz_jwt_svid(token: str) -> None:
    """Signed by our own authority, so that claims are reached; only sound ones pass."""
    answer(parse_token, token)
    jwks = {"example.org": [JWK]}
    claims = answer(validate_jwt_svid, token, "ledger", jwks, NOW)
    if claims is None:
        return
    assert SpiffeId.parse(claims["sub"]).path
    assert "ledger" in claims["aud"]
    assert claims["exp"] > (NOW - LEEWAY).timestamp()
    answer(MESSAGES.render_validation, claims["sub"], claims)


_OKP = {
    "kty": "OKP",
    "crv": "Ed25519",
    "kid": KID,
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}


@fuzz(
    mutated_json(JWK, {"kty": "RSA", "kid": KID, "n": "u" * 342, "e": "AQAB"}, _OKP), examples=200
)
def fuzz_jwk(jwk: Any) -> None:
    """A key of a bundle that somebody else publishes: alone, and to check a token with."""
    if not isinstance(jwk, dict):
        return
    public_key = answer(parse_key, jwk)
    if public_key is not None:
        assert parse_key(render_key(public_key)) == public_key
    token = _sign(json.dumps(_HEADER).encode(), json.dumps(_CLAIMS).encode())
    answer(validate_jwt_svid, token, "ledger", {"example.org": [jwk]}, NOW)


_BUNDLE = json.loads(
    render_bundle([ISSUER.x509.certificate], [(KID, ISSUER.jwt.public_key)], 7, 300)
)


def _hold(der: bytes) -> bytes:
    entry = {**_BUNDLE["keys"][0], "x5c": [b64encode(der).decode()]}
    return json.dumps({**_BUNDLE, "keys": [entry]}).encode()


@fuzz(json_documents(_BUNDLE) | mutated_der(ISSUER.x509.certificate).map(_hold))
def fuzz_bundle(document: bytes) -> None:
    bundle = answer(parse_bundle, document)
    if bundle is None:
        return
    list_jwks(bundle)
    again = render_bundle(
        bundle.x509_authorities, bundle.jwt_keys, bundle.sequence or 0, bundle.refresh_hint_s or 0
    )
    parsed = parse_bundle(again)
    assert parsed.x509_authorities == bundle.x509_authorities
    assert parsed.jwt_keys == bundle.jwt_keys
