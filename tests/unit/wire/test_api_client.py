"""The client of the API against a small server on a Unix socket and with TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.api import FakeApi, serve_tls, serve_unix
from tests.fakes.views import make_entry, make_identity, make_status
from troth.core.errors import Conflict, Denied, Internal, Invalid, TooLarge, Unavailable
from troth.wire.api import client as client_module
from troth.wire.api import identities, journal, nodes, status
from troth.wire.api.client import ApiClient, Unreachable, Untrusted


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serve_unix(FakeApi(), tmp_path / "s") as fake:
        yield fake


@pytest.fixture
def client(api: FakeApi, tmp_path: Path) -> Iterator[ApiClient]:
    with ApiClient.over_socket(str(tmp_path / "s")) as made:
        yield made


def test_a_request_arrives_and_its_result_comes_back_typed(api: FakeApi, client: ApiClient) -> None:
    view = make_identity("a/b c")
    api.answers["identity.quarantine"] = view
    request = identities.MoveIdentity(name="a/b c", reason="it's odd")
    assert client.call("identity.quarantine", request) == view
    assert api.requests == [("identity.quarantine", request)]


def test_a_refusal_is_raised_as_the_kind_that_the_server_named(
    api: FakeApi, client: ApiClient
) -> None:
    api.answers["identity.show"] = Conflict("The name is taken.")
    with pytest.raises(Conflict, match=r"^The name is taken\.$"):
        client.call("identity.show", identities.NameIdentity(name="a"))


def test_a_server_that_is_up_and_cannot_answer_is_not_unreachable(
    api: FakeApi, client: ApiClient
) -> None:
    api.answers["status.show"] = Unavailable("Not ready.")
    with pytest.raises(Unavailable) as caught:
        client.call("status.show", status.GetStatus())
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"items": 7}', b"[" * 100_000])
def test_an_answer_that_is_not_ours_becomes_an_error(
    api: FakeApi, client: ApiClient, body: bytes
) -> None:
    for code in (200, 500):
        api.raw = (code, body)
        with pytest.raises(Internal):
            client.call("status.show", status.GetStatus())


def test_an_answer_without_end_is_cut(
    api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER", 1000)
    api.raw = (200, b" " * 1001)
    with pytest.raises(TooLarge):
        client.call("status.show", status.GetStatus())
    api.raw = None
    api.streams["journal.tail"] = [b'{"message":"heartbeat","epoch":1,"x":"' + b"y" * 1001]
    with pytest.raises(TooLarge):
        list(client.stream("journal.tail", journal.TailJournal()))


# httpcore forgets to close a Unix socket that couldn't connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_listens(tmp_path: Path) -> None:
    with (
        ApiClient.over_socket(str(tmp_path / "gone")) as client,
        pytest.raises(Unreachable, match="gone"),
    ):
        client.call("status.show", status.GetStatus())
    with (
        ApiClient.over_socket(str(tmp_path / "gone")) as client,
        pytest.raises(Unreachable, match="gone"),
    ):
        list(client.stream("journal.tail", journal.TailJournal()))


def test_a_stream_gives_values_until_its_end_which_is_raised(
    api: FakeApi, client: ApiClient
) -> None:
    entry = make_entry(1, body={"words": "line \u2028 and \x85 separators are no line ends"})
    end = nodes.StreamEnd(code="permission_denied", detail="Not any more.", retryable=False)
    lines = [_line(entry), b"\n\n", _line(nodes.Heartbeat(epoch=1)), _line(end)]
    joined = b"".join(lines)
    api.streams["journal.tail"] = [joined[:10], joined[10:200], joined[200:]]
    stream = client.stream("journal.tail", journal.TailJournal(after=0))
    assert next(stream) == entry
    assert next(stream) == nodes.Heartbeat(epoch=1)
    with pytest.raises(Denied, match="Not any more"):
        next(stream)


def test_a_stream_that_just_stops_is_a_lost_server(api: FakeApi, client: ApiClient) -> None:
    api.streams["journal.tail"] = [_line(make_entry(1))]
    stream = client.stream("journal.tail", journal.TailJournal())
    next(stream)
    with pytest.raises(Unreachable):
        next(stream)


def test_a_stream_with_a_line_that_is_not_ours(api: FakeApi, client: ApiClient) -> None:
    api.streams["journal.tail"] = [b'{"message":"surprise"}\n']
    with pytest.raises(Internal):
        list(client.stream("journal.tail", journal.TailJournal()))


def test_a_stream_may_be_refused_before_it_starts(api: FakeApi, client: ApiClient) -> None:
    api.answers["journal.tail"] = Denied("Auditors only.")
    with pytest.raises(Denied, match="Auditors only"):
        list(client.stream("journal.tail", journal.TailJournal()))


def test_https_trusts_the_given_roots_alone(tmp_path: Path) -> None:
    context, ours, other = _make_tls(tmp_path)
    fake = FakeApi()
    fake.answers["status.show"] = make_status()
    with serve_tls(fake, context) as url:
        with ApiClient.over_https(url, str(ours)) as client:
            assert client.call("status.show", status.GetStatus()).ready
        with (
            ApiClient.over_https(url, str(other)) as client,
            pytest.raises(Untrusted, match=r"ca\.pem"),
        ):
            client.call("status.show", status.GetStatus())


def test_https_wants_a_url_and_files_that_work(tmp_path: Path) -> None:
    _, ours, _ = _make_tls(tmp_path)
    for url in ("http://a:8443", "https://", "https://[", "https://a/b", "https://u:p@a", "a:1"):
        with pytest.raises(Invalid, match="https://host:8443"):
            ApiClient.over_https(url, str(ours))
    with pytest.raises(Invalid, match=r"missing\.pem"):
        ApiClient.over_https("https://localhost", str(tmp_path / "missing.pem"))
    with pytest.raises(Invalid, match="client certificate"):
        ApiClient.over_https("https://localhost", str(ours), (str(ours), str(ours)))


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _make_tls(folder: Path) -> tuple[ssl.SSLContext, Path, Path]:
    """A server's context, the CA file that vouches for it, and one that doesn't."""
    files = []
    for name in ("ours", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign_itself(key)
        path = folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.key").write_bytes(secret)
        files.append(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[0], files[0].with_suffix(".key"))
    return context, files[0], files[1]


def _sign_itself(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
