"""Copies of a whole database: from any engine to any other, all or nothing, and the same."""

from __future__ import annotations

import asyncio
import io
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from tests.fakes.history import make_history
from tests.fakes.postgres import start_cluster
from tests.fakes.stores import ENGINES, NOW, make_event, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, Invalid, Refused, Unavailable
from troth.server.upkeep import move_database
from troth.store import copies, sqlite
from troth.store.copies import check_frames, export_database, import_frames, open_source
from troth.store.engine import open_database, open_store
from troth.store.postgres import PostgresLink
from troth.store.rows import list_shapes, sum_journal, sum_rows
from troth.store.schema import upgrade_connection
from troth.store.tables import journal, metadata
from troth.wire.backup import (
    Closing,
    Frame,
    Opening,
    Rows,
    SealedKey,
    Shape,
    Sum,
    Tally,
    parse_backup,
    render_backup,
)

PAIRS = list(itertools.product(ENGINES, ENGINES))


def make_empty(engine: str, folder: Path, name: str = "copy") -> str:
    """The URL of a database that holds nothing at all."""
    if engine == "sqlite":
        return f"sqlite:///{folder / name}.db"
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    return cluster.create_database()


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The URL of a database with a history, by engine; they are read only."""

    class Lazy(dict[str, str]):
        def __missing__(self, engine: str) -> str:
            folder = tmp_path_factory.mktemp(engine)
            url = make_empty(engine, folder, "troth")
            asyncio.run(make_history(folder, url))
            self[engine] = url
            return url

    return Lazy()


def ignore(table: str, done: int, total: int) -> None:
    assert 0 < done <= total, table


def take_sums(url: str) -> dict[str, Sum]:
    """The sums of all tables, and of the sealed journal, as they lie there."""
    link = open_database(url).open_link()
    try:
        shapes = list_shapes(link.connection)
        sums = {shape.name: sum_rows(link.connection, shape) for shape in shapes}
        (journal,) = (shape for shape in shapes if shape.name == "journal")
        return sums | {"sealed": sum_journal(link.connection, journal)}
    finally:
        link.close()


def export(url: str) -> list[Frame]:
    return list(export_database(open_database(url), NOW, lambda: ()))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_copy_is_the_same_on_every_engine(
    source: str, target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    url = make_empty(target, tmp_path)
    told: list[str] = []
    file = io.BytesIO(b"".join(render_backup(export(histories[source]))))
    frames = parse_backup(file.read)
    import_frames(open_database(url), frames, lambda table, done, total: told.append(table))
    before, after = take_sums(histories[source]), take_sums(url)
    assert after == before
    if source == "postgresql":  # some wait to be sealed: a file has nothing that does
        assert 0 < after["sealed"].count < after["journal"].count
    assert set(told) == metadata.tables.keys() - {"leases"}, "every table has a row to prove it"


@pytest.mark.parametrize("target", ENGINES)
def test_a_copy_is_served_and_its_journal_goes_on(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    url = make_empty(target, tmp_path)
    import_frames(open_database(url), export(histories["sqlite"]), ignore)
    old, new = (open_store(u, clock=VirtualClock(NOW)) for u in (histories["sqlite"], url))
    try:
        story = read(old, lambda tx: tx.journal.after(0, 1000))
        assert read(new, lambda tx: tx.journal.after(0, 1000)) == story
        assert read(new, lambda tx: tx.identities.page()) == read(
            old, lambda tx: tx.identities.page()
        )
        transact(new, lambda tx: tx.journal.append(make_event(2)))
        transact(new, lambda tx: tx.journal.seal(9))
        (sealed,) = read(new, lambda tx: tx.journal.after(len(story), 9))
        assert (sealed.position, sealed.event) == (len(story) + 1, make_event(2))
        assert new.shelf.get("x509-1.key") == bytes(range(256))
    finally:
        old.close()
        new.close()


@pytest.mark.parametrize("target", ENGINES)
def test_ids_of_deleted_rows_are_not_given_again(target: str, tmp_path: Path) -> None:
    url = make_empty("sqlite", tmp_path, "troth")
    store = open_store(url, clock=VirtualClock(NOW))
    transact(store, lambda tx: [tx.journal.append(make_event(n)) for n in range(5)])
    store.close()
    raw = sqlite3.connect(tmp_path / "troth.db")
    raw.execute("DELETE FROM journal WHERE id > 2")
    raw.commit()
    raw.close()
    copy = make_empty(target, tmp_path)
    import_frames(open_database(copy), export(url), lambda *_: None)
    store = open_store(copy, clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.journal.append(make_event(9)))
    query = select(journal.c.id).order_by(journal.c.id)
    assert read(store, lambda tx: list(tx.journal._session.execute(query).scalars())) == [1, 2, 6]
    store.close()


@pytest.mark.parametrize("target", ENGINES)
def test_a_database_that_holds_something_takes_no_copy(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    url = make_empty(target, tmp_path)
    frames = export(histories["sqlite"])
    import_frames(open_database(url), frames, ignore)
    before = take_sums(url)
    with pytest.raises(Conflict, match="isn't empty"):
        import_frames(open_database(url), frames, ignore)
    assert take_sums(url) == before


@pytest.mark.parametrize("target", ENGINES)
def test_a_copy_that_is_cut_short_leaves_nothing_and_can_be_made_again(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    url = make_empty(target, tmp_path)
    frames = export(histories["sqlite"])

    def cut() -> Iterator[Frame]:
        yield from frames[: len(frames) // 2]
        raise ConnectionError("power is gone")

    with pytest.raises(ConnectionError):
        import_frames(open_database(url), cut(), ignore)
    import_frames(open_database(url), frames, ignore)
    assert take_sums(url) == take_sums(histories["sqlite"])


def _without(frames: list[Frame], kind: type) -> list[Frame]:
    index = next(n for n, frame in enumerate(frames) if isinstance(frame, kind))
    return frames[:index] + frames[index + 1 :]


def _change_rows(frames: list[Frame], change: Any) -> list[Frame]:
    index = next(n for n, frame in enumerate(frames) if isinstance(frame, Rows))
    frame = frames[index]
    assert isinstance(frame, Rows)
    changed = Rows(table=frame.table, rows=change(frame.rows))
    return [*frames[:index], changed, *frames[index + 1 :]]


def _open_with(frames: list[Frame], change: Any) -> list[Frame]:
    first = frames[0]
    assert isinstance(first, Opening)
    return [replace(first, tables=change(first.tables)), *frames[1:]]


def _without_table(frames: list[Frame], name: str) -> list[Frame]:
    rest = [f for f in frames if not (isinstance(f, Rows | Sum) and f.table == name)]
    return _open_with(rest, lambda shapes: [shape for shape in shapes if shape.name != name])


def _end_with(frames: list[Frame], **next_ids: int) -> list[Frame]:
    end = frames[-1]
    assert isinstance(end, Closing)
    return [*frames[:-1], Closing(next_ids=next_ids, journal=end.journal)]


def _repeat_sum(frames: list[Frame]) -> list[Frame]:
    tally = Tally("journal")
    return [*frames[:-1], tally.finish(), frames[-1]]


FAULTS: dict[str, Any] = {
    "no tables": lambda f: _open_with([f[0], f[-1]], lambda shapes: []),
    "a table is missing": lambda f: _without_table(f, "used_proofs"),
    "no journal": lambda f: _without_table(f, "journal"),
    "another order of columns": lambda f: _open_with(
        f, lambda s: [replace(s[0], columns=dict(reversed(s[0].columns.items()))), *s[1:]]
    ),
    "another key": lambda f: _open_with(
        f, lambda s: [replace(s[0], key=list(s[0].columns)), *s[1:]]
    ),
    "a table's sum comes twice": _repeat_sum,
    "where the journal goes on is missing": lambda f: _end_with(f, other=9),
    "nothing": lambda f: [],
    "no opening": lambda f: f[1:],
    "no end": lambda f: f[:-1],
    "a table's rows are missing": lambda f: _without(f, Rows),
    "a table's sum is missing": lambda f: _without(f, Sum),
    "a row is missing": lambda f: _change_rows(f, lambda rows: rows[1:]),
    "a row comes twice": lambda f: _change_rows(f, lambda rows: [*rows, rows[0]]),
    "a cell is missing": lambda f: _change_rows(f, lambda rows: [rows[0][1:]]),
    "a cell of another kind": lambda f: _change_rows(f, lambda rows: [(7, *rows[0][1:])]),
    "a number too large": lambda f: _change_rows(f, lambda rows: [(1 << 63, *rows[0][1:])]),
    "rows of an unknown table": lambda f: [f[0], Rows(table="users", rows=[]), *f[1:]],
    "it begins twice": lambda f: [f[0], *f],
    "something after the end": lambda f: [*f, SealedKey(name="a.key", content=b"")],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_whole_is_not_kept(
    fault: str, histories: dict[str, str], tmp_path: Path
) -> None:
    frames = FAULTS[fault](export(histories["sqlite"]))
    with pytest.raises(Invalid, match="damaged"):
        check_frames(frames, lambda *_: None)
    url = make_empty("sqlite", tmp_path)
    with pytest.raises(Invalid, match="damaged"):
        import_frames(open_database(url), frames, lambda *_: None)
    import_frames(open_database(url), export(histories["sqlite"]), ignore)


@pytest.mark.parametrize("target", ENGINES)
def test_a_journal_that_would_give_ids_twice_is_not_kept(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    url = make_empty(target, tmp_path)
    frames = export(histories["sqlite"])
    with pytest.raises(Invalid, match="given twice"):
        import_frames(open_database(url), _end_with(frames, journal=1), ignore)
    import_frames(open_database(url), frames, ignore)


@pytest.mark.parametrize("target", ENGINES)
def test_a_copy_whose_rows_refer_to_nothing_is_not_kept(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    frames: list[Frame] = []
    for frame in export(histories["sqlite"]):
        if isinstance(frame, Rows) and frame.table == "identities":
            continue
        empty = isinstance(frame, Sum) and frame.table == "identities"
        frames.append(Tally("identities").finish() if empty else frame)
    with pytest.raises(Invalid, match="damaged"):
        import_frames(open_database(make_empty(target, tmp_path)), frames, lambda *_: None)


@pytest.mark.parametrize("target", ENGINES)
def test_an_older_copy_has_the_tables_of_its_time(target: str, tmp_path: Path) -> None:
    journal = Sum(table="journal", count=0, sha256=Tally("journal").finish().sha256)
    opening = Opening(schema="0001", made_at=NOW, trust_domain="", head=0, tables=[])
    end = Closing(next_ids={"journal": 0}, journal=journal)
    for without in ([], [Shape(name="journal", columns={"id": "int"}, key=["id"], rows=0)]):
        copy: list[Frame] = [replace(opening, tables=without), end]
        if without:
            copy.insert(1, journal)
        with pytest.raises(Invalid, match="tables aren't those"):
            import_frames(open_database(make_empty(target, tmp_path)), copy, ignore)


@pytest.mark.parametrize("target", ENGINES)
def test_what_comes_out_different_is_not_kept(
    target: str, histories: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_empty(target, tmp_path)
    frames = export(histories["sqlite"])
    end = frames[-1]
    assert isinstance(end, Closing)
    swapped = Sum(table="journal", count=end.journal.count, sha256="0" * 64)
    other_order = [*frames[:-1], Closing(next_ids=end.next_ids, journal=swapped)]
    with pytest.raises(Invalid, match="another order"):
        import_frames(open_database(url), other_order, ignore)
    with monkeypatch.context() as patched:
        patched.setattr(copies, "write_rows", lambda *_: None)  # a database that loses rows
        with pytest.raises(Invalid, match="came out different"):
            import_frames(open_database(url), frames, ignore)
    import_frames(open_database(url), frames, ignore)


@pytest.mark.parametrize("target", ENGINES)
def test_a_newer_troths_copy_is_refused(
    target: str, histories: dict[str, str], tmp_path: Path
) -> None:
    first, *rest = export(histories["sqlite"])
    assert isinstance(first, Opening)
    newer = Opening(
        schema="9999",
        made_at=first.made_at,
        trust_domain=first.trust_domain,
        head=first.head,
        tables=first.tables,
    )
    with pytest.raises(Refused, match="newer troth"):
        import_frames(open_database(make_empty(target, tmp_path)), [newer, *rest], ignore)


def move(source: str, target: str, progress: Any = ignore) -> None:
    move_database(source, target, VirtualClock(NOW), progress)


def connect_as_other(url: str) -> psycopg.Connection[Any]:
    """A session of another role, by another program, on the PostgreSQL database at `url`."""
    cluster = start_cluster()
    assert cluster is not None
    with psycopg.connect(url, autocommit=True) as owner:
        if not owner.execute("SELECT FROM pg_roles WHERE rolname = 'other'").fetchall():
            owner.execute("CREATE ROLE other LOGIN PASSWORD 'other'")
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    return psycopg.connect(
        host=str(cluster.directory), dbname=str(name), user="other", password="other"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_database_in_use_is_not_moved(engine: str, tmp_path: Path) -> None:
    url, target = make_empty(engine, tmp_path, "troth"), make_empty("sqlite", tmp_path)
    store = open_store(url, clock=VirtualClock(NOW))
    try:
        transact(store, lambda tx: tx.journal.append(make_event()))
        with pytest.raises(Refused, match=r"[Ss]top"):
            move(url, target)
        assert isinstance(export(url)[0], Opening)  # a backup is made all the same
    finally:
        store.close()
    move(url, target)


def test_a_session_of_another_role_is_seen(tmp_path: Path) -> None:
    url, target = make_empty("postgresql", tmp_path), make_empty("sqlite", tmp_path)
    open_store(url, clock=VirtualClock(NOW)).close()
    with connect_as_other(url), pytest.raises(Refused, match=r"as other\. Stop every server"):
        move(url, target)
    move(url, target)


@pytest.mark.parametrize("target", ENGINES)
def test_a_server_that_starts_during_a_move_is_told_so(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file whoever comes has to wait, as a server does for some seconds, until all is kept."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.0)
    for engine in ENGINES:
        url, copy = make_empty(engine, tmp_path, engine), make_empty(target, tmp_path, engine + "2")
        store = open_store(url, clock=VirtualClock(NOW))
        transact(store, lambda tx: tx.journal.append(make_event()))
        store.close()
        met: list[str] = []

        def start(
            *_: Any, url: str = url, met: list[str] = met
        ) -> None:  # as each step of the move begins, and last before the copy is kept
            with pytest.raises(Unavailable) as refusal:
                open_store(url, clock=VirtualClock(NOW))
            met.append(refusal.value.detail)

        kept = PostgresLink if target == "postgresql" else sqlite.Link
        with monkeypatch.context() as patched:
            commit = kept.commit
            patched.setattr(kept, "commit", lambda link, c=commit, s=start: (s(), c(link)))
            move(url, copy, start)
        assert len(met) >= 2
        assert ("being moved" if engine == "postgresql" else "another process") in met[-1]
        open_store(url, clock=VirtualClock(NOW)).close()
        assert take_sums(copy) == take_sums(url)


def test_who_came_during_a_move_in_spite_of_all_makes_it_refuse(tmp_path: Path) -> None:
    url, target = make_empty("postgresql", tmp_path), make_empty("sqlite", tmp_path)
    store = open_store(url, clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.journal.append(make_event()))
    store.close()
    came: list[psycopg.Connection[Any]] = []

    def come(*_: Any) -> None:
        if not came:  # with a role of its own, and without asking for the lock
            came.append(connect_as_other(url))

    with pytest.raises(Refused, match=r"Stop every server on it, whatever its role"):
        move(url, target, come)
    came[0].close()
    with pytest.raises(Refused, match="empty"):
        export(target)
    move(url, target)


def test_a_move_whose_hold_on_the_source_was_cut_keeps_nothing(tmp_path: Path) -> None:
    url, target = make_empty("postgresql", tmp_path), make_empty("sqlite", tmp_path)
    store = open_store(url, clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.journal.append(make_event()))
    store.close()
    with open_source(open_database(url), alone=True) as source:
        frames = list(source.export(NOW, lambda: ()))
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(Unavailable):
            import_frames(open_database(target), frames, ignore, lambda *_: source.check_alone())
    with pytest.raises(Refused, match="empty"):
        export(target)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_or_old_database_is_not_copied(engine: str, tmp_path: Path) -> None:
    url = make_empty(engine, tmp_path)
    database = open_database(url)
    database.create()
    with pytest.raises(Refused, match="empty"):
        export(url)
    link = database.begin_migration()
    upgrade_connection(link.connection, "0001")
    link.commit()
    link.close()
    with pytest.raises(Refused, match="Start this troth on it once"):
        export(url)
