"""Which keystore a server takes, and which one it refuses to begin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from troth.core.clock import SystemClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Unavailable
from troth.drivers.keystores.file import Folder
from troth.operations.installation import claim_local_node
from troth.server.config import Config, load_config
from troth.server.installation import prepare_directories, read_installation
from troth.server.keyring import choose_driver, open_keystore
from troth.store.engine import open_store

POSTGRES = "postgresql:///troth"


class Shelf(Folder):
    """A database's shelf that holds a keystore, or doesn't."""

    def __init__(self, sealed: bool) -> None:
        self._sealed = sealed

    def get(self, name: str) -> bytes | None:
        return b"sealed" if self._sealed else None


def configure(data: Path, **variables: str) -> Config:
    return load_config(data=data, environ=variables)


@pytest.mark.parametrize(
    ("url", "files", "sealed", "driver", "wanted"),
    [
        ("", False, False, "auto", "file"),
        ("", True, False, "auto", "file"),
        ("", False, True, "auto", "database"),  # it came from a PostgreSQL
        (POSTGRES, False, False, "auto", "database"),
        (POSTGRES, True, False, "auto", "file"),
        (POSTGRES, True, True, "database", "database"),
        (POSTGRES, True, True, "auto", "database"),  # the files were left behind
        ("", True, True, "auto", "database"),
        (POSTGRES, False, True, "file", "file"),
        ("", False, False, "database", "database"),
    ],
)
def test_keys_stay_where_they_are_and_new_ones_are_shared_on_postgresql(
    tmp_path: Path, url: str, files: bool, sealed: bool, driver: str, wanted: str
) -> None:
    if files:
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "keystore.seal").write_bytes(b"")
    environ = {"TROTH_KEYSTORE_DRIVER": driver} | ({"TROTH_DATABASE_URL": url} if url else {})
    config = configure(tmp_path, **environ)
    assert choose_driver(config, Shelf(sealed)) == wanted


def test_files_move_into_a_database_file_too_and_only_once(tmp_path: Path) -> None:
    by_files = configure(tmp_path, TROTH_KEYSTORE_DRIVER="file")
    by_database = configure(tmp_path, TROTH_KEYSTORE_DRIVER="database")
    prepare_directories(by_files)
    store = open_store(by_files.database, clock=SystemClock())
    try:
        made = asyncio.run(open_keystore(by_files, store, SeededEntropy(1))).create_key("a")
        moved = asyncio.run(open_keystore(by_database, store, SeededEntropy(2)))
        assert (moved.list_keys(), moved.public_key("a")) == (["a"], made)
        moved.delete_key("a")  # what is left of the files never comes back
        assert asyncio.run(open_keystore(by_database, store, SeededEntropy(3))).list_keys() == []
    finally:
        store.close()


def test_an_installation_keeps_its_id(tmp_path: Path) -> None:
    made = read_installation(tmp_path, SeededEntropy(1))
    assert read_installation(tmp_path, SeededEntropy(2)) == made
    assert (tmp_path / "installation").stat().st_mode & 0o777 == 0o600
    (tmp_path / "installation").write_text("../../etc")
    with pytest.raises(Unavailable, match="eight hexadecimal digits"):
        read_installation(tmp_path, SeededEntropy(2))


def test_the_first_installation_is_local_and_others_have_their_own_name(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/troth.db", clock=SystemClock())

    def claim(installation: str, *, alone: bool = False) -> str:
        return asyncio.run(
            store.transact(lambda tx: claim_local_node(tx, installation, alone=alone))
        )

    try:
        assert [claim("aa"), claim("bb"), claim("aa")] == ["local", "local-bb", "local"]
        assert claim("cc", alone=True) == "local"
        assert claim("aa") == "local-aa"
    finally:
        store.close()
