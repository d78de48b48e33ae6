"""Every version that ever landed, with data in it, is brought to the newest and served.

A version is a file in `versions/`: what a server of it left behind, frozen. PostgreSQL gets the
same rows, in the schema that the version's own migrations make there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.history import SPAN, NamedKeystore
from tests.fakes.house import FakeHouse, open_house
from tests.fakes.postgres import start_cluster
from tests.fakes.stores import ENGINES
from troth.core.clock import VirtualClock
from troth.identity.identity import State
from troth.store.engine import open_database, open_store
from troth.store.rows import read_rows, write_next_id, write_rows
from troth.store.schema import HEAD, read_revision, upgrade_connection
from troth.store.tables import metadata
from troth.wire.api.authorities import ListAuthorities
from troth.wire.api.identities import ListIdentities, ListInstances, NameIdentity
from troth.wire.api.journal import ListJournal
from troth.wire.api.nodes import ListNodes
from troth.wire.backup import Cell, Shape

VERSIONS = sorted((Path(__file__).parent / "versions").glob("*.sqlite.sql"))
KINDS = {"BIGINT": "int", "INTEGER": "int", "BOOLEAN": "bool", "BLOB": "bytes", "TEXT": "text"}
WITHOUT_ROWS: set[str] = set()
"""Tables that may be empty in a frozen version, each with a reason beside it."""

Frozen = dict[str, tuple[Shape, list[tuple[Cell, ...]]]]


def load(version: Path, folder: Path) -> Path:
    """The version's SQLite file."""
    path = folder / "troth.db"
    path.touch(mode=0o600)
    database = sqlite3.connect(path)
    database.executescript(version.read_text(encoding="utf-8"))
    database.close()
    return path


def read_frozen(path: Path) -> Frozen:
    """All tables of a version with their rows, what is referred to first."""
    database = sqlite3.connect(path)
    names = [
        name
        for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        if name not in ("alembic_version", "sqlite_sequence")
    ]
    order = [table.name for table in metadata.sorted_tables]
    found: Frozen = {}
    for name in sorted(names, key=order.index):
        columns = list(database.execute(f"SELECT name, type, pk FROM pragma_table_info('{name}')"))
        kinds = {c: KINDS.get(kind.split("(")[0], "text") for c, kind, _ in columns}
        key = [c for c, _, place in sorted(columns, key=lambda column: column[2]) if place]
        rows = database.execute(f'SELECT * FROM "{name}" ORDER BY {", ".join(key)}').fetchall()
        plain = [
            tuple(
                bool(cell) if kind == "bool" and cell is not None else cell
                for cell, kind in zip(row, kinds.values(), strict=True)
            )
            for row in rows
        ]
        found[name] = Shape(name=name, columns=kinds, key=key, rows=len(rows)), plain
    database.close()
    return found


def build(engine: str, version: Path, folder: Path) -> tuple[str, Frozen]:
    """The URL of a database as the version left it on that engine, and what is in it."""
    path = load(version, folder)
    frozen = read_frozen(path)
    if engine == "sqlite":
        return f"sqlite:///{path}", frozen
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    url = cluster.create_database()
    link = open_database(url).begin_migration()
    upgrade_connection(link.connection, version.name[:4])
    for shape, rows in frozen.values():
        write_rows(link.connection, shape, rows)
    write_next_id(link.connection, frozen["journal"][0].rows)
    link.commit()
    link.close()
    return url, frozen


def test_the_first_version_is_there_and_all_are_known() -> None:
    names = [version.name[:4] for version in VERSIONS]
    assert names[0] == "0001"
    assert max(names) <= HEAD


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name[:4])
def test_a_frozen_version_has_rows_in_every_table(version: Path, tmp_path: Path) -> None:
    frozen = read_frozen(load(version, tmp_path))
    assert {name for name, (_, rows) in frozen.items() if not rows} <= WITHOUT_ROWS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name[:4])
def test_an_upgrade_keeps_every_value_and_serves_it(
    version: Path, engine: str, tmp_path: Path
) -> None:
    url, frozen = build(engine, version, tmp_path)
    open_store(url, clock=VirtualClock()).close()
    link = open_database(url).open_link()
    try:
        assert read_revision(link.connection) == HEAD
        for name, (shape, rows) in frozen.items():
            assert [row for part in read_rows(link.connection, shape) for row in part] == rows, name
    finally:
        link.close()
    # Those of access tokens came later: where they are new, they have no successors yet.
    uses = {row[1] for row in frozen["authorities"][1]}
    asyncio.run(_serve(url, tmp_path, len(uses)))


async def _serve(url: str, folder: Path, prepared: int) -> None:
    clock = VirtualClock()
    clock.advance(SPAN + timedelta(minutes=1))
    async with open_house(folder, 9, url=url, clock=clock, keystore=NamedKeystore()) as house:
        await house.settle()
        await _check_identities(house)
        nodes = (await house.call("node.ls", ListNodes())).items
        assert {node.name for node in nodes} == {"local", "edge"}
        states = [a.state for a in (await house.call("authority.ls", ListAuthorities())).items]
        assert sorted(states) == ["active"] * 3 + ["prepared"] * prepared
        (copy,) = (await house.call("instance.ls", ListInstances(name="api"))).items
        assert copy.locked
        story = (await house.call("journal.ls", ListJournal(limit=1000))).items
        assert [entry.position for entry in story] == list(range(1, len(story) + 1))
        made = await house.register("new", selectors=["unix:uid:1009"])
        node = await house.join("third")
        (issued,) = await house.issue(node, made.id, selectors=["unix:uid:1009"])
        assert issued.error.code == "permission_denied"  # it is registered for another node
        (issued,) = await house.issue(await house.join(), made.id, selectors=["unix:uid:1009"])
        assert issued.serial
        again = (await house.call("journal.ls", ListJournal(limit=1000))).items
        assert again[: len(story)] == story


async def _check_identities(house: FakeHouse) -> None:
    listed = (await house.call("identity.ls", ListIdentities())).items
    states = {item.name: item.state for item in listed}
    assert (states["api"], states["bad"]) == ("active", "quarantined")
    found = await house.call("identity.show", NameIdentity(name="api"))
    assert (found.labels, found.hint) == ({"env": "prod", "size": "L"}, "internal")
    assert found.purpose == "Größe \U0001f511"
    assert house.parts.snapshot.find_cut_off("spiffe://example.org/bad") is State.QUARANTINED
