from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from troth.core.errors import Conflict, Invalid, Refused
from troth.enroll.folder import BUNDLE, KEY, NEXT_KEY, STATE, SVID, Enrolment, Folder, render_key
from troth.wire.pem import render_pem

ENROLMENT = Enrolment(
    server="https://troth:8443",
    mtls_url="https://troth:8444",
    identity="sensor-1",
    instance_id="ins_1",
    spiffe_id="spiffe://example.org/sensor-1",
    not_before="2026-01-01T00:00:00+00:00",
    not_after="2026-01-02T00:00:00+00:00",
    renew_after="2026-01-01T12:00:00+00:00",
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "device")


def save(folder: Folder, key: bytes = b"key", enrolment: Enrolment = ENROLMENT) -> None:
    folder.save({SVID: b"chain", KEY: key, BUNDLE: b"roots"}, enrolment)


def numbers(key: ec.EllipticCurvePrivateKey) -> int:
    return key.private_numbers().private_value


def test_what_is_saved_is_there_and_only_the_key_is_closed(folder: Folder) -> None:
    with folder.hold():
        assert folder.load() is None
        save(folder)
        assert folder.load() == ENROLMENT
    modes = {
        name: stat.S_IMODE((folder.current / name).stat().st_mode)
        for name in (SVID, KEY, BUNDLE, STATE)
    }
    assert modes == {SVID: 0o644, KEY: 0o600, BUNDLE: 0o644, STATE: 0o644}


def test_modes_don_t_depend_on_the_umask(folder: Folder) -> None:
    before = os.umask(0o077)
    try:
        with folder.hold():
            save(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder.current / SVID).stat().st_mode) == 0o644


def test_each_version_stands_by_itself_and_the_one_before_stays(folder: Folder) -> None:
    with folder.hold():
        save(folder, b"one")
        reader = folder.current.resolve()
        save(folder, b"two")
        assert (reader / KEY).read_bytes() == b"one"
        assert folder.read(KEY) == b"two"
        save(folder, b"three")
    assert not reader.exists()
    assert len([path for path in folder.path.iterdir() if path.name.startswith("v")]) == 2


def test_a_crash_while_saving_leaves_the_version_before(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.hold():
        save(folder, b"one")
        with monkeypatch.context() as broken:

            def crash(self: Path, target: Path) -> Path:
                raise OSError("power cut")

            broken.setattr(Path, "replace", crash)
            with pytest.raises(OSError, match="power cut"):
                save(folder, b"two")
        assert folder.read(KEY) == b"one"
        assert folder.load() == ENROLMENT
        save(folder, b"three")
        assert folder.read(KEY) == b"three"


def test_the_next_key_is_on_disk_before_it_is_used_and_stays_until_it_counts(
    folder: Folder,
) -> None:
    with folder.hold():
        key = folder.prepare_key()
        path = folder.path / NEXT_KEY
        assert path.read_bytes() == render_key(key)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert numbers(folder.prepare_key()) == numbers(key)
        folder.drop_next_key()
        assert numbers(folder.prepare_key()) != numbers(key)


def test_a_key_may_be_kept(folder: Folder) -> None:
    with folder.hold():
        key = folder.prepare_key(reuse=True)
        save(folder, render_key(key))
        folder.drop_next_key()
        assert numbers(folder.prepare_key(reuse=True)) == numbers(key)


OTHER_CURVE = render_key(ec.generate_private_key(ec.SECP384R1()))


_P256 = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
)
_OID = bytes.fromhex("2a8648ce3d0301")
NO_CURVE = render_pem("PRIVATE KEY", _P256.replace(_OID + b"\x07", _OID + b"\x09"))


@pytest.mark.parametrize("content", [b"", b"half a key", OTHER_CURVE, NO_CURVE])
def test_a_spoilt_next_key_is_replaced(folder: Folder, content: bytes) -> None:
    with folder.hold():
        (folder.path / NEXT_KEY).write_bytes(content)
        assert folder.prepare_key().curve.name == "secp256r1"


def test_one_process_at_a_time(folder: Folder) -> None:
    with folder.hold(), pytest.raises(Conflict, match="Another process"), folder.hold():
        pass
    with folder.hold():
        pass


def test_a_directory_that_others_may_write_to_is_refused(folder: Folder) -> None:
    folder.path.mkdir()
    folder.path.chmod(0o777)
    with pytest.raises(Refused, match="writable by nobody else"), folder.hold():
        pass


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"server": 1}', None, "\udc80", "[" * 100_000],
)
def test_a_spoilt_state_says_what_to_do(folder: Folder, text: str | None) -> None:
    with folder.hold():
        late = replace(ENROLMENT, renew_after="2027-01-01T00:00:00+00:00")
        save(folder, enrolment=late if text is None else ENROLMENT)
        if text is not None:
            (folder.current / STATE).write_text(text, errors="surrogateescape")
        with pytest.raises(Invalid, match="enrol anew"):
            folder.load()


@pytest.mark.parametrize(
    "change",
    [
        {"server": 7},
        {"not_after": "2026-01-02T00:00:00", "renew_after": "2026-01-01T12:00:00"},
        {"not_after": "9999-12-31T00:00:00+00:00", "renew_after": "0001-01-02T00:00:00+00:00"},
    ],
    ids=["no text", "no zone", "no calendar has it"],
)
def test_a_state_that_renewal_can_t_reckon_with_is_spoilt(
    folder: Folder, change: dict[str, object]
) -> None:
    with folder.hold():
        save(folder)
        spoilt = json.dumps({**asdict(ENROLMENT), **change})
        (folder.current / STATE).write_text(spoilt)
        with pytest.raises(Invalid, match="enrol anew"):
            folder.load()
