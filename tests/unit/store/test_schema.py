import re
import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, text

from tests.fakes.stores import NOW, make_event, make_instance, make_named, read, transact
from troth.core.clock import VirtualClock
from troth.core.errors import Internal, Refused
from troth.core.ids import RequestId, SpiffeId
from troth.identity.attendance import Phase
from troth.identity.identity import State
from troth.issuance.authorities import Use
from troth.store import schema
from troth.store.engine import Transaction, open_store
from troth.store.records import HolderKind, Withdrawal
from troth.store.session import Session
from troth.store.sqlite import SqliteFile
from troth.store.tables import metadata


def _open(directory):
    return open_store(f"sqlite:///{directory / 'troth.db'}", clock=VirtualClock(NOW))


def _definitions(path):
    database = sqlite3.connect(path)
    rows = database.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name != 'alembic_version'"
    ).fetchall()
    database.close()
    return {name: re.sub(r"\s+", " ", sql).replace('"', "") for name, sql in rows}


def _split(sql):
    parts = re.split(r", (?![^(]*\))", sql.strip(" )"))
    return sorted(part.strip() for part in parts)


def test_the_migrations_build_what_the_tables_say(tmp_path):
    _open(tmp_path).close()
    link = SqliteFile(tmp_path / "troth.db").open_link()
    context = MigrationContext.configure(
        link.connection, opts={"compare_type": True, "compare_server_default": True}
    )
    assert compare_metadata(context, metadata) == []
    link.close()

    made = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    metadata.create_all(made)
    made.dispose()
    migrated, wanted = _definitions(tmp_path / "troth.db"), _definitions(tmp_path / "made.db")
    assert migrated.keys() == wanted.keys()
    for name, sql in wanted.items():
        # Constraints may stand in another order, and an added column has a space less before it.
        assert _split(migrated[name]) == _split(sql), name


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_migrating_a_database_with_data_again_changes_nothing(tmp_path):
    store = _open(tmp_path)
    identity = make_named("api")
    transact(store, lambda tx: (tx.identities.add(identity), tx.journal.append(make_event())))
    store.close()

    def dump():
        database = sqlite3.connect(tmp_path / "troth.db")
        lines = list(database.iterdump())
        database.close()
        return lines

    before = dump()
    link = SqliteFile(tmp_path / "troth.db").open_link(foreign_keys=False)
    link.begin_write()
    schema.upgrade_connection(link.connection)
    link.commit()
    link.close()
    assert dump() == before
    again = _open(tmp_path)
    assert read(again, lambda tx: tx.identities.get(identity.id)) == identity
    again.close()


def test_identities_from_before_templates_are_of_none(tmp_path):
    database = SqliteFile(tmp_path / "troth.db")
    database.create()
    link = database.begin_migration()
    schema.upgrade_connection(link.connection, "0001")
    link.connection.commit()
    link.close()
    columns = "id, name, spiffe_id, kind, owner, purpose, environment, labels, selectors, nodes"
    rest = "dns_names, x509_ttl, jwt_ttl, hint, expires_at, state, state_reason, managed, revision"
    raw = sqlite3.connect(tmp_path / "troth.db")
    raw.execute(
        f"INSERT INTO identities ({columns}, {rest}, created_at, updated_at) VALUES ("
        "'idn_1', 'api', 'spiffe://example.org/api', 'service', 'o', 'p', 'prod', '{}', "
        "'[\"unix:uid:7\"]', '[\"local\"]', '[]', 1, 1, '', 9, 'active', '', 1, 1, 1, 1)"
    )
    raw.commit()
    raw.close()
    store = _open(tmp_path)
    (identity,) = read(store, lambda tx: tx.identities.page())
    assert (identity.name, identity.template) == ("api", "")
    assert read(store, lambda tx: tx.identities.count_of_template("api")) == 0
    due = read(store, lambda tx: tx.identities.due_to_expire(NOW, 9))
    assert [one.name for one in due] == ["api"]
    store.close()


def test_a_database_at_head_doesnt_load_the_migration_tool(tmp_path):
    _open(tmp_path).close()
    script = (
        "import sys\n"
        "from troth.core.clock import SystemClock\n"
        "from troth.store.engine import open_store\n"
        "open_store(sys.argv[1], clock=SystemClock()).close()\n"
        "assert 'alembic' not in sys.modules\n"
        "assert 'sqlalchemy.orm' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'troth.db'}"],
        check=True,
        timeout=30,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
    )


def test_two_that_open_a_fresh_file_at_once_migrate_it_once(tmp_path):
    stores, failures = [], []
    barrier = threading.Barrier(4)

    def run():
        barrier.wait()
        try:
            stores.append(_open(tmp_path))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        transact(store, lambda tx: tx.journal.append(make_event()))
        store.close()
    assert not failures


def test_a_failing_migration_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    _open(tmp_path).close()
    before = _definitions(tmp_path / "troth.db")

    def half(connection):
        connection.execute(text("CREATE TABLE half (a)"))
        raise Refused("stopped half-way")

    monkeypatch.setattr(schema, "HEAD", "9999")
    monkeypatch.setattr(schema, "upgrade_connection", half)
    with pytest.raises(Refused, match="half-way"):
        _open(tmp_path)
    assert _definitions(tmp_path / "troth.db") == before


def test_a_migration_that_breaks_a_reference_is_taken_back(tmp_path, monkeypatch):
    store = _open(tmp_path)
    transact(store, lambda tx: tx.identities.add(make_named("api")))
    store.close()
    monkeypatch.setattr(schema, "HEAD", "9999")
    monkeypatch.setattr(
        schema, "upgrade_connection", lambda c: c.execute(text("DELETE FROM identities"))
    )
    with pytest.raises(Internal, match="reference to nothing"):
        _open(tmp_path)
    monkeypatch.undo()
    store = _open(tmp_path)
    assert len(read(store, lambda tx: tx.identities.page())) == 1
    store.close()


def test_no_hot_query_reads_a_whole_table(tmp_path):
    store = _open(tmp_path)
    link = store._database.open_link()
    seen = []

    @event.listens_for(store._database._engine, "before_cursor_execute")
    def note(connection, cursor, statement, values, context, many):
        if not many:
            seen.append((statement, values))

    def work(tx):
        tx.identities.add(make_named("api"))
        tx.identities.find_named("api")
        tx.identities.page(after="a")
        tx.identities.page(state=State.ACTIVE, after="a")
        tx.identities.list_retired_since(NOW)
        tx.identities.list_names_at(SpiffeId.parse("spiffe://example.org/a"), 9)
        tx.identities.list_named(["api"])
        tx.identities.for_node("local")
        tx.identities.due_to_expire(NOW, 9)
        tx.identities.count_of_template("batch")
        tx.identities.page(template="batch")
        tx.identities.page(unattended_since=NOW)
        tx.identities.find_intruder("spiffe://example.org/batch", "batch", "batch")
        tx.identities.list_held_on("local", [State.QUARANTINED, State.SUSPENDED])
        tx.templates.find("batch")
        tx.templates.find_owner(frozenset({"/a", "/b"}))
        tx.instances.list_locked_identities(["idn_api"])
        tx.sightings.find("idn_api")
        tx.sightings.find_latest("batch", "ab")
        tx.sightings.due(NOW, 9)
        tx.sightings.count_since("nod_1", NOW)
        tx.sightings.count_in(Phase.EXPIRED)
        tx.sightings.list_in(Phase.EXPIRED, 9)
        tx.instances.upsert(make_instance())
        tx.instances.touch(["ins_1"], NOW)
        tx.instances.locked_for_node("nod_1")
        tx.instances.last_seen_by_identity(["idn_api"])
        tx.instances.purge(NOW, 9)
        tx.nodes.find_named("local")
        tx.nodes.page(after="a")
        tx.join_tokens.purge(NOW)
        tx.authorities.find_active(Use.X509)
        tx.certificates.revoke_for_identity("idn_api", NOW, "x")
        tx.certificates.revoke_for_instance("ins_1", NOW, "x")
        tx.certificates.revoke_for_node("nod_1", NOW, "x")
        tx.certificates.revoke_nodes_own("nod_1", NOW, "x")
        tx.certificates.holds_more(HolderKind.IDENTITY, "idn_api", NOW, 9)
        tx.certificates.holds_more(HolderKind.NODE, "nod_1", NOW, 9)
        for holder, kind in (("idn_api", HolderKind.IDENTITY), ("nod_1", HolderKind.NODE)):
            due = Withdrawal(holder, kind, "s", "x", "uid:0", "", RequestId("req_1"), NOW, NOW)
            tx.withdrawals.add(due)
            tx.withdrawals.advance(holder, NOW)
            tx.certificates.revoke_batch(due, NOW, 9)
            tx.withdrawals.end(holder)
        tx.leases.is_taken("crl.publish", "server", NOW)
        tx.certificates.revoked("aut_1", NOW)
        tx.certificates.interrupted(NOW, 9)
        tx.certificates.of_identity("idn_api", NOW)
        tx.certificates.has_living("aut_1", NOW)
        tx.certificates.last_end("aut_1", NOW)
        tx.certificates.count_unreplaced("aut_1", NOW)
        tx.certificates.purge_expired(NOW, 9)
        tx.jwt_svids.interrupted(NOW, 9)
        tx.jwt_svids.has_living("aut_1", NOW)
        tx.jwt_svids.last_end("aut_1", NOW)
        tx.jwt_svids.count_living("aut_1", NOW)
        tx.jwt_svids.purge(NOW, 9)
        tx.crls.latest("aut_1")
        tx.crls.latest_times("aut_1")
        tx.crls.next_number("aut_1")
        tx.journal.append(make_event())
        tx.journal.seal(9)
        tx.journal.page(subject="a")
        tx.journal.page(type_prefix="authority.")
        tx.journal.last_of("authority.")
        tx.journal.after(5, 9)
        tx.journal.recent(9)
        tx.cursors.save("c", 1)

    link.begin_write()
    work(Transaction(Session(link.connection, writable=True)))
    link.rollback()
    link.close()
    store.close()
    assert len(seen) > 30
    database = sqlite3.connect(tmp_path / "troth.db")
    for statement, values in seen:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        # What a bounded subquery gives is read as a whole, and that is what it is for.
        steps = [step for step in plan if not re.match(r"SCAN (anon_|holder|\(subquery)", step)]
        whole = [step for step in steps if step.startswith("SCAN") and " INDEX " not in step]
        # Anybody may ask for the last of a type: not even its index is read as a whole. SQLite
        # calls that a search as well, without saying what for.
        if "max(journal.position)" in statement and "journal.type" in statement:
            whole = [step for step in steps if "type>?" not in step]
        assert not whole, (statement, plan)
    database.close()


def test_a_node_of_the_first_version_is_still_there_and_barred_from_nothing(tmp_path):
    (tmp_path / "troth.db").touch()
    link = SqliteFile(tmp_path / "troth.db").begin_migration()
    assert schema.read_revision(link.connection) is None
    schema.upgrade_connection(link.connection, "0001")
    link.connection.execute(
        text(
            "INSERT INTO nodes VALUES ('nod_1', 'web-1', 'spiffe://example.org/troth/node/web-1',"
            " 'active', 'join_token', 0, '00', 1, 0)"
        )
    )
    link.commit()
    link.close()
    store = _open(tmp_path)
    node = read(store, lambda tx: tx.nodes.get_named("web-1"))
    assert (node.attestation, node.fingerprint, node.readmitted_at) == ("join_token", None, None)
    store.close()
