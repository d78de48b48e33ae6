"""Whom a device believes, and what it says about files that it can't use."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from tests.fakes.issuer import FakeIssuer
from tests.fakes.machines import Machine, Maker
from tests.unit.enroll.test_folder import ENROLMENT
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid
from troth.enroll.device import Device, Manufactured, Settings
from troth.enroll.folder import BUNDLE, KEY, SVID, Folder
from troth.enroll.server import make_context, render_pem

ROOTS = render_pem([FakeIssuer().x509.certificate])
OLD, NEW = Maker("old"), Maker("new")


def make_device(path: Path, ca: bytes) -> Device:
    (path / "ca.pem").write_bytes(ca)
    (path / "device").mkdir()
    settings = Settings(server=ENROLMENT.server, ca_file=path / "ca.pem")
    return Device(Folder(path / "device"), settings, None, VirtualClock())


def test_an_old_ca_file_doesnt_hide_the_roots_that_the_server_told(tmp_path: Path) -> None:
    device = make_device(tmp_path, OLD.pem)
    assert device._find_roots(ENROLMENT.server, None) == OLD.pem
    device.folder.save({SVID: b"", KEY: b"", BUNDLE: NEW.pem}, ENROLMENT)
    known = device.folder.load()
    assert device._find_roots(ENROLMENT.server, known) == OLD.pem + NEW.pem
    assert device._find_roots("https://elsewhere.example:8443", known) == OLD.pem


_ROOT = FakeIssuer().x509.certificate
_VERSION = bytes.fromhex("a0030201")
FUTURE = render_pem([_ROOT.replace(_VERSION + b"\x02", _VERSION + b"\x05", 1)])


@pytest.mark.parametrize("ca", [b"", b"\x30\x82 no PEM", FUTURE])
def test_a_ca_file_without_certificates_is_named(tmp_path: Path, ca: bytes) -> None:
    device = make_device(tmp_path, ca)
    with pytest.raises(Invalid, match=r"ca\.pem holds no PEM certificates"):
        device._find_roots(ENROLMENT.server, None)


def test_a_key_of_another_certificate_is_noticed_on_the_device(tmp_path: Path) -> None:
    one, two = OLD.make("sn-1"), OLD.make("sn-2")
    mixed = Machine(one.certificate, two.key)
    (tmp_path / "device.pem").write_bytes(mixed.pem)
    (tmp_path / "device.key").write_bytes(mixed.key_pem)
    proof = Manufactured(tmp_path / "device.pem", tmp_path / "device.key", VirtualClock())
    with pytest.raises(Invalid, match=r"device\.key is not the key of the first certificate"):
        proof.make(b"a request", ROOTS)


def test_certificates_of_an_unknown_version_are_named(tmp_path: Path) -> None:
    one = OLD.make("sn-1")
    (tmp_path / "device.pem").write_bytes(one.pem)
    (tmp_path / "device.key").write_bytes(one.key_pem)
    proof = Manufactured(tmp_path / "device.pem", tmp_path / "device.key", VirtualClock())
    with pytest.raises(Invalid, match="roots can't be read"):
        proof.make(b"a request", FUTURE)
    (tmp_path / "device.pem").write_bytes(FUTURE)
    with pytest.raises(Invalid, match=r"device\.pem or .* can't be read"):
        proof.make(b"a request", ROOTS)


def test_nobody_is_asked_for_a_password(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = BestAvailableEncryption(b"secret")
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    (tmp_path / "chain").write_bytes(ROOTS)
    with pytest.raises(Invalid, match="can't be used"):
        make_context(ROOTS, (tmp_path / "chain", tmp_path / "key"))
