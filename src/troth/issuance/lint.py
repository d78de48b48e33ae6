"""The lint: what a certificate or list must be, checked on its encoding and not on our intent.

A lint reads bytes back and compares them with the plan and the standards, so that a slip in the
code that builds, or in the library below it, can't reach a signature. Sources: X509-SVID.md of
SPIFFE (sections in brackets), RFC 5280.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from troth.core.errors import Internal
from troth.issuance.der import (
    ECDSA_WITH_SHA256,
    GENERALIZED_TIME,
    INTEGER,
    SEQUENCE,
    UTC_TIME,
    encode_element,
    identify_key,
    read_element,
    read_elements,
)
from troth.issuance.drafter import Issuer, read_issuer
from troth.issuance.x509plan import CertificatePlan

_VERSION_3 = bytes.fromhex("a003020102")
_EMPTY_NAME = bytes.fromhex("3000")
_LAST_UTC_YEAR = 2049
_SERIAL_BOUND = 1 << 159
_EXTENSIONS = 0xA3
_LEAF_EXTENSIONS = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_ROOT_EXTENSIONS = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def lint_certificate(der: bytes, plan: CertificatePlan, issuer: Issuer | None = None) -> None:
    """Raise `Internal` that lists everything wrong with a draft of `plan`.

    `issuer` saves reading the issuer's certificate again; it must be what `read_issuer` gave.
    """
    facts = issuer if issuer is not None else read_issuer(plan.issuer)
    certificate = _load(der)
    wrong = [
        *_lint_fields(
            der,
            plan.serial,
            plan.not_before,
            plan.not_after,
            plan.public_key,
            facts.name_der,
            _encode_name(plan.common_name),
        ),
        *_lint_reading(certificate, plan),
        *_lint_validity(plan),
        *_lint_leaf_extensions(certificate, plan, facts),
    ]
    _raise_for("certificate", wrong)


def lint_root(
    der: bytes,
    *,
    uri: str,
    public_key: bytes,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> None:
    """Raise `Internal` that lists everything wrong with the draft of a self-signed root."""
    certificate = _load(der)
    subject = certificate.subject.public_bytes()
    wrong = [
        *_lint_fields(der, serial, not_before, not_after, public_key, subject, subject),
        *_lint_root_extensions(certificate, uri, public_key),
    ]
    if not certificate.subject.rdns:
        wrong.append("a root needs a subject (RFC 5280, 4.1.2.6)")
    if not_before >= not_after:
        wrong.append("notAfter is not after notBefore")
    _raise_for("root certificate", wrong)


def _encode_name(common_name: str) -> bytes:
    """The planned subject, as somebody else encodes it."""
    if not common_name:
        return _EMPTY_NAME
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()


def _load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise Internal(f"The draft can't be parsed: {error}.") from error
    return certificate


def _raise_for(what: str, wrong: Iterable[str]) -> None:
    listed = "; ".join(wrong)
    if listed:
        raise Internal(f"The lint refuses the {what}: {listed}.")


def _lint_fields(
    der: bytes,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    public_key: bytes,
    issuer_name: bytes,
    subject_name: bytes = _EMPTY_NAME,
) -> Iterator[str]:
    """The fixed fields of TBSCertificate, byte for byte (RFC 5280, 4.1).

    They are encoded again from what was planned; comparing encodings leaves no room for a second
    way to write the same thing (a time type, a padded integer, a parameter of an algorithm).
    """
    if not 0 < serial < _SERIAL_BOUND:
        yield "the serial is not positive within 20 octets"
        return
    tbs, outside, _ = read_elements(read_element(der).content)
    if outside.encoding != ECDSA_WITH_SHA256:
        yield "the signature algorithm outside is not ecdsa-with-SHA256"
    wanted = {
        "the version is not 3": _VERSION_3,
        "the serial is not the planned one": _encode_serial(serial),
        "the signature algorithm inside is not ecdsa-with-SHA256": ECDSA_WITH_SHA256,
        "the issuer's name is not its certificate's subject": issuer_name,
        "the validity is not the planned one": encode_element(
            SEQUENCE, _encode_time(not_before) + _encode_time(not_after)
        ),
        "the subject is not the planned one": subject_name,
        "the public key is not the planned one": public_key,
    }
    prefix = b"".join(wanted.values())
    if tbs.content.startswith(prefix):
        tags = [element.tag for element in read_elements(tbs.content[len(prefix) :])]
        if tags not in ([], [_EXTENSIONS]):
            yield "something stands beside the extensions"
        return
    yield "a fixed field differs from the plan"
    fields = [element.encoding for element in read_elements(tbs.content)]
    for (fault, code), field in zip(wanted.items(), fields, strict=False):
        if code != field:
            yield fault


def _encode_serial(serial: int) -> bytes:
    return encode_element(INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))


def _encode_time(moment: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime after, to the second, in Zulu (RFC 5280, 4.1.2.5)."""
    if moment.year <= _LAST_UTC_YEAR:
        return encode_element(UTC_TIME, _write_digits(moment)[2:])
    return encode_element(GENERALIZED_TIME, _write_digits(moment))


def _write_digits(moment: datetime) -> bytes:
    """``YYYYMMDDHHMMSSZ``, several times faster than by `strftime`."""
    m = moment
    return f"{m.year:04}{m.month:02}{m.day:02}{m.hour:02}{m.minute:02}{m.second:02}Z".encode()


def _lint_reading(certificate: x509.Certificate, plan: CertificatePlan) -> Iterator[str]:
    """What a verifier reads in these fields: the library's word, not our encoder's."""
    if certificate.serial_number != plan.serial:
        yield "the serial doesn't read as the planned one"
    if certificate.not_valid_before_utc != plan.not_before:
        yield "notBefore doesn't read as the planned one"
    if certificate.not_valid_after_utc != plan.not_after:
        yield "notAfter doesn't read as the planned one"


def _lint_validity(plan: CertificatePlan) -> Iterator[str]:
    if plan.not_before >= plan.not_after:
        yield "notAfter is not after notBefore"
    issuer = plan.issuer
    if plan.not_after > issuer.not_after or plan.not_before < issuer.not_before.replace(
        microsecond=0
    ):
        yield "the validity reaches beyond the issuer's"


def _lint_leaf_extensions(
    certificate: x509.Certificate, plan: CertificatePlan, issuer: Issuer
) -> Iterator[str]:
    extensions = {extension.oid: extension for extension in certificate.extensions}
    wanted = _LEAF_EXTENSIONS
    if plan.crl_url is not None:
        wanted = wanted | {ExtensionOID.CRL_DISTRIBUTION_POINTS}
    if extensions.keys() != wanted:
        yield _name_difference(set(extensions), wanted)
        return
    yield from _lint_constraints(extensions[ExtensionOID.BASIC_CONSTRAINTS], ca=False)
    yield from _lint_key_usage(extensions[ExtensionOID.KEY_USAGE], {"digital_signature"})
    usages = extensions[ExtensionOID.EXTENDED_KEY_USAGE].value
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    if not isinstance(usages, x509.ExtendedKeyUsage) or list(usages) != both:
        yield "extendedKeyUsage is not serverAuth and clientAuth (4.4)"
    yield from _lint_names(extensions[ExtensionOID.SUBJECT_ALTERNATIVE_NAME], plan)
    if not plan.spiffe_id.path:
        yield "a leaf's SPIFFE ID needs a path (3.1)"
    if issuer.uri is not None and issuer.uri != str(plan.spiffe_id.trust_domain.id):
        yield "the issuer belongs to another trust domain (3.2)"
    yield from _lint_subject_key(extensions[ExtensionOID.SUBJECT_KEY_IDENTIFIER], plan.public_key)
    authority = extensions[ExtensionOID.AUTHORITY_KEY_IDENTIFIER].value
    expected = x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None)
    if authority != expected:
        yield "authorityKeyIdentifier is not the issuer's subjectKeyIdentifier alone"
    if plan.crl_url is not None:
        points = extensions[ExtensionOID.CRL_DISTRIBUTION_POINTS].value
        if points != make_distribution_points(plan.crl_url):
            yield "cRLDistributionPoints is not the planned URL alone"


def _lint_root_extensions(
    certificate: x509.Certificate, uri: str, public_key: bytes
) -> Iterator[str]:
    extensions = {extension.oid: extension for extension in certificate.extensions}
    if extensions.keys() != _ROOT_EXTENSIONS:
        yield _name_difference(set(extensions), _ROOT_EXTENSIONS)
        return
    yield from _lint_constraints(extensions[ExtensionOID.BASIC_CONSTRAINTS], ca=True)
    yield from _lint_key_usage(extensions[ExtensionOID.KEY_USAGE], {"key_cert_sign", "crl_sign"})
    names = extensions[ExtensionOID.SUBJECT_ALTERNATIVE_NAME].value
    if names != x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]):
        yield "subjectAltName is not the trust domain's SPIFFE ID alone (3.2)"
    yield from _lint_subject_key(extensions[ExtensionOID.SUBJECT_KEY_IDENTIFIER], public_key)


def _name_difference(
    found: set[x509.ObjectIdentifier], wanted: frozenset[x509.ObjectIdentifier]
) -> str:
    def show(oids: Iterable[x509.ObjectIdentifier]) -> str:
        return ", ".join(sorted(oid.dotted_string for oid in oids)) or "none"

    return f"extensions missing: {show(wanted - found)}; too many: {show(found - wanted)}"


def _lint_constraints(extension: x509.Extension[x509.ExtensionType], *, ca: bool) -> Iterator[str]:
    length = 0 if ca else None
    if not extension.critical:
        yield "basicConstraints is not critical"
    if extension.value != x509.BasicConstraints(ca=ca, path_length=length):
        yield f"basicConstraints is not CA {str(ca).lower()} with the right path length (4.1)"


def _lint_key_usage(
    extension: x509.Extension[x509.ExtensionType], wanted: set[str]
) -> Iterator[str]:
    if not extension.critical:
        yield "keyUsage is not critical (4.3)"
    found = {name for name in _KEY_USAGES if getattr(extension.value, name, False)}
    if found != wanted:
        yield f"keyUsage is {sorted(found)} and not {sorted(wanted)} (4.3)"


def _lint_names(
    extension: x509.Extension[x509.ExtensionType], plan: CertificatePlan
) -> Iterator[str]:
    if not extension.critical:
        yield "subjectAltName is not critical although the subject is empty (3.1)"
    names = extension.value
    if not isinstance(names, x509.SubjectAlternativeName):
        yield "subjectAltName can't be read"
        return
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns = names.get_values_for_type(x509.DNSName)
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    if uris != [str(plan.spiffe_id)]:
        yield "there is not exactly one URI name, the SPIFFE ID (2)"
    if dns != list(plan.dns_names):
        yield "the DNS names are not the planned ones"
    if addresses != list(plan.ip_addresses):
        yield "the IP addresses are not the planned ones"
    if len(list(names)) != len(uris) + len(dns) + len(addresses):
        yield "subjectAltName has names of another type"


def _lint_subject_key(
    extension: x509.Extension[x509.ExtensionType], public_key: bytes
) -> Iterator[str]:
    if extension.value != x509.SubjectKeyIdentifier(identify_key(public_key)):
        yield "subjectKeyIdentifier is not derived from the public key"


def make_distribution_points(url: str) -> x509.CRLDistributionPoints:
    """One point with one URL (RFC 5280, 4.2.1.13)."""
    name = x509.UniformResourceIdentifier(url)
    return x509.CRLDistributionPoints([x509.DistributionPoint([name], None, None, None)])
