"""What only PostgreSQL has: its URLs, its schema, who migrates."""

import threading

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from tests.fakes.postgres import start_cluster
from tests.fakes.stores import NOW, make_named, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid, Refused
from troth.store import schema
from troth.store.engine import open_store
from troth.store.postgres import PostgresServer, parse_url
from troth.store.tables import metadata

CLOCK = VirtualClock(NOW)
DEFINITIONS = """
SELECT table_name, column_name,
       concat_ws(' ', data_type, character_maximum_length, is_nullable, collation_name,
                 column_default, is_identity)
FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(pg_constraint.oid)
FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace
WHERE nspname = 'public' AND conrelid::regclass::text <> 'alembic_version'
"""


@pytest.fixture
def cluster():
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    return cluster


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT", "PGPASSWORD", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)


def _list_definitions(url):
    with psycopg.connect(url) as connection:
        return sorted(connection.execute(DEFINITIONS).fetchall())


def test_the_migrations_build_what_the_tables_say(cluster):
    url = cluster.create_database()
    open_store(url, clock=CLOCK).close()
    link = PostgresServer(parse_url(url)).open_link()
    context = MigrationContext.configure(
        link.connection, opts={"compare_type": True, "compare_server_default": True}
    )
    assert compare_metadata(context, metadata) == []
    link.close()

    made = cluster.create_database()
    engine = create_engine(made.replace("postgresql:", "postgresql+psycopg:"))
    metadata.create_all(engine)
    engine.dispose()
    migrated, wanted = _list_definitions(url), _list_definitions(made)
    assert len(wanted) > 100
    assert migrated == wanted


def test_every_indexed_text_sorts_by_its_bytes(cluster):
    url = cluster.create_database()
    store = open_store(url, clock=CLOCK)
    names = ["a-b", "aa", "ab", "B", "é"]
    for name in names:
        transact(store, lambda tx, name=name: tx.identities.add(make_named(name)))
    assert [i.name for i in read(store, lambda tx: tx.identities.page())] == sorted(names)
    store.close()
    with psycopg.connect(url) as connection:
        loose = connection.execute(
            "SELECT i.indexrelid::regclass FROM pg_index i, unnest(i.indcollation) AS c "
            "JOIN pg_collation ON pg_collation.oid = c "
            "WHERE indrelid::regclass::text <> 'alembic_version' AND collname <> 'C' "
            "AND indrelid >= 16384"
        ).fetchall()
    assert loose == []


def test_servers_that_start_at_once_migrate_once(cluster):
    url = cluster.create_database()
    failures = []
    barrier = threading.Barrier(4)

    def run():
        barrier.wait()
        try:
            open_store(url, clock=CLOCK).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_failed_migration_leaves_nothing(cluster, monkeypatch):
    url = cluster.create_database()

    def fail(connection):
        connection.exec_driver_sql("CREATE TABLE half (id int)")
        raise Refused("on purpose")

    monkeypatch.setattr(schema, "upgrade_connection", fail)
    with pytest.raises(Refused, match="on purpose"):
        open_store(url, clock=CLOCK)
    monkeypatch.undo()
    open_store(url, clock=CLOCK).close()


def test_somebody_else_s_database_is_left_alone(cluster):
    url = cluster.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE theirs (id int)")
    with pytest.raises(Invalid, match="isn't troth's"):
        open_store(url, clock=CLOCK)


def test_a_newer_troth_s_database_is_refused(cluster):
    url = cluster.create_database(cluster.migrated)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Refused, match="another version of troth"):
        open_store(url, clock=CLOCK)


def test_an_encoding_that_can_t_hold_every_name_is_refused(cluster):
    name = "latin"
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        )
    with pytest.raises(Refused, match="UTF8"):
        open_store(f"postgresql://troth@/{name}?host={cluster.directory}", clock=CLOCK)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql://u:hunter2@h",
        "postgresql://u:hunter2@h/",
        "postgresql://u:hunter2%zz@h/d",
        "postgresql://u:hunter2@h/d?nonsense=1",
        "postgresql://u:hunter2@h:port/d?x",
        "postgresql://u:hunter2@h/d%00",
    ],
)
def test_a_url_that_won_t_do_is_invalid_and_never_shown(url):
    with pytest.raises(Invalid) as caught:
        open_store(url, clock=CLOCK)
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


def test_a_password_is_in_no_repr(cluster):
    server = PostgresServer(parse_url("postgresql://u:hunter2@/d?host=/nowhere"))
    assert "hunter2" not in f"{server!r}{server._engine!r}{server._engine.url!r}"


def test_a_server_elsewhere_must_prove_itself(monkeypatch):
    far = parse_url("postgresql://u@db.example.org/d")
    assert (far["sslmode"], far["sslrootcert"]) == ("verify-full", "system")
    assert parse_url("postgresql://u@db.example.org/d?sslmode=require")["sslmode"] == "require"
    for near in ("localhost", "127.0.0.1", "[::1]", ""):
        assert "sslmode" not in parse_url(f"postgresql://u@{near}/d")
    monkeypatch.setenv("PGHOST", "db.example.org")
    assert parse_url("postgresql://u@/d")["sslmode"] == "verify-full"
    monkeypatch.setenv("PGSSLMODE", "verify-ca")
    assert "sslmode" not in parse_url("postgresql://u@/d")
