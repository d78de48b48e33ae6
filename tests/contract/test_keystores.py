"""What every keystore driver must do. A driver joins by being listed and by an opener here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.fakes.stores import ENGINES, NOW, make_url
from troth.core.clock import VirtualClock
from troth.core.entropy import SystemEntropy
from troth.core.errors import Conflict, Invalid, NotFound, Unavailable
from troth.drivers.keystores import BUILT_IN, KeyKind, Keystore
from troth.drivers.keystores.file import open_folder
from troth.drivers.keystores.sealed import Shelf, copy_keys
from troth.store.engine import Store
from troth.store.engine import open_store as open_database


def _load(name: str) -> Callable[..., Keystore]:
    module, _, factory = BUILT_IN[name].partition(":")
    loaded: Callable[..., Keystore] = getattr(import_module(module), factory)
    return loaded


KEK = bytes(range(32))
_databases: dict[tuple[str, Path], Store] = {}


def _open_shelf(engine: str, folder: Path) -> Shelf:
    if (engine, folder) not in _databases:
        url = make_url(engine, folder)
        _databases[engine, folder] = open_database(url, clock=VirtualClock(NOW))
    return _databases[engine, folder].shelf


@pytest.fixture(autouse=True)
def close_databases() -> Iterator[None]:
    yield
    while _databases:
        _databases.popitem()[1].close()


# How a test opens each driver: again with the same folder means the same store, where it lasts.
OPENERS: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    "file": lambda folder: (folder / "keys", KEK, SystemEntropy()),
    "memory": lambda folder: (SystemEntropy(),),
    **{
        f"database {engine}": partial(
            lambda engine, folder: (_open_shelf(engine, folder), KEK, SystemEntropy()), engine
        )
        for engine in ENGINES
    },
}
LASTING = sorted(OPENERS.keys() - {"memory"})


def open_store(name: str, folder: Path) -> Keystore:
    return _load(name.split()[0])(*OPENERS[name](folder))


@pytest.fixture(params=sorted(OPENERS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Keystore:
    return open_store(request.param, tmp_path)


def _verify(public_key: bytes, signature: bytes, data: bytes, kind: KeyKind = KeyKind.P256) -> None:
    key = load_der_public_key(public_key)
    if kind is KeyKind.ED25519:
        assert isinstance(key, ed25519.Ed25519PublicKey)
        key.verify(signature, data)
        return
    if kind is KeyKind.ML_DSA_44:
        assert isinstance(key, mldsa.MLDSA44PublicKey)
        key.verify(signature, data)
        return
    if kind is KeyKind.RSA:
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        return
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def test_every_driver_is_under_test() -> None:
    assert {name.split()[0] for name in OPENERS} == BUILT_IN.keys()


def test_a_new_key_signs_and_its_public_key_verifies(store: Keystore) -> None:
    public_key = store.create_key("x509-1")
    assert store.public_key("x509-1") == public_key
    for data in (b"", b"to be signed", bytes(100_000)):
        _verify(public_key, store.sign("x509-1", data), data)


@pytest.mark.parametrize("kind", KeyKind)
def test_a_key_of_each_kind_signs_in_its_form(store: Keystore, kind: KeyKind) -> None:
    public_key = store.create_key("a", kind)
    assert store.public_key("a") == public_key
    _verify(public_key, store.sign("a", b"data"), b"data", kind)
    for data, signature in zip((b"x", b"y"), store.sign_all("a", (b"x", b"y")), strict=True):
        _verify(public_key, signature, data, kind)
    with pytest.raises(InvalidSignature):
        _verify(public_key, store.sign("a", b"data"), b"other", kind)


@pytest.mark.parametrize("name", LASTING)
@pytest.mark.parametrize("kind", KeyKind)
def test_a_key_of_each_kind_outlasts_the_process(name: str, kind: KeyKind, tmp_path: Path) -> None:
    public_key = open_store(name, tmp_path).create_key("a", kind)
    again = open_store(name, tmp_path)
    assert again.public_key("a") == public_key
    _verify(public_key, again.sign("a", b"data"), b"data", kind)


def test_a_signature_is_over_the_data_and_by_the_key(store: Keystore) -> None:
    first, second = store.create_key("a"), store.create_key("b")
    assert first != second
    signature = store.sign("a", b"data")
    for public_key, data in ((first, b"other"), (second, b"data")):
        with pytest.raises(InvalidSignature):
            _verify(public_key, signature, data)


def test_a_secret_is_derived_for_each_purpose(store: Keystore) -> None:
    one = store.derive_secret("one")
    assert len(one) == 32
    assert store.derive_secret("one") == one != store.derive_secret("two")
    assert store.list_keys() == []


@pytest.mark.parametrize("name", LASTING)
def test_a_derived_secret_is_the_same_wherever_the_keys_are_shared(
    name: str, tmp_path: Path
) -> None:
    first, again = open_store(name, tmp_path), open_store(name, tmp_path)
    assert first.derive_secret("one") == again.derive_secret("one")
    assert KEK not in first.derive_secret("one")


def test_keys_are_listed_in_order(store: Keystore) -> None:
    assert store.list_keys() == []
    for name in ("b", "c-1", "a_2"):
        store.create_key(name)
    assert store.list_keys() == ["a_2", "b", "c-1"]


def test_a_name_is_taken_once(store: Keystore) -> None:
    public_key = store.create_key("a")
    with pytest.raises(Conflict):
        store.create_key("a")
    assert store.public_key("a") == public_key


def test_of_many_who_create_one_name_one_wins(store: Keystore) -> None:
    def attempt(_: int) -> bytes | None:
        try:
            return store.create_key("a")
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [key for key in pool.map(attempt, range(16)) if key is not None]
    assert made == [store.public_key("a")]


def test_a_deleted_key_is_gone_and_its_name_free(store: Keystore) -> None:
    old = store.create_key("a")
    store.sign("a", b"data")
    store.delete_key("a")
    assert store.list_keys() == []
    for attempt in (
        lambda: store.sign("a", b"data"),
        lambda: store.public_key("a"),
        lambda: store.delete_key("a"),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert store.create_key("a") != old


def test_an_unknown_key_is_not_found(store: Keystore) -> None:
    for attempt in (
        lambda: store.sign("none", b"data"),
        lambda: store.public_key("none"),
        lambda: store.delete_key("none"),
    ):
        with pytest.raises(NotFound):
            attempt()


@pytest.mark.parametrize(
    "name", ["", "A", "a/b", "../a", "..", ".a", "a.key", "-a", "a b", "a\n", "a\0", "ä", "a" * 129]
)
def test_a_name_that_is_unsafe_anywhere_is_refused_everywhere(store: Keystore, name: str) -> None:
    for attempt in (
        lambda: store.create_key(name),
        lambda: store.public_key(name),
        lambda: store.sign(name, b"data"),
        lambda: store.delete_key(name),
    ):
        with pytest.raises(Invalid, match="can't name a key"):
            attempt()
    assert store.list_keys() == []


def test_the_longest_name_works(store: Keystore) -> None:
    store.create_key("a" * 128)
    assert store.list_keys() == ["a" * 128]


def test_threads_may_sign_at_once(store: Keystore) -> None:
    public_key = store.create_key("a")
    items = [bytes([number]) for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda data: store.sign("a", data), items))
    for data, signature in zip(items, signatures, strict=True):
        _verify(public_key, signature, data)


@pytest.mark.parametrize("name", LASTING)
def test_keys_outlast_the_process(name: str, tmp_path: Path) -> None:
    public_key = open_store(name, tmp_path).create_key("a")
    again = open_store(name, tmp_path)
    assert again.list_keys() == ["a"]
    assert again.public_key("a") == public_key
    _verify(public_key, again.sign("a", b"data"), b"data")
    again.delete_key("a")
    assert open_store(name, tmp_path).list_keys() == []


@pytest.mark.parametrize("name", LASTING)
def test_what_another_process_made_signs_here_and_what_it_deleted_doesnt(
    name: str, tmp_path: Path
) -> None:
    one, two = open_store(name, tmp_path), open_store(name, tmp_path)
    public_key = one.create_key("a")
    _verify(public_key, two.sign("a", b"data"), b"data")
    one.delete_key("a")
    assert two.list_keys() == []
    with pytest.raises(NotFound):
        two.sign("a", b"data")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shared_shelf_holds_ciphertext_and_signing_does_without_it(
    engine: str, tmp_path: Path
) -> None:
    shelf = CountingShelf(_open_shelf(engine, tmp_path))
    store = _load("database")(shelf, KEK, SystemEntropy())
    public_key = store.create_key("a")
    for name in shelf.names():
        assert (shelf.get(name) or b"").startswith(b"troth-key/1\n")
        assert public_key[-64:] not in (shelf.get(name) or b"")
    fresh = _load("database")(shelf, KEK, SystemEntropy())
    fresh.sign("a", b"first")
    seen = shelf.calls
    for number in range(10):
        _verify(public_key, fresh.sign("a", bytes([number])), bytes([number]))
    assert shelf.calls == seen


@pytest.mark.parametrize("engine", ENGINES)
def test_the_wrong_key_encryption_key_is_told_at_once(engine: str, tmp_path: Path) -> None:
    shelf = _open_shelf(engine, tmp_path)
    _load("database")(shelf, KEK, SystemEntropy()).create_key("a")
    with pytest.raises(Unavailable, match=r"table keys doesn't open: .* share this one"):
        _load("database")(shelf, KEK[::-1], SystemEntropy())


@pytest.mark.parametrize("engine", ENGINES)
def test_files_can_be_laid_on_a_shared_shelf_as_they_are(engine: str, tmp_path: Path) -> None:
    files = open_store("file", tmp_path)
    public_keys = {name: files.create_key(name) for name in ("a", "b")}
    folder = open_folder(tmp_path / "keys", SystemEntropy())
    shelf = _open_shelf(engine, tmp_path)
    shelf.put("a.key", folder.get("a.key") or b"")  # what was cut short is done again
    assert copy_keys(folder, shelf) == 2
    store = _load("database")(shelf, KEK, SystemEntropy())
    assert {name: store.public_key(name) for name in store.list_keys()} == public_keys


class CountingShelf:
    """A shelf that counts how often it is asked."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self._shelf, name)
