"""Files on the disks of devices, nodes and servers: what became of them is said in a sentence."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer, encode_spki
from tests.fakes.machines import Maker
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_der
from troth.agent.connection import make_context
from troth.agent.credential import FILE_NAME, CredentialFile, read_roots
from troth.agent.machine import Machine
from troth.cli.chain import read_certificates
from troth.cli.explanation import AGENT_DIRECTORY, find_node
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Refused, TrothError
from troth.core.ids import SpiffeId
from troth.drivers.keystores.file import Folder as KeyFolder
from troth.drivers.keystores.file import open_keystore
from troth.drivers.keystores.kek import KEY_SIZE, resolve_key_encryption_key
from troth.drivers.keystores.sealed import SealedKeystore, make_cipher
from troth.enroll import device
from troth.enroll.folder import BUNDLE, CURRENT, KEY, NEXT_KEY, STATE, SVID, Enrolment, Folder
from troth.enroll.keeper import place_renewal
from troth.enroll.server import make_context as make_device_context
from troth.server.installation import FILE, read_installation
from troth.wire.pem import render_pem, render_pem_certificates

ISSUER = FakeIssuer()
ROOT = ISSUER.x509.certificate
_DOMAIN = ISSUER.trust_domain
_P256 = ec.generate_private_key(ec.SECP256R1())
_KEYS: tuple[Any, ...] = (
    _P256,
    ec.generate_private_key(ec.SECP384R1()),
    x25519.X25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
)


def _render_key(key: Any, form: Encoding, cover: KeySerializationEncryption) -> bytes:
    rendered: bytes = key.private_bytes(form, PrivateFormat.PKCS8, cover)
    return rendered


_GOOD_KEYS = tuple(_render_key(key, Encoding.DER, NoEncryption()) for key in _KEYS)
_P256_OID, _EC_OID = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d0201")
_DER_KEYS = (
    *_GOOD_KEYS,
    _render_key(_P256, Encoding.DER, BestAvailableEncryption(b"secret")),
    _GOOD_KEYS[0].replace(_EC_OID, _EC_OID[:-1] + b"\x09"),  # kinds of keys that nobody knows
    _GOOD_KEYS[0].replace(_P256_OID, _P256_OID[:-1] + b"\x09"),
)
_PEM_KEYS = (
    *(render_pem("PRIVATE KEY", der) for der in _DER_KEYS),
    _render_key(_P256, Encoding.PEM, BestAvailableEncryption(b"secret")),
)
_ODD_DER = mutated_der(*_DER_KEYS)
_ODD_PEM = mutated(*_PEM_KEYS) | _ODD_DER.map(lambda der: render_pem("PRIVATE KEY", der))
_LEAF = ISSUER.issue(
    ISSUER.plan(spiffe_id=SpiffeId.of(_DOMAIN, "/troth/node/n1"), public_key=encode_spki(_P256))
)
_VERSION_3 = bytes.fromhex("a003020102")
_FUTURE = ROOT.replace(_VERSION_3, _VERSION_3[:-1] + b"\x05", 1)
_ODD_CHAIN = (
    st.just(render_pem_certificates([_FUTURE]))
    | mutated(render_pem_certificates([_LEAF, ROOT]))
    | mutated_der(_LEAF, ROOT, _FUTURE).map(lambda der: render_pem_certificates([der]))
    | st.tuples(mutated_der(_LEAF), mutated_der(ROOT)).map(render_pem_certificates)
)


@contextmanager
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o700)
        yield folder


def _put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


# A device

_ENROLMENT = Enrolment(
    server="https://localhost:8443",
    mtls_url="https://localhost:8444",
    identity="sensor-1",
    instance_id="ins_1",
    spiffe_id="spiffe://example.org/sensor-1",
    not_before="2026-01-01T00:00:00+00:00",
    not_after="2026-01-08T00:00:00+00:00",
    renew_after="2026-01-04T00:00:00+00:00",
)
_NAIVE = replace(_ENROLMENT, not_after="2026-01-08T00:00:00", renew_after="2026-01-04T00:00:00")
_WIDE = replace(
    _ENROLMENT, not_after="9999-12-31T23:59:59-23:59", renew_after="0001-01-01T00:00:00+23:59"
)


@fuzz(
    json_documents(asdict(_ENROLMENT), asdict(_NAIVE), asdict(_WIDE)) | mutated(b"[" * 9_000),
    stage=open_folder,
)
def fuzz_enrolment_state(content: bytes, path: Path) -> None:
    """``enrolment.json``: what is taken from it can be worked with."""
    _put(path / CURRENT / STATE, content)
    found = answer(Folder(path).load)
    if found is None:
        return
    assert all(isinstance(value, str) for value in asdict(found).values())
    now = datetime(2026, 1, 5, tzinfo=UTC)
    assert (now >= found.end) in (True, False)
    assert place_renewal(found, SeededEntropy()).tzinfo is not None


@fuzz(st.tuples(_ODD_PEM, _ODD_CHAIN, _ODD_CHAIN), stage=open_folder)
def fuzz_device_files(found: tuple[bytes, bytes, bytes], path: Path) -> None:
    """A device's keys, the manufacturer's certificate, and the roots that somebody brought."""
    key, chain, roots = found
    folder = Folder(path)
    _put(path / NEXT_KEY, key)
    assert folder.prepare_key().curve.name == "secp256r1"
    (path / NEXT_KEY).unlink()
    _put(path / CURRENT / KEY, key)
    assert folder.prepare_key(reuse=True).curve.name == "secp256r1"
    given = _put(path / "given.pem", roots)
    known = answer(device.read_roots, given)
    pair = (_put(path / SVID, chain), _put(path / "own.key", key))
    clock = VirtualClock(NOW)
    proof = device.Manufactured(*pair, clock)
    answer(proof.make, b"csr", known or render_pem_certificates([ROOT]))
    if known is not None:
        _put(path / CURRENT / BUNDLE, known)
        answer(make_device_context, known, pair)


# A node

_NODE = {
    "node_id": "nod_1",
    "spiffe_id": f"spiffe://{_DOMAIN}/troth/node/n1",
    "key": b64encode(_DER_KEYS[0]).decode(),
    "chain": [b64encode(_LEAF).decode()],
    "roots": [b64encode(ROOT).decode()],
}


def _hold(field: str) -> Any:
    def put(der: bytes) -> bytes:
        text = b64encode(der).decode()
        return json.dumps({**_NODE, field: text if field == "key" else [text]}).encode()

    return put


@fuzz(
    json_documents(_NODE)
    | _ODD_DER.map(_hold("key"))
    | mutated_der(_LEAF).map(_hold("chain"))
    | mutated_der(ROOT).map(_hold("roots")),
    examples=150,
    stage=open_folder,
)
def fuzz_node_file(content: bytes, path: Path) -> None:
    """``node.json``: what is taken from it makes a connection."""
    directory = path / AGENT_DIRECTORY
    _put(directory / FILE_NAME, content)
    assert find_node(path, "default")
    found = None
    try:
        found = CredentialFile(directory).load()
    except Refused as error:
        check_refusal(error)
    if found is not None:
        assert len(found.signer) >= 0
        answer(make_context, found.roots, found)


_MAKER = Maker("Acme root")
_MACHINE = _MAKER.make("press-4")
_MACHINE_CHAIN = render_pem_certificates(_MACHINE.chain)


@fuzz(
    st.tuples(_ODD_PEM, _ODD_CHAIN | mutated(_MACHINE_CHAIN), _ODD_CHAIN),
    examples=120,
    stage=open_folder,
)
def fuzz_node_files(found: tuple[bytes, bytes, bytes], path: Path) -> None:
    """The machine's own certificate and key, and the CA file that joining trusts."""
    key, chain, roots = found
    machine = Machine(_put(path / "machine.pem", chain), _put(path / "machine.key", key))
    answer(machine.prove, b"csr", (ROOT,), NOW)
    trusted = answer(read_roots, _put(path / "ca.pem", roots))
    shown = answer(read_certificates, path / "ca.pem")
    assert shown is None or len(shown) >= len(trusted or ())
    if trusted is not None:
        answer(machine.prove, b"csr", trusted, NOW)
        answer(make_context, trusted, None)


# A server

_KEK = bytes(range(KEY_SIZE))
_KEKS = (_KEK.hex().encode(), b64encode(_KEK) + b"\n", b"00" * 32, b"0" * 5_000)


@fuzz(mutated(*_KEKS), stage=open_folder)
def fuzz_key_encryption_key(content: bytes, path: Path) -> None:
    """From a file and from the environment: 32 bytes that are a key, or a sentence without it."""
    text = content.replace(b"\0", b"").decode("utf-8", errors="surrogateescape")
    sources = [
        (f"file:{_put(path / 'kek', content)}", {}),
        ("env:TROTH_KEK", {"TROTH_KEK": text}),
    ]
    for source, environment in sources:
        try:
            key = resolve_key_encryption_key(
                source, environment=environment, entropy=SeededEntropy()
            )
        except TrothError as error:
            _check_silence(error, text.strip())
            continue
        assert len(key) == KEY_SIZE
        assert len(set(key)) > 1


def _check_silence(error: TrothError, secret: str) -> None:
    check_refusal(error)
    assert len(secret) < KEY_SIZE or secret not in error.detail


_CIPHER = make_cipher(_KEK)
_FORMAT = b"troth-key/1\n"


def _seal(plain: bytes) -> bytes:
    nonce = b"n" * 12
    return _FORMAT + nonce + _CIPHER.encrypt(nonce, plain, _FORMAT + b"a.key")


_SEALED = _seal(_DER_KEYS[0])


@fuzz(
    st.tuples(mutated(_SEALED) | _ODD_DER.map(_seal), mutated(_SEALED, b"", bytes(5_000))),
    examples=120,
    stage=open_folder,
)
def fuzz_key_file(found: tuple[bytes, bytes], path: Path) -> None:
    """A sealed key, also one that opens and is none, and the seal beside it."""
    content, seal = found
    directory = path / "keys"
    _put(directory / "a.key", content)
    shelf = KeyFolder(directory, SeededEntropy())
    store = SealedKeystore(shelf, _KEK, SeededEntropy())
    assert store.list_keys() == ["a"]
    if answer(store.public_key, "a") is not None:
        assert store.sign("a", b"data")
    _put(directory / "keystore.seal", seal)
    assert answer(open_keystore, directory, _KEK, SeededEntropy()) is None


@fuzz(mutated(b"0123abcd\n", b"0123abcd"), stage=open_folder)
def fuzz_installation(content: bytes, path: Path) -> None:
    _put(path / FILE, content)
    found = answer(read_installation, path, SeededEntropy())
    assert found is None or len(bytes.fromhex(found)) == 4
