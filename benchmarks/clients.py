"""OAuth clients as the benchmarks play them: registered, with keys and SVIDs, their requests made
before they are sent."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.installation import SELECTOR, Installation, make_csr
from benchmarks.requests import make_post
from troth.core.jose.jwk import encode_base64url, render_key
from troth.operations.client import JWT_BEARER_ASSERTION
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
    IssuedCertificates,
)
from troth.wire.api.identities import NameIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

RESOURCE = "https://bench.example.org"
ROLE = "reader"
TOKEN_PATH = "/oauth/token"
_FORM = "content-type: application/x-www-form-urlencoded"
_COMMON = {"owner": "bench@example.org", "purpose": "Measures"}

Key = ec.EllipticCurvePrivateKey


def make_keys(count: int) -> list[Key]:
    """Fresh P-256 keys."""
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]


def name_client(number: int) -> str:
    """The name of a client that has a key of its own."""
    return f"client-{number}"


def make_id(name: str) -> str:
    """The SPIFFE ID of an identity of that name."""
    return f"spiffe://troth.local/{name}"


def declare(server: Installation, keys: Sequence[Key], *workloads: str, **resource: Any) -> None:
    """The resource, the role, an identity for each key, and one for each of these workloads."""
    spec = {"identifiers": [RESOURCE], "actions": {"read": "See it"}, **resource}
    grant = {"permissions": [{"resource": "bench", "actions": ["read"]}]}
    documents = [_render("Resource", "bench", spec), _render("Role", ROLE, grant)]
    for number, key in enumerate(keys):
        client = {"keys": [render_key(key.public_key())]}
        documents.append(_render_identity(name_client(number), client=client))
    for name in workloads:
        documents.append(_render_identity(name, selectors=[SELECTOR], nodes=["bench"]))
    with server.open_admin() as admin:
        admin.call("manifest.apply", SubmitManifests(documents=documents))


def _render_identity(name: str, **spec: Any) -> ManifestDocument:
    return _render("Identity", name, {"kind": "service", "roles": [ROLE], **spec})


def _render(kind: str, name: str, spec: Mapping[str, Any]) -> ManifestDocument:
    return ManifestDocument(
        value={
            "apiVersion": "troth/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {**_COMMON, **spec},
        }
    )


def make_contexts(server: Installation, names: Sequence[str]) -> list[ssl.SSLContext]:
    """For each of these workloads, a client that shows its X.509-SVID."""
    keys = make_keys(len(names))
    with server.open_admin() as admin:
        ids = [admin.call("identity.show", NameIdentity(name=name)).id for name in names]
    requests = [
        CertificateRequest(
            identity_id=ids[n],
            csr=make_csr(key),
            instance=InstanceClaim(key=f"{n:016x}", pid=1000 + n, selectors=[SELECTOR]),
        )
        for n, key in enumerate(keys)
    ]
    with server.join() as node:
        answer = node.post(
            "/v1/certificates/issue",
            content=msgspec.json.encode(IssueCertificates(requests=requests)),
        )
    results = msgspec.json.decode(answer.content, type=IssuedCertificates).results
    return [
        _make_context(server, key, result.chain) for key, result in zip(keys, results, strict=True)
    ]


def _make_context(server: Installation, key: Key, chain: Sequence[bytes]) -> ssl.SSLContext:
    if not chain:
        raise RuntimeError("no certificate was issued")
    pem = server.folder / "client.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + b"".join(x509.load_der_x509_certificate(d).public_bytes(Encoding.PEM) for d in chain)
    )
    context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
    context.load_cert_chain(pem)
    pem.unlink()
    return context


def make_assertion(key: Key, name: str, audience: str) -> dict[str, str]:
    """The parameters by which the identity `name` proves itself with a key of its own."""
    now = int(time.time())
    claims = {
        "iss": make_id(name),
        "sub": make_id(name),
        "aud": audience,
        "iat": now,
        "exp": now + 600,
        "jti": encode_base64url(os.urandom(16)),
    }
    return {
        "client_assertion_type": JWT_BEARER_ASSERTION,
        "client_assertion": sign_jwt(key, {"alg": "ES256", "typ": "JWT"}, claims),
    }


def make_proof(key: Key, url: str, nonce: str) -> str:
    """A DPoP proof for a POST to `url` (RFC 9449, section 4.2)."""
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": render_key(key.public_key())}
    claims = {
        "jti": encode_base64url(os.urandom(16)),
        "htm": "POST",
        "htu": url,
        "iat": int(time.time()),
        "nonce": nonce,
    }
    return sign_jwt(key, header, claims)


def sign_jwt(key: Key, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """A compact JWS in ES256."""
    content = ".".join(encode_base64url(msgspec.json.encode(part)) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{content}.{encode_base64url(signature)}"


def ask_token(origin: str, proof: Mapping[str, str], *headers: str) -> bytes:
    """A token request as bytes, by client credentials, with what `proof` has besides."""
    form = {"grant_type": "client_credentials", **proof, "resource": RESOURCE}
    return post_form(origin, TOKEN_PATH, form, *headers)


def post_form(origin: str, path: str, form: Mapping[str, str], *headers: str) -> bytes:
    """A form as a request in bytes."""
    host = origin.removeprefix("https://")
    return make_post(host, path, urlencode(form).encode(), _FORM, *headers)


def fetch_nonce(server: Installation, key: Key, name: str) -> str:
    """The server's newest nonce for DPoP proofs, which it gives who has none (section 8)."""
    url = f"{server.public}{TOKEN_PATH}"
    form = {"grant_type": "client_credentials", **make_assertion(key, name, server.public)}
    context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.post(url, data=form, headers={"dpop": make_proof(key, url, "none")})
    return answer.headers["dpop-nonce"]
