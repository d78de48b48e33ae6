"""What every engine promises about authorities, certificates, JWT-SVIDs and revocation lists."""

from dataclasses import replace

import pytest

from tests.fakes.stores import (
    DAY,
    ENGINES,
    HOUR,
    NOW,
    SECOND,
    make_authority,
    make_certificate,
    make_crl,
    make_jwt_svid,
    make_named,
    make_url,
    read,
    transact,
)
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from troth.issuance.authorities import AuthorityState, Use
from troth.store.certificates import LISTED_AFTER_EXPIRY
from troth.store.engine import open_store
from troth.store.records import CertificateKind, IssuanceState, format_serial

DER = b"\x30\x00der"


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.identities.add(make_named("api")))
    yield store
    store.close()


def _certify(store, *records):
    transact(store, lambda tx: [tx.certificates.add_intended(r) for r in records])


def _issue(store, *records):
    _certify(store, *records)
    transact(store, lambda tx: [tx.certificates.mark_issued(r.serial, DER) for r in records])


def _serials(*numbers):
    return [format_serial(n) for n in numbers]


def test_one_authority_of_a_use_signs(store):
    with pytest.raises(Unavailable, match="No authority signs x509-svid yet"):
        read(store, lambda tx: tx.authorities.active(Use.X509))
    assert read(store, lambda tx: tx.authorities.find_active(Use.X509)) is None
    first = make_authority(1)
    jwt = make_authority(2, use=Use.JWT, certificate=b"")
    later = make_authority(3, state=AuthorityState.PREPARED)
    transact(store, lambda tx: [tx.authorities.add(a) for a in (later, jwt, first)])
    assert read(store, lambda tx: tx.authorities.active(Use.X509)) == first
    assert read(store, lambda tx: tx.authorities.find_active(Use.JWT)) == jwt
    assert read(store, lambda tx: tx.authorities.list()) == [first, jwt, later]
    assert read(store, lambda tx: tx.authorities.list(Use.JWT)) == [jwt]
    with pytest.raises(Conflict, match="Another authority is active for x509-svid"):
        transact(store, lambda tx: tx.authorities.save(replace(later, state=AuthorityState.ACTIVE)))

    def rotate(tx):
        tx.authorities.save(replace(first, state=AuthorityState.RETIRED))
        tx.authorities.save(replace(later, state=AuthorityState.ACTIVE))

    transact(store, rotate)
    assert read(store, lambda tx: tx.authorities.active(Use.X509)).id == later.id
    assert read(store, lambda tx: tx.authorities.get(first.id)).state is AuthorityState.RETIRED


def test_an_authority_has_its_own_id_and_key(store):
    transact(store, lambda tx: tx.authorities.add(make_authority()))
    for other, sentence in (
        (make_authority(key_ref="k"), "id aut_1 is taken"),
        (make_authority(2, key_ref="key-1"), "The key 'key-1' belongs"),
    ):
        prepared = replace(other, state=AuthorityState.PREPARED)
        with pytest.raises(Conflict, match=sentence):
            transact(store, lambda tx, a=prepared: tx.authorities.add(a))
    assert read(store, lambda tx: tx.authorities.find("aut_0")) is None
    for ask in (
        lambda tx: tx.authorities.get("aut_0"),
        lambda tx: tx.authorities.save(make_authority(id="aut_0")),
    ):
        with pytest.raises(NotFound, match="aut_0"):
            transact(store, ask)


def test_a_certificate_goes_from_intent_to_issued(store):
    record = make_certificate()
    _certify(store, record)
    assert read(store, lambda tx: tx.certificates.get(record.serial)) == record
    transact(store, lambda tx: tx.certificates.mark_issued(record.serial, DER))
    issued = replace(record, state=IssuanceState.ISSUED, der=DER)
    assert read(store, lambda tx: tx.certificates.get(record.serial)) == issued
    with pytest.raises(Conflict, match="is issued already"):
        transact(store, lambda tx: tx.certificates.mark_issued(record.serial, b"other"))
    with pytest.raises(Conflict, match="revoke it instead"):
        transact(store, lambda tx: tx.certificates.abandon(record.serial))
    assert read(store, lambda tx: tx.certificates.get(record.serial)) == issued


def test_of_a_batch_only_what_still_stands_is_issued(store):
    records = [make_certificate(n) for n in range(1, 5)]
    transact(store, lambda tx: tx.certificates.add_all_intended(records))
    sound, revoked, abandoned, other = (r.serial for r in records)
    transact(store, lambda tx: tx.certificates.revoke(revoked, NOW, "superseded"))
    transact(store, lambda tx: tx.certificates.abandon(abandoned))
    signed = {serial: serial.encode() for serial in (sound, revoked, abandoned, other)}
    refusals = transact(store, lambda tx: tx.certificates.mark_all_issued(signed))
    assert {serial: type(refusal) for serial, refusal in refusals.items()} == {
        revoked: Refused,
        abandoned: Conflict,
    }
    found = read(store, lambda tx: [tx.certificates.get(serial) for serial in signed])
    assert [r.der for r in found] == [sound.encode(), None, None, other.encode()]
    assert [r.state for r in found if r.der] == [IssuanceState.ISSUED] * 2
    transact(store, lambda tx: tx.certificates.add_all_intended([make_certificate(6)]))
    unknown = dict.fromkeys(_serials(6, 77), DER)
    with pytest.raises(NotFound, match="serial"):
        transact(store, lambda tx: tx.certificates.mark_all_issued(unknown))
    assert read(store, lambda tx: tx.certificates.get(*_serials(6))).der is None


def test_a_batch_of_intents_is_recorded_whole_or_not_at_all(store):
    first, second = make_certificate(1), make_certificate(2)
    _certify(store, second)
    with pytest.raises(Conflict, match="serial number is taken"):
        transact(store, lambda tx: tx.certificates.add_all_intended([first, second]))
    assert read(store, lambda tx: tx.certificates.find(first.serial)) is None


def test_an_abandoned_certificate_is_never_issued(store):
    record = make_certificate()
    _certify(store, record)
    transact(store, lambda tx: tx.certificates.abandon(record.serial))
    transact(store, lambda tx: tx.certificates.abandon(record.serial))
    with pytest.raises(Conflict, match="is abandoned already"):
        transact(store, lambda tx: tx.certificates.mark_issued(record.serial, DER))


def test_a_certificate_revoked_while_being_signed_is_refused_and_listed(store):
    record = make_certificate()
    _certify(store, record)
    transact(store, lambda tx: tx.certificates.revoke_for_identity("idn_api", NOW, "superseded"))
    with pytest.raises(Refused, match="revoked while it was being signed"):
        transact(store, lambda tx: tx.certificates.mark_issued(record.serial, DER))
    transact(store, lambda tx: tx.certificates.abandon(record.serial))
    listed = read(store, lambda tx: tx.certificates.revoked("aut_1", NOW))
    assert listed == [(record.serial, NOW, "superseded")]


@pytest.mark.parametrize("serial", ["1", "A" * 40, "g" * 40, "1" * 41, "1" * 40 + "\n"])
def test_a_serial_has_one_spelling(store, serial):
    with pytest.raises(Invalid, match="40 lower-case hex digits"):
        _certify(store, make_certificate(serial=serial))


def test_a_certificate_begins_as_an_intent_with_a_serial_of_its_own(store):
    with pytest.raises(Invalid, match="begins as an intent"):
        _certify(store, make_certificate(state=IssuanceState.ISSUED))
    _certify(store, make_certificate())
    with pytest.raises(Conflict, match="serial number is taken"):
        _certify(store, make_certificate())
    with pytest.raises(Conflict, match="doesn't exist"):
        _certify(store, make_certificate(2, identity_id="idn_0"))
    ca = make_certificate(
        3, kind=CertificateKind.CA, identity_id=None, instance_id=None, node_id=None
    )
    _certify(store, ca)
    assert read(store, lambda tx: tx.certificates.find(ca.serial)) == ca


def test_an_unknown_certificate_is_none_or_not_found(store):
    assert read(store, lambda tx: tx.certificates.find("00")) is None
    for ask in (
        lambda tx: tx.certificates.get("00"),
        lambda tx: tx.certificates.mark_issued("00", DER),
        lambda tx: tx.certificates.abandon("00"),
        lambda tx: tx.certificates.revoke("00", NOW, "superseded"),
    ):
        with pytest.raises(NotFound, match="serial '00'"):
            transact(store, ask)


def test_the_first_revocation_stays(store):
    record = make_certificate()
    _issue(store, record)
    revoke = lambda at, why: transact(  # noqa: E731
        store, lambda tx: tx.certificates.revoke(record.serial, at, why)
    )
    assert revoke(NOW, "keyCompromise") is True
    assert revoke(NOW + SECOND, "superseded") is False
    found = read(store, lambda tx: tx.certificates.get(record.serial))
    assert (found.revoked_at, found.revocation_reason) == (NOW, "keyCompromise")
    assert found.state is IssuanceState.ISSUED


def test_revoking_reaches_all_that_is_unexpired_and_was_or_may_be_handed_out(store):
    transact(store, lambda tx: tx.identities.add(make_named("web")))
    _issue(
        store,
        make_certificate(1),
        make_certificate(2, instance_id="ins_2", node_id="nod_2"),
        make_certificate(3, not_after=NOW),
        make_certificate(5, identity_id="idn_web", instance_id="ins_5"),
        make_certificate(
            6, kind=CertificateKind.NODE, identity_id=None, instance_id=None, node_id="nod_2"
        ),
    )
    _certify(store, make_certificate(4), make_certificate(7))
    transact(store, lambda tx: tx.certificates.abandon(format_serial(7)))

    def revoke(verb, whom):
        return transact(store, lambda tx: getattr(tx.certificates, verb)(whom, NOW, "superseded"))

    assert revoke("revoke_for_instance", "ins_2") == _serials(2)
    assert revoke("revoke_for_identity", "idn_api") == _serials(1, 4)
    assert revoke("revoke_for_identity", "idn_api") == []
    assert revoke("revoke_for_node", "nod_2") == _serials(6)
    assert revoke("revoke_for_node", "nod_1") == _serials(5)
    assert revoke("revoke_for_node", "nod_0") == []


def test_the_list_holds_the_revoked_until_well_after_they_expired(store):
    _issue(store, *(make_certificate(n) for n in (1, 2, 3)), make_certificate(4, authority_id="b"))

    def revoke(tx):
        tx.certificates.revoke(format_serial(2), NOW, "keyCompromise")
        tx.certificates.revoke(format_serial(1), NOW + SECOND, "superseded")
        tx.certificates.revoke(format_serial(4), NOW, "superseded")

    transact(store, revoke)

    def listed(authority, now, **how):
        return read(store, lambda tx: tx.certificates.revoked(authority, now, **how))

    first = listed("aut_1", NOW)
    assert first == [
        (format_serial(2), NOW, "keyCompromise"),
        (format_serial(1), NOW + SECOND, "superseded"),
    ]
    assert first[0].reason == "keyCompromise"
    end = NOW + HOUR + LISTED_AFTER_EXPIRY
    assert len(listed("aut_1", end - SECOND)) == 2
    assert listed("aut_1", end) == []
    assert listed("aut_1", NOW + 2 * HOUR, kept=HOUR) == []
    assert [r.serial for r in listed("b", NOW)] == _serials(4)


def test_interrupted_certificates_are_found_oldest_first(store):
    _certify(store, *(make_certificate(n) for n in (3, 1, 2, 4)))
    transact(store, lambda tx: tx.certificates.mark_issued(format_serial(2), DER))

    def found(age, limit):
        records = read(store, lambda tx: tx.certificates.interrupted(NOW + age * SECOND, limit))
        return [r.serial for r in records]

    assert found(4, 10) == _serials(1, 3)
    assert found(9, 2) == _serials(1, 3)
    assert found(1, 10) == []


def test_an_identity_s_certificates_newest_first(store):
    _issue(store, make_certificate(1), make_certificate(2), make_certificate(3, not_after=NOW))
    _certify(store, make_certificate(4))
    transact(store, lambda tx: tx.certificates.revoke(format_serial(1), NOW, "superseded"))
    found = read(store, lambda tx: tx.certificates.of_identity("idn_api", NOW))
    assert [r.serial for r in found] == _serials(2, 1)
    assert read(store, lambda tx: tx.certificates.of_identity("idn_0", NOW)) == []


def test_expired_certificates_are_purged_in_portions(store):
    _issue(store, *(make_certificate(n, not_after=NOW + n * SECOND) for n in range(1, 6)))
    purge = lambda limit: transact(  # noqa: E731
        store, lambda tx: tx.certificates.purge_expired(NOW + 4 * SECOND, limit)
    )
    assert (purge(2), purge(2), purge(2)) == (2, 1, 0)
    assert read(store, lambda tx: tx.certificates.find(format_serial(4))) is not None
    assert read(store, lambda tx: tx.certificates.find(format_serial(3))) is None


def test_a_jwt_svid_goes_from_intent_to_issued_or_abandoned(store):
    first, second = make_jwt_svid(1), make_jwt_svid(2, node_id=None)
    transact(store, lambda tx: [tx.jwt_svids.add_intended(r) for r in (first, second)])
    assert read(store, lambda tx: tx.jwt_svids.get("jti_1")) == first
    with pytest.raises(Conflict, match="token id is taken"):
        transact(store, lambda tx: tx.jwt_svids.add_intended(first))
    with pytest.raises(Invalid, match="begins as an intent"):
        transact(store, lambda tx: tx.jwt_svids.add_intended(make_jwt_svid(3, state="issued")))
    transact(store, lambda tx: tx.jwt_svids.mark_issued("jti_1"))
    transact(store, lambda tx: tx.jwt_svids.abandon("jti_2"))
    transact(store, lambda tx: tx.jwt_svids.abandon("jti_2"))
    with pytest.raises(Conflict, match="is issued already"):
        transact(store, lambda tx: tx.jwt_svids.abandon("jti_1"))
    for jti in ("jti_1", "jti_2"):
        with pytest.raises(Conflict, match="already"):
            transact(store, lambda tx, jti=jti: tx.jwt_svids.mark_issued(jti))
    found = read(store, lambda tx: tx.jwt_svids.find("jti_1"))
    assert found == replace(first, state=IssuanceState.ISSUED)


def test_many_jwt_svids_are_noted_at_once_and_each_refused_by_itself(store):
    records = [make_jwt_svid(number) for number in range(1, 604)]
    transact(store, lambda tx: tx.jwt_svids.add_all_intended(records))
    transact(store, lambda tx: tx.jwt_svids.abandon("jti_7"))
    jtis = [record.jti for record in records]
    refusals = transact(store, lambda tx: tx.jwt_svids.mark_all_issued(jtis))
    assert list(refusals) == ["jti_7"]
    assert isinstance(refusals["jti_7"], Conflict)
    now = records[0].issued_at + DAY
    assert read(store, lambda tx: tx.jwt_svids.interrupted(now, 10)) == []
    with pytest.raises(NotFound):
        transact(store, lambda tx: tx.jwt_svids.mark_all_issued(["jti_1", "jti_none"]))
    with pytest.raises(Conflict):
        transact(store, lambda tx: tx.jwt_svids.add_all_intended([make_jwt_svid(900), records[0]]))
    assert read(store, lambda tx: tx.jwt_svids.find("jti_900")) is None
    transact(store, lambda tx: tx.jwt_svids.add_all_intended([]))
    assert transact(store, lambda tx: tx.jwt_svids.mark_all_issued([])) == {}


def test_unknown_interrupted_and_purged_jwt_svids(store):
    assert read(store, lambda tx: tx.jwt_svids.find("jti_0")) is None
    for verb in ("get", "mark_issued", "abandon"):
        with pytest.raises(NotFound, match="jti_0"):
            transact(store, lambda tx, verb=verb: getattr(tx.jwt_svids, verb)("jti_0"))
    records = [make_jwt_svid(n, expires_at=NOW + n * HOUR) for n in (2, 1, 3)]
    transact(store, lambda tx: [tx.jwt_svids.add_intended(r) for r in records])
    transact(store, lambda tx: tx.jwt_svids.mark_issued("jti_1"))
    found = read(store, lambda tx: tx.jwt_svids.interrupted(NOW + 3 * SECOND, 10))
    assert [r.jti for r in found] == ["jti_2"]
    assert len(read(store, lambda tx: tx.jwt_svids.interrupted(NOW + DAY, 1))) == 1
    assert transact(store, lambda tx: tx.jwt_svids.purge(NOW + 3 * HOUR, 1)) == 1
    assert transact(store, lambda tx: tx.jwt_svids.purge(NOW + 3 * HOUR, 9)) == 1
    assert read(store, lambda tx: tx.jwt_svids.find("jti_3")) is not None


def test_crl_numbers_grow_by_one_whatever_became_of_the_lists(store):
    transact(store, lambda tx: tx.authorities.add(make_authority()))
    assert read(store, lambda tx: tx.crls.latest("aut_1")) is None
    assert read(store, lambda tx: tx.crls.latest_times("aut_1")) is None
    assert read(store, lambda tx: tx.crls.next_number("aut_1")) == 1
    transact(store, lambda tx: tx.crls.add_intended(make_crl(1)))
    assert read(store, lambda tx: tx.crls.latest("aut_1")) is None
    transact(store, lambda tx: tx.crls.mark_issued("aut_1", 1, DER))
    issued = replace(make_crl(1), state=IssuanceState.ISSUED, der=DER)
    transact(store, lambda tx: tx.crls.add_intended(make_crl(2)))
    assert read(store, lambda tx: tx.crls.latest("aut_1")) == issued
    times = read(store, lambda tx: tx.crls.latest_times("aut_1"))
    assert (times.number, times.this_update) == (issued.number, issued.this_update)
    assert times.next_update == issued.next_update
    assert read(store, lambda tx: tx.crls.get("aut_1", 1)) == issued
    assert read(store, lambda tx: tx.crls.next_number("aut_1")) == 3
    for number in (1, 2, 4):
        with pytest.raises(Conflict, match="next CRL number is 3"):
            transact(store, lambda tx, n=number: tx.crls.add_intended(make_crl(n)))
    with pytest.raises(Conflict, match="number 1 is issued already"):
        transact(store, lambda tx: tx.crls.mark_issued("aut_1", 1, DER))
    with pytest.raises(NotFound, match="no CRL number 9"):
        transact(store, lambda tx: tx.crls.mark_issued("aut_1", 9, DER))
    with pytest.raises(Invalid, match="begins as an intent"):
        transact(store, lambda tx: tx.crls.add_intended(replace(issued, number=3)))
    with pytest.raises(Conflict, match="doesn't exist"):
        transact(store, lambda tx: tx.crls.add_intended(make_crl(authority_id="aut_0")))


def test_purged_crls_dont_give_their_numbers_back(store):
    transact(store, lambda tx: tx.authorities.add(make_authority()))
    for number in (1, 2, 3):
        transact(store, lambda tx, n=number: tx.crls.add_intended(make_crl(n)))
    for number in (1, 2):
        transact(store, lambda tx, n=number: tx.crls.mark_issued("aut_1", n, DER))
    assert transact(store, lambda tx: tx.crls.purge(NOW)) == 0
    assert transact(store, lambda tx: tx.crls.purge(NOW + 2 * DAY)) == 1
    assert read(store, lambda tx: tx.crls.find("aut_1", 1)) is None
    assert read(store, lambda tx: tx.crls.latest("aut_1")).number == 2
    assert read(store, lambda tx: tx.crls.next_number("aut_1")) == 4


def test_what_an_authority_signed_and_who_has_nothing_newer(store):
    workload = {"authority_id": "aut_1", "not_after": NOW + HOUR}
    _issue(
        store,
        make_certificate(1, instance_id="ins_1", **workload),
        make_certificate(2, instance_id="ins_2", **workload),
        make_certificate(3, kind=CertificateKind.NODE, identity_id=None, instance_id=None),
        make_certificate(4, kind=CertificateKind.CA, instance_id=None, not_after=NOW + DAY),
        make_certificate(5, instance_id="ins_3", not_after=NOW),
    )

    def look(at=NOW):
        return read(
            store,
            lambda tx: (
                tx.certificates.has_living("aut_1", at),
                tx.certificates.last_end("aut_1", at),
                tx.certificates.count_unreplaced("aut_1", at),
            ),
        )

    assert look() == (True, NOW + HOUR, 3)
    # An intent counts, what was abandoned doesn't; neither replaces anything.
    _certify(store, make_certificate(6, not_after=NOW + 2 * HOUR))
    assert look()[1] == NOW + 2 * HOUR
    transact(store, lambda tx: tx.certificates.abandon(format_serial(6)))
    _certify(store, make_certificate(7, instance_id="ins_2", authority_id="aut_9"))
    assert look() == (True, NOW + HOUR, 3)
    # Another authority's certificate replaces that of the same copy, a node's that of the node.
    _issue(store, make_certificate(8, instance_id="ins_1", authority_id="aut_9"))
    assert look()[2] == 2
    _issue(
        store,
        make_certificate(
            9,
            kind=CertificateKind.NODE,
            identity_id=None,
            instance_id=None,
            authority_id="aut_9",
        ),
    )
    assert look()[2] == 1
    assert look(NOW + HOUR) == (False, None, 0)


def test_the_tokens_that_an_authority_signed(store):
    def add(tx):
        tx.jwt_svids.add_intended(make_jwt_svid(1, authority_id="aut_2", expires_at=NOW + HOUR))
        tx.jwt_svids.add_intended(make_jwt_svid(2, authority_id="aut_2", expires_at=NOW + DAY))
        tx.jwt_svids.abandon("jti_2")

    def look(at):
        return read(
            store,
            lambda tx: (
                tx.jwt_svids.has_living("aut_2", at),
                tx.jwt_svids.last_end("aut_2", at),
                tx.jwt_svids.count_living("aut_2", at),
            ),
        )

    transact(store, add)
    assert look(NOW) == (True, NOW + HOUR, 1)
    assert look(NOW + HOUR) == (False, None, 0)


def test_names_come_in_the_order_asked_for(store):
    wanted = _serials(4, 1)
    _certify(store, make_certificate(1), make_certificate(4))
    found = read(store, lambda tx: tx.certificates.list_named(wanted))
    assert [name.serial for name in found] == wanted
    whole = read(store, lambda tx: tx.certificates.get(wanted[0]))
    assert found[0] == (whole.serial, str(whole.subject), whole.not_after)
    assert read(store, lambda tx: tx.certificates.list_named([])) == []
