from __future__ import annotations

import os
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.fakes.certificates import make_certificate
from tests.unit.server.handshakes import let_in, open_tls, shake, share_authority
from tests.unit.server.http.stage import AGENT, Authority
from troth.core.errors import Invalid
from troth.server.tls import ServerTls


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def shake_hands(front: ssl.SSLContext, authority: Authority) -> bytes:
    """A handshake in memory; the certificate that the server showed."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=authority.pem.decode())
    client = context.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = front.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(4):
        for end, out, into in ((client, client_out, server_in), (server, server_out, client_in)):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            into.write(out.read())
    shown = client.getpeercert(True)
    assert shown is not None
    return shown


def test_a_rotation_shows_in_the_next_handshake(authority: Authority):
    first, second = authority.issue(), authority.issue(use_rsa=True)
    tls = ServerTls(first.chain, first.key, [authority.der])
    assert shake_hands(tls.public, authority) == first.der
    tls.install(second.chain, second.key, [authority.der])
    assert shake_hands(tls.public, authority) == second.der


def test_a_bad_pair_changes_nothing(authority: Authority):
    first, second = authority.issue(), authority.issue()
    tls = ServerTls(first.chain, first.key, [authority.der])
    for chain, key in [
        (second.chain, first.key),
        (b"", second.key),
        (second.chain, b""),
        (b"garbage", b"garbage"),
        (second.chain[:200], second.key),
        (second.chain, second.key[:100]),
    ]:
        with pytest.raises(Invalid) as caught:
            tls.install(chain, key, [authority.der])
        assert "PRIVATE KEY" not in caught.value.detail
        assert shake_hands(tls.public, authority) == first.der
    for roots in ([], [b"garbage"]):
        with pytest.raises(Invalid):
            tls.install(first.chain, first.key, roots)
    assert shake_hands(tls.public, authority) == first.der


def test_an_encrypted_key_is_refused_without_asking_the_terminal(authority: Authority):
    pair = authority.issue()
    key = serialization.load_pem_private_key(pair.key, None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(Invalid, match="encrypted"):
        ServerTls(pair.chain, sealed, [authority.der])


def test_the_key_never_touches_a_disk_and_leaves_no_file_open(
    authority: Authority, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = os.listdir("/proc/self/fd")
    loaded: list[str] = []
    plain = ssl.SSLContext.load_cert_chain

    def spy(context, certfile, *args, **kwargs):
        loaded.append(os.readlink(certfile))
        return plain(context, certfile, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    pair = authority.issue()
    tls = ServerTls(pair.chain, pair.key, [authority.der])
    tls.install(pair.chain, pair.key, [authority.der])
    assert loaded
    assert all(name.startswith("/memfd:") for name in loaded)
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_contexts_are_strict(authority: Authority):
    pair = authority.issue()
    tls = ServerTls(pair.chain, pair.key, [authority.der])
    for context in (tls.public, tls.mutual):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.num_tickets == 0
        assert context.options & ssl.OP_NO_TICKET
    assert tls.public.verify_mode == ssl.CERT_NONE
    assert tls.mutual.verify_mode == ssl.CERT_REQUIRED


def test_registered_certificates_get_in_and_no_others(tmp_path: Path):
    old, new, twin = (make_certificate("billing", bare=True) for _ in range(3))
    assert let_in(old, [old, new], tmp_path)
    assert let_in(new, [old, new], tmp_path)  # both have one name, as in a rotation
    assert not let_in(twin, [old, new], tmp_path)
    assert not let_in(make_certificate("billing", key=old.key), [old], tmp_path)
    assert not let_in(make_certificate("x", issuer=old), [old], tmp_path, old)


def test_an_expired_one_and_one_of_the_future_stay_out(tmp_path: Path):
    over = make_certificate(life=timedelta(minutes=-1))
    early = make_certificate(age=timedelta(minutes=-5))
    assert not let_in(over, [over], tmp_path)
    assert not let_in(early, [early], tmp_path)


def test_they_are_no_anchors_of_the_public_listener_and_go_when_they_are_removed(tmp_path: Path):
    made = make_certificate()
    tls = open_tls([made])
    assert tls.public.cert_store_stats()["x509"] == 0
    pair = made.write(tmp_path)
    assert shake(tls, pair)
    other = share_authority().issue()
    tls.install(other.chain, other.key, [share_authority().der])
    assert shake(tls, pair)
    tls.trust_clients([])
    assert not shake(tls, pair)


def test_one_more_is_added_to_those_that_are_there_and_stays_through_rotations(tmp_path: Path):
    first, second = (make_certificate("billing", bare=True) for _ in range(2))
    pairs = [made.write(tmp_path) for made in (first, second)]
    tls = open_tls([first])
    inner = tls._inner_mutual
    tls.trust_clients([first.der, second.der])
    assert tls._inner_mutual is inner
    assert [shake(tls, pair) for pair in pairs] == [True, True]
    pair = share_authority().issue()
    tls.install(pair.chain, pair.key, [share_authority().der])
    assert tls._inner_mutual is not inner
    assert [shake(tls, pair) for pair in pairs] == [True, True]
    tls.trust_clients([second.der])
    assert [shake(tls, pair) for pair in pairs] == [False, True]


def test_bad_ones_keep_nobody_out(tmp_path: Path):
    authority = share_authority()
    subject = x509.load_der_x509_certificate(authority.der).subject
    shadows = [
        make_certificate(subject=subject, ca=ca, life=timedelta(days=1000 + number))
        for number in range(10)
        for ca in (None, False, True)
    ]
    (one,) = subject
    shouted = x509.NameAttribute(one.oid, f" {one.value!s} ".upper().replace(" ", "  "))
    shadows += [make_certificate(subject=x509.Name([shouted]), ca=True) for _ in range(10)]
    tls, made = open_tls(), make_certificate()
    tls.trust_clients([b"", b"garbage", *(shadow.der for shadow in shadows), made.der])
    assert shake(tls, made.write(tmp_path))
    assert shake(tls, authority.issue(AGENT).write(tmp_path, "svid"))
    for shadow in shadows:
        assert not shake(tls, shadow.write(tmp_path))
