"""Envoy's secret discovery service, v3: requests into plain values, secrets into replies.

Source: envoy/service/discovery/v3/discovery.proto, envoy/extensions/transport_sockets/tls/v3
(common.proto, secret.proto, tls_spiffe_validator_config.proto) and "xDS REST and gRPC protocol"
of Envoy's documentation. The message classes are Envoy's own, from the package ``xds-protos``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envoy.extensions.transport_sockets.tls.v3 import (
    common_pb2,
    secret_pb2,
    tls_spiffe_validator_config_pb2,
)
from envoy.service.discovery.v3 import discovery_pb2

from troth.core.errors import Invalid
from troth.wire.pem import render_pem, render_pem_certificates, render_pem_crls
from troth.wire.protobuf import parse_message

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
SPIFFE_VALIDATOR = "envoy.tls.cert_validator.spiffe"
MAX_NAMES = 256
MAX_ERROR_LENGTH = 500


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """One DiscoveryRequest: a subscription, an acknowledgement, or a refusal with its reason."""

    names: tuple[str, ...]
    version: str = ""
    nonce: str = ""
    node: str = ""
    refusal: str | None = None


def parse_request(data: bytes) -> SecretRequest:
    """Read a DiscoveryRequest; raises `Invalid` if it asks for anything but secrets."""
    request = parse_message(discovery_pb2.DiscoveryRequest, data)
    if request.type_url not in ("", TYPE_URL):
        raise Invalid(f"Only secrets are served here: set type_url to {TYPE_URL}.")
    if len(request.resource_names) > MAX_NAMES:
        raise Invalid(f"A stream subscribes to at most {MAX_NAMES} secrets; open a second one.")
    refused = request.HasField("error_detail")
    return SecretRequest(
        names=tuple(dict.fromkeys(name for name in request.resource_names if name)),
        version=request.version_info,
        nonce=request.response_nonce,
        node=request.node.id,
        refusal=request.error_detail.message[:MAX_ERROR_LENGTH] if refused else None,
    )


def render_response(version: str, nonce: str, secrets: Iterable[bytes]) -> bytes:
    """A DiscoveryResponse of serialized Secret messages."""
    reply = discovery_pb2.DiscoveryResponse(version_info=version, nonce=nonce, type_url=TYPE_URL)
    for secret in secrets:
        reply.resources.add(type_url=TYPE_URL, value=secret)
    return _serialize(reply)


def render_certificate(name: str, chain: Iterable[bytes], private_key: bytes) -> bytes:
    """A Secret with a certificate chain (DER, leaf first) and its PKCS#8 DER key."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = render_pem_certificates(chain)
    secret.tls_certificate.private_key.inline_bytes = render_pem("PRIVATE KEY", private_key)
    return _serialize(secret)


def render_validation(name: str, authorities: Iterable[bytes], crls: Iterable[bytes]) -> bytes:
    """A Secret with trusted authorities and revocation lists, checked by Envoy's own validator.

    The lists are checked for the whole chain (``only_verify_leaf_cert_crl`` stays off), so a
    revoked intermediate is refused too; the price is that every authority needs a list.
    """
    secret = secret_pb2.Secret(name=name)
    context = secret.validation_context
    context.trusted_ca.inline_bytes = render_pem_certificates(authorities)
    if lists := render_pem_crls(crls):
        context.crl.inline_bytes = lists
    return _serialize(secret)


def render_spiffe_validation(
    name: str, bundles: Mapping[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]]
) -> bytes:
    """A Secret that verifies SPIFFE IDs, each by the (authorities, lists) of its trust domain.

    `bundles` are keyed by trust domain name, without the scheme. Envoy's SPIFFE validator ignores
    the context's `crl` field and takes the lists from the bundle's PEM.
    """
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    for trust_domain, (authorities, crls) in bundles.items():
        added = config.trust_domains.add(name=trust_domain)
        pem = render_pem_certificates(authorities) + render_pem_crls(crls)
        added.trust_bundle.inline_bytes = pem
    secret = secret_pb2.Secret(name=name)
    context: common_pb2.CertificateValidationContext = secret.validation_context
    context.custom_validator_config.name = SPIFFE_VALIDATOR
    context.custom_validator_config.typed_config.Pack(config, deterministic=True)
    return _serialize(secret)


def _serialize(message: discovery_pb2.DiscoveryResponse | secret_pb2.Secret) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
