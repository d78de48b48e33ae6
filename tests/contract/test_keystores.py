"""What every keystore driver must do. A driver joins by being listed and by an opener here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from troth.core.entropy import SystemEntropy
from troth.core.errors import Conflict, Invalid, NotFound
from troth.drivers.keystores import BUILT_IN, Keystore


def _load(name: str) -> Callable[..., Keystore]:
    module, _, factory = BUILT_IN[name].partition(":")
    loaded: Callable[..., Keystore] = getattr(import_module(module), factory)
    return loaded


# How a test opens each driver: again with the same folder means the same store, where it lasts.
OPENERS: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    "file": lambda folder: (folder / "keys", bytes(range(32)), SystemEntropy()),
    "memory": lambda folder: (SystemEntropy(),),
}
LASTING = sorted(BUILT_IN.keys() - {"memory"})


def open_store(name: str, folder: Path) -> Keystore:
    return _load(name)(*OPENERS[name](folder))


@pytest.fixture(params=sorted(BUILT_IN))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Keystore:
    return open_store(request.param, tmp_path)


def _verify(public_key: bytes, signature: bytes, data: bytes) -> None:
    key = load_der_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def test_every_driver_is_under_test() -> None:
    assert OPENERS.keys() == BUILT_IN.keys()


def test_a_new_key_signs_and_its_public_key_verifies(store: Keystore) -> None:
    public_key = store.create_key("x509-1")
    assert store.public_key("x509-1") == public_key
    for data in (b"", b"to be signed", bytes(100_000)):
        _verify(public_key, store.sign("x509-1", data), data)


def test_a_signature_is_over_the_data_and_by_the_key(store: Keystore) -> None:
    first, second = store.create_key("a"), store.create_key("b")
    assert first != second
    signature = store.sign("a", b"data")
    for public_key, data in ((first, b"other"), (second, b"data")):
        with pytest.raises(InvalidSignature):
            _verify(public_key, signature, data)


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
