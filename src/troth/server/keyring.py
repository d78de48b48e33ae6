"""Which keystore this server has, and that it holds what the database says it signs with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import structlog

from troth.core.entropy import Entropy
from troth.core.errors import Refused
from troth.drivers import keystores
from troth.drivers.keystores import Keystore
from troth.drivers.keystores.file import open_folder
from troth.drivers.keystores.kek import resolve_key_encryption_key
from troth.drivers.keystores.sealed import SEAL, Shelf, copy_keys, list_refs
from troth.issuance.authorities import AuthorityState
from troth.server.config import Config
from troth.store.engine import Store, Transaction

log = structlog.get_logger(__name__)


async def open_keystore(config: Config, store: Store, entropy: Entropy) -> Keystore:
    """The configured keystore, its keys unsealed with the key-encryption key.

    A database keystore that is new takes what the data directory's files hold. Raises `Refused`
    when the keys of the authorities that sign aren't in it.
    """
    if config.keystore.driver == "memory":
        return _load("memory")(entropy)
    signing = await store.read(_list_signing)
    return await asyncio.to_thread(_open, config, store.shelf, entropy, signing)


def choose_driver(config: Config, shared: Shelf) -> str:
    """The driver that `auto` means here: where the keys are; for the first, whether other servers
    may come to the database."""
    chosen = config.keystore.driver
    if chosen != "auto":
        return chosen
    if shared.get(SEAL) is not None:
        return "database"  # files that are there too were left behind when it took them along
    alone = config.database.startswith("sqlite:")
    return "file" if alone or has_files(config) else "database"


def has_files(config: Config) -> bool:
    """Whether the data directory holds a file keystore, in use or left behind."""
    return (_folder(config) / SEAL).exists()


def _open(config: Config, shared: Shelf, entropy: Entropy, signing: set[str]) -> Keystore:
    driver = choose_driver(config, shared)
    folder = open_folder(_folder(config), entropy)
    shelf: Shelf = shared if driver == "database" else folder
    new = shelf.get(SEAL) is None
    moving = new and shelf is shared and folder.get(SEAL) is not None
    _check_keys(driver, folder if moving else shelf, signing)
    # A shelf that has a seal has a key, which this server must be given rather than make.
    key = _find_key(config, entropy, create=new and not moving)
    if moving:
        _load("file")(_folder(config), key, entropy)  # tells whether it is the right key
        count = copy_keys(folder, shared)
        log.info("keystore.moved", keys=count, now="database", left=str(_folder(config)))
    if driver == "database":
        return _load(driver)(shared, key, entropy)
    return _load(driver)(_folder(config), key, entropy)


def _check_keys(driver: str, shelf: Shelf, signing: set[str]) -> None:
    """Before anything is made that would look like a keystore of its own."""
    if not signing - set(list_refs(shelf)):
        return
    remedy = (
        "Where they are files, on the server that made them, set keystore.driver to 'database' "
        "and start that one first: it takes them along."
        if driver == "database"
        else "Restore the directory from its backup; or, where several servers share the "
        "database, set keystore.driver to 'database' on all of them, first on the one that has "
        "the keys."
    )
    raise Refused(
        f"The authorities of this database sign with keys that the keystore {driver!r} of this "
        f"server doesn't hold. {remedy}"
    )


def _find_key(config: Config, entropy: Entropy, *, create: bool) -> bytes:
    source = config.keystore.key_encryption_key
    environment = {"PATH": os.defpath}
    if config.keystore.secret is not None:
        environment[source.removeprefix("env:")] = config.keystore.secret
    return resolve_key_encryption_key(
        source, environment=environment, entropy=entropy, create=create
    )


def _list_signing(tx: Transaction) -> set[str]:
    known = tx.authorities.list()
    return {one.key_ref for one in known if one.state is AuthorityState.ACTIVE}


def _load(driver: str) -> Callable[..., Keystore]:
    module, _, factory = keystores.BUILT_IN[driver].partition(":")
    loaded: Callable[..., Keystore] = getattr(import_module(module), factory)
    return loaded


def _folder(config: Config) -> Path:
    return config.data / "keys"
