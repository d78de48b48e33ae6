"""Revocation lists: their content, their order, their refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer, make_private_key
from troth.core.errors import Internal, Refused
from troth.issuance.authorities import AuthorityState
from troth.issuance.crl import (
    RevocationReason,
    RevokedCertificate,
    check_crl,
    draft_crl,
    encode_entry,
    lint_crl,
)
from troth.issuance.drafter import read_issuer
from troth.issuance.profiles import CRL_LIFETIME
from troth.issuance.x509svid import assemble_certificate

ISSUER = FakeIssuer()


def _read(der: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(der)


def test_an_empty_list_is_sound() -> None:
    crl = _read(ISSUER.issue_crl(number=7))
    assert list(crl) == []
    assert crl.issuer == x509.load_der_x509_certificate(ISSUER.x509.certificate).subject
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    assert crl.last_update_utc == NOW.replace(microsecond=0)
    assert crl.next_update_utc == NOW.replace(microsecond=0) + CRL_LIFETIME
    key = load_der_public_key(ISSUER.x509.public_key)
    assert crl.is_signature_valid(key)  # type: ignore[arg-type]


def test_the_authority_key_identifier_names_the_issuers_key() -> None:
    crl = _read(ISSUER.issue_crl())
    root = x509.load_der_x509_certificate(ISSUER.x509.certificate)
    wanted = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == wanted


@pytest.mark.parametrize("reason", RevocationReason)
def test_every_reason_is_carried_but_unspecified_which_is_left_out(
    reason: RevocationReason,
) -> None:
    (entry,) = _read(ISSUER.issue_crl([RevokedCertificate(5, NOW, reason)]))
    if reason is RevocationReason.UNSPECIFIED:
        assert list(entry.extensions) == []
    else:
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value == reason
    assert entry.revocation_date_utc == NOW.replace(microsecond=0)


@given(st.lists(st.integers(1, 2**159 - 1), max_size=20))
def test_entries_stand_in_the_order_of_their_serials_each_once(serials: list[int]) -> None:
    crl = _read(ISSUER.issue_crl([RevokedCertificate(serial, NOW) for serial in serials]))
    assert [entry.serial_number for entry in crl] == sorted(set(serials))


def test_of_two_entries_for_one_serial_the_earlier_stays() -> None:
    early = RevokedCertificate(5, NOW - timedelta(hours=1), RevocationReason.KEY_COMPROMISE)
    late = RevokedCertificate(5, NOW, RevocationReason.SUPERSEDED)
    for order in ([early, late], [late, early]):
        (entry,) = _read(ISSUER.issue_crl(order))
        assert entry.revocation_date_utc == early.revoked_at.replace(microsecond=0)


@pytest.mark.parametrize("reason", list(RevocationReason))
@pytest.mark.parametrize(
    "moment", [NOW, datetime(2049, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_an_entry_by_our_own_hand_is_what_the_library_makes(reason, moment) -> None:
    serials = (1, 127, 128, 2**159 - 1)
    crl = _read(ISSUER.issue_crl([RevokedCertificate(s, moment, reason) for s in serials]))
    entries = b"".join(encode_entry(RevokedCertificate(s, moment, reason)) for s in serials)
    assert entries in crl.tbs_certlist_bytes
    assert {entry.revocation_date_utc for entry in crl} == {moment.replace(microsecond=0)}


def test_a_long_list_stays_cheap() -> None:
    """Building is linear: the library's own way of adding entries would be quadratic."""
    revoked = [RevokedCertificate(serial, NOW) for serial in range(1, 5001)]
    assert len(_read(ISSUER.issue_crl(revoked))) == 5000


def test_a_retired_authority_still_revokes_an_ended_one_does_not() -> None:
    over = {AuthorityState.ENDED, AuthorityState.REVOKED}
    for state in set(AuthorityState) - over:
        assert _draft(issuer=replace(ISSUER.x509, state=state))
    for state in over:
        with pytest.raises(Refused, match="not a living CA"):
            _draft(issuer=replace(ISSUER.x509, state=state))
    with pytest.raises(Refused, match="not a living CA"):
        _draft(issuer=ISSUER.jwt)


def _draft(**changes) -> bytes:
    values: dict[str, Any] = {
        "issuer": ISSUER.x509,
        "number": 1,
        "revoked": [],
        "now": NOW,
        "lifetime": CRL_LIFETIME,
    }
    return draft_crl(**(values | changes))


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1)])
def test_the_lint_refuses_a_list_that_is_never_valid(lifetime: timedelta) -> None:
    with pytest.raises(Internal, match="nextUpdate is not after"):
        _draft(lifetime=lifetime)


def test_the_check_refuses_another_list_and_another_key() -> None:
    tbs = _draft()
    der = assemble_certificate(tbs, ISSUER.keystore.sign("x509", tbs))
    check_crl(der, tbs, ISSUER.x509.public_key)
    with pytest.raises(Internal, match="differs"):
        check_crl(der, _draft(number=2), ISSUER.x509.public_key)
    with pytest.raises(Internal, match="doesn't verify"):
        check_crl(der, tbs, ISSUER.jwt.public_key)


ENTRY = RevokedCertificate(5, NOW, RevocationReason.KEY_COMPROMISE)
START = NOW.replace(microsecond=0)


def _build(*extensions: x509.ExtensionType, entry: RevokedCertificate = ENTRY, **fields) -> bytes:
    """A list by the library alone, with what is asked for and the rest as planned."""
    facts = read_issuer(ISSUER.x509)
    reason = x509.CRLReason(x509.ReasonFlags(entry.reason.value))
    date = entry.revoked_at.replace(tzinfo=None, microsecond=0)
    revoked = x509.RevokedCertificateBuilder(entry.serial, date).add_extension(reason, False)
    values: dict[str, Any] = {
        "issuer_name": facts.name,
        "last_update": START.replace(tzinfo=None),
        "next_update": (START + CRL_LIFETIME).replace(tzinfo=None),
        "revoked_certificates": [revoked.build()],
    }
    builder = x509.CertificateRevocationListBuilder(**(values | fields))
    authority = x509.AuthorityKeyIdentifier(facts.key_identifier, None, None)
    for value in extensions or (authority, x509.CRLNumber(1)):
        builder = builder.add_extension(value, False)
    return builder.sign(make_private_key(1), SHA256()).public_bytes(Encoding.DER)


def _lint(der: bytes) -> None:
    lint_crl(
        der,
        issuer=read_issuer(ISSUER.x509),
        number=1,
        this_update=START,
        next_update=START + CRL_LIFETIME,
        revoked=[encode_entry(ENTRY)],
    )


def test_the_lint_passes_what_is_sound() -> None:
    _lint(_build())


_OTHER_KEY = x509.AuthorityKeyIdentifier(bytes(20), None, None)
_OWN_KEY = x509.AuthorityKeyIdentifier(read_issuer(ISSUER.x509).key_identifier, None, None)
_NAIVE = START.replace(tzinfo=None)
_HOLD = replace(ENTRY, reason=RevocationReason.CERTIFICATE_HOLD)
_DATED = x509.RevokedCertificateBuilder(5, _NAIVE).add_extension(x509.InvalidityDate(_NAIVE), False)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: b"garbage", "can't be parsed"),
        (lambda: _build(issuer_name=x509.Name([])), "issuer's name"),
        (lambda: _build(last_update=_NAIVE - timedelta(1)), "times"),
        (lambda: _build(next_update=_NAIVE + timedelta(1)), "times"),
        (lambda: _build(_OTHER_KEY, x509.CRLNumber(1)), "extensions"),
        (lambda: _build(_OWN_KEY, x509.CRLNumber(2)), "extensions"),
        (lambda: _build(_OWN_KEY), "extensions"),
        (lambda: _build(_OWN_KEY, x509.CRLNumber(1), x509.DeltaCRLIndicator(1)), "extensions"),
        (lambda: _build(entry=replace(ENTRY, serial=6)), "entries"),
        (lambda: _build(entry=_HOLD), "entries"),
        (lambda: _build(entry=replace(ENTRY, revoked_at=NOW - timedelta(1))), "entries"),
        (lambda: _build(revoked_certificates=[]), "entries"),
        (lambda: _build(revoked_certificates=[_DATED.build()]), "entries"),
    ],
)
def test_the_lint_catches_each_fault(make: Callable[[], bytes], sentence: str) -> None:
    with pytest.raises(Internal, match=sentence):
        _lint(make())
