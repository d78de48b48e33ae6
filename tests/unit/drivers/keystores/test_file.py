"""The file keystore: what lies on the disk, and what happens when that is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict, Unavailable
from troth.drivers.keystores.file import open_keystore
from troth.drivers.keystores.sealed import SealedKeystore

KEK = bytes(range(32))
OTHER_KEK = bytes(range(1, 33))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys"


def _open(folder: Path, kek: bytes = KEK, seed: int = 0) -> SealedKeystore:
    return open_keystore(folder, kek, SeededEntropy(seed))


def _seal(name: bytes, plain: bytes, kek: bytes = KEK) -> bytes:
    """The format as documented, written a second time."""
    nonce = b"n" * 12
    return b"troth-key/1\n" + nonce + AESGCM(kek).encrypt(nonce, plain, b"troth-key/1\n" + name)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def test_files_and_directory_are_private_and_nothing_else_is_left(folder: Path) -> None:
    _open(folder).create_key("a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(os.listdir(folder)) == ["a.key", "keystore.seal"]
    for name in os.listdir(folder):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_the_mode_does_not_depend_on_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        _open(folder).create_key("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a.key").stat().st_mode) == 0o600


def test_the_private_key_is_not_on_the_disk_in_the_clear(folder: Path) -> None:
    public_key = _open(folder).create_key("a")
    content = (folder / "a.key").read_bytes()
    assert content.startswith(b"troth-key/1\n")
    assert public_key[-64:-32] not in content, "PKCS #8 holds the public key too"
    nonce, sealed = content[12:24], content[24:]
    plain = AESGCM(KEK).decrypt(nonce, sealed, b"troth-key/1\na.key")
    assert public_key[-64:] in plain


def test_every_file_has_a_nonce_of_its_own(folder: Path) -> None:
    store = _open(folder)
    for name in ("a", "b", "c"):
        store.create_key(name)
    nonces = {(folder / name).read_bytes()[12:24] for name in os.listdir(folder)}
    assert len(nonces) == 4


def test_the_wrong_key_encryption_key_is_told_at_once(folder: Path) -> None:
    _open(folder)
    with pytest.raises(Unavailable, match="key-encryption key is not the one") as raised:
        _open(folder, OTHER_KEK)
    assert OTHER_KEK.hex() not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("kek", [b"", b"short", bytes(33)])
def test_a_key_encryption_key_has_32_bytes(folder: Path, kek: bytes) -> None:
    with pytest.raises(Unavailable, match="must be 32 bytes"):
        _open(folder, kek)
    assert not folder.exists()


def _corruptions(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "truncated": content[:-1],
        "header alone": content[:12],
        "nonce alone": content[:24],
        "another version": b"troth-key/2\n" + content[12:],
        "flipped in the nonce": content[:15] + bytes([content[15] ^ 1]) + content[16:],
        "flipped at the end": content[:-1] + bytes([content[-1] ^ 1]),
        "longer": content + b"\0",
        "huge": content + bytes(10_000),
        "zeros": bytes(len(content)),
    }


@pytest.mark.parametrize("fault", _corruptions(bytes(100)))
def test_a_damaged_file_is_told_by_name(folder: Path, fault: str) -> None:
    _open(folder).create_key("a")
    path = folder / "a.key"
    _put(path, _corruptions(path.read_bytes())[fault])
    store = _open(folder)
    for attempt in (lambda: store.sign("a", b"data"), lambda: store.public_key("a")):
        with pytest.raises(Unavailable, match=r"a\.key .*backup"):
            attempt()
    assert store.create_key("b"), "the others still work"


def test_a_file_put_in_anothers_place_does_not_open(folder: Path) -> None:
    store = _open(folder)
    store.create_key("a")
    store.create_key("b")
    os.replace(folder / "a.key", folder / "b.key")
    with pytest.raises(Unavailable, match=r"b\.key doesn't open"):
        _open(folder).sign("b", b"data")


def test_the_seal_in_a_keys_place_is_no_key(folder: Path) -> None:
    _open(folder)
    _put(folder / "a.key", (folder / "keystore.seal").read_bytes())
    with pytest.raises(Unavailable, match=r"a\.key doesn't open"):
        _open(folder).sign("a", b"data")


@pytest.mark.parametrize("kind", ["text", "P-384", "Ed448"])
def test_a_sealed_file_that_holds_another_thing_is_no_key(folder: Path, kind: str) -> None:
    der = Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    plain = {
        "text": b"hello",
        "P-384": ec.derive_private_key(5, ec.SECP384R1()).private_bytes(*der),
        "Ed448": ed448.Ed448PrivateKey.from_private_bytes(bytes(57)).private_bytes(*der),
    }[kind]
    store = _open(folder)
    _put(folder / "a.key", _seal(b"a.key", plain))
    with pytest.raises(Unavailable, match=r"holds no key|a kind that isn't used"):
        store.sign("a", b"data")


def test_a_missing_seal_beside_keys_is_an_incomplete_store(folder: Path) -> None:
    _open(folder).create_key("a")
    (folder / "keystore.seal").unlink()
    with pytest.raises(Unavailable, match="incomplete"):
        _open(folder, OTHER_KEK)


def test_a_seal_with_another_text_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    _put(folder / "keystore.seal", _seal(b"keystore.seal", b"another text"))
    with pytest.raises(Unavailable, match="not the seal"):
        _open(folder)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o707])
def test_a_directory_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(Unavailable, match="chmod 700"):
        _open(folder)
    assert os.listdir(folder) == []


def test_a_file_in_the_directorys_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(Unavailable, match=r"Can't make .*keys|is not a directory"):
        _open(tmp_path / "keys")


def test_a_key_file_open_to_others_is_refused(folder: Path) -> None:
    _open(folder).create_key("a")
    (folder / "a.key").chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        _open(folder).sign("a", b"data")


def test_a_link_or_a_pipe_in_a_keys_place_is_refused(folder: Path, tmp_path: Path) -> None:
    store = _open(folder)
    store.create_key("a")
    os.replace(folder / "a.key", tmp_path / "a.key")
    (folder / "a.key").symlink_to(tmp_path / "a.key")
    os.mkfifo(folder / "b.key", 0o600)
    fresh = _open(folder)
    with pytest.raises(Unavailable, match="Can't read"):
        fresh.sign("a", b"data")
    with pytest.raises(Unavailable, match="plain file"):
        fresh.sign("b", b"data")


def test_two_processes_never_overwrite_each_others_key(folder: Path) -> None:
    first, second = _open(folder, seed=1), _open(folder, seed=2)
    public_key = first.create_key("a")
    with pytest.raises(Conflict):
        second.create_key("a")
    assert second.public_key("a") == public_key


def test_what_a_crash_left_behind_is_passed_over(folder: Path) -> None:
    _open(folder).create_key("a")
    _put(folder / ".b.key.0011223344556677", b"half a k")
    _put(folder / "note.txt", b"hello")
    _put(folder / "BACKUP.key", b"hello")
    assert _open(folder).list_keys() == ["a"]


def test_a_failed_write_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _open(folder)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable, match=r"Can't write .*a\.key: No space left"):
        store.create_key("a")
    assert sorted(os.listdir(folder)) == ["keystore.seal"]
    assert store.list_keys() == []


def test_a_directory_that_went_away_is_unavailable(folder: Path) -> None:
    store = _open(folder)
    store.create_key("a")
    os.replace(folder, folder.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="Can't list"):
        store.list_keys()
    with pytest.raises(Unavailable, match="Can't write"):
        store.create_key("b")
