import os
import sqlite3
import stat

import pytest

from tests.fakes.stores import NOW, make_event, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid, NotFound, Refused, Unavailable
from troth.store.engine import open_store
from troth.store.sqlite import parse_url

CLOCK = VirtualClock(NOW)


def _open(path):
    return open_store(f"sqlite:///{path}", clock=CLOCK)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "troth.db",
        "/var/lib/troth.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/troth.db",
        "sqlite:///troth.db?mode=memory",
        "sqlite+aiosqlite:///troth.db",
        "file:troth.db",
        "sqlite:///a\0b",
    ],
)
def test_other_urls_are_invalid_and_say_what_to_write(url):
    with pytest.raises(Invalid, match=r"sqlite:///path/troth\.db"):
        open_store(url, clock=CLOCK)


def test_a_url_s_password_never_shows():
    with pytest.raises(Invalid, match="begins with postgresql://") as caught:
        open_store("postgresql+psycopg://troth:hunter2@db/troth", clock=CLOCK)
    assert "hunter2" not in str(caught.value)


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_url("sqlite:///a/troth.db") == tmp_path / "a" / "troth.db"
    assert parse_url("sqlite:////a/troth.db").as_posix() == "/a/troth.db"


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_private_whatever_the_umask(tmp_path):
    path = tmp_path / "made" / "here" / "a b%20#.db"
    before = os.umask(0)
    try:
        store = open_store(f"sqlite:///{path}", clock=CLOCK)
        transact(store, lambda tx: tx.settings.set("a", "1"))
        read(store, lambda tx: tx.settings.get("a"))
    finally:
        os.umask(before)
    found = {p.name: _mode(p) for p in path.parent.iterdir()}
    name = "a b%20#.db"
    assert found == dict.fromkeys((name, f"{name}-wal", f"{name}-shm"), 0o600)
    assert _mode(path.parent) == 0o700
    store.close()


def test_files_that_were_too_open_are_closed(tmp_path):
    path = tmp_path / "troth.db"
    _open(path).close()
    path.chmod(0o644)
    store = _open(path)
    transact(store, lambda tx: tx.settings.set("a", "1"))
    assert {_mode(p) for p in tmp_path.iterdir()} == {0o600}
    assert _mode(path) == 0o600
    store.close()


def test_the_settings_that_durability_rests_on(tmp_path):
    from sqlalchemy import text

    store = _open(tmp_path / "troth.db")

    def pragma(tx, name):
        return tx._session.execute(text(f"PRAGMA {name}")).scalar()

    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "query_only": 0}
    assert transact(store, lambda tx: {name: pragma(tx, name) for name in wanted}) == wanted
    assert read(store, lambda tx: pragma(tx, "query_only")) == 1
    assert transact(store, lambda tx: pragma(tx, "busy_timeout")) == 5000
    store.close()


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "troth.db"
    path.write_bytes(b"not a database, but somebody's precious notes\n" * 100)
    with pytest.raises(Unavailable, match="isn't a database"):
        _open(path)
    assert path.read_bytes().startswith(b"not a database")


def test_another_program_s_database_is_left_alone(tmp_path):
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE precious (a)")
    other.commit()
    with pytest.raises(Invalid, match="isn't troth's"):
        _open(path)
    assert [name for (name,) in other.execute("SELECT name FROM sqlite_schema")] == ["precious"]
    other.close()


def test_a_newer_troth_s_database_is_refused(tmp_path):
    path = tmp_path / "troth.db"
    _open(path).close()
    newer = sqlite3.connect(path)
    newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.commit()
    newer.close()
    with pytest.raises(Refused, match="another version of troth"):
        _open(path)


def test_a_path_that_can_t_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="can't be opened"):
        _open(tmp_path / "file" / "troth.db")
    with pytest.raises(Unavailable, match="can't be opened"):
        _open(tmp_path)


def test_a_replaced_file_is_noticed_before_anything_is_acknowledged(tmp_path):
    path = tmp_path / "troth.db"
    store = _open(path)
    transact(store, lambda tx: tx.settings.set("a", "1"))
    read(store, lambda tx: tx.settings.get("a"))
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("troth.db", "troth.db-wal", "troth.db-shm"):
        (tmp_path / name).rename(kept / name)
    with pytest.raises(Unavailable, match=r"removed or replaced|can't be opened"):
        transact(store, lambda tx: tx.settings.set("b", "1"))
    with pytest.raises(Unavailable, match=r"removed or replaced|can't be opened"):
        read(store, lambda tx: tx.settings.get("a"))
    with pytest.raises(Unavailable):
        transact(store, lambda tx: tx.settings.set("b", "1"))
    assert not path.exists()
    for name in ("troth.db-shm", "troth.db-wal", "troth.db"):
        (kept / name).rename(tmp_path / name)
    transact(store, lambda tx: tx.settings.set("c", "1"))
    assert read(store, lambda tx: [tx.settings.get(k) for k in "abc"]) == ["1", None, "1"]
    store.close()


def test_errors_name_no_values(tmp_path):
    store = _open(tmp_path / "troth.db")

    def broken(tx):
        event = make_event(subject="s3cret-subject")
        object.__setattr__(event, "type", None)
        tx.journal.append(event)

    with pytest.raises(Exception, match="lacks a value") as caught:
        transact(store, broken)
    assert "s3cret-subject" not in str(caught.value)
    store.close()


def test_an_expected_error_in_a_read_costs_no_connection(tmp_path):
    store = _open(tmp_path / "troth.db")
    read(store, lambda tx: tx.settings.get("a"))
    kept = list(store._readers._free)
    with pytest.raises(NotFound):
        read(store, lambda tx: tx.identities.get("idn_0"))
    assert store._readers._free == kept
    store.close()
