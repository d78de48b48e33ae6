"""`troth postgres rules` on a real PostgreSQL: who gets in, and what they see there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.clients import render_manifest
from tests.fakes.postgres import Cluster, find_programs
from tests.fakes.proxies import find_port, identity
from troth.sdk.svid import SvidFollower
from troth.sdk.tls import Pair
from troth.sdk.workload import WorkloadApi
from troth.wire.api.certificates import RevokeCertificate
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.pem import render_pem_certificates, render_pem_crls

pytestmark = [pytest.mark.interop, pytest.mark.e2e]
if find_programs() is None:
    pytest.skip("PostgreSQL isn't installed", allow_module_level=True)

SHOP = "spiffe://troth.local/shop/till"
OTHER = "spiffe://troth.local/stranger"
DATABASE = "shop"


@pytest.fixture(scope="module")
def troth() -> Iterator[Server]:
    with open_folder() as folder:
        server = Server(folder)
        server.write_settings("[x509]\ncommon_names = true\n")
        try:
            declare(server.start())
            yield server
        finally:
            server.stop()


def declare(troth: Server) -> None:
    program = Path(sys.executable)
    till = identity("till", program, roles=["seller"])
    till["spec"]["path"] = "/shop/till"
    documents = [
        render_manifest(
            "Resource",
            "shop-db",
            type="postgres",
            pattern=DATABASE,
            actions={"read": "See what is sold", "write": "Sell"},
        ),
        render_manifest(
            "Role", "seller", permissions=[{"resource": "shop-db", "actions": ["read"]}]
        ),
        till,
        identity("stranger", program),
        identity("database", program),
    ]
    troth.call(
        "manifest.apply",
        SubmitManifests(documents=[ManifestDocument(value=one) for one in documents]),
    )


def fetch(troth: Server, spiffe_id: str) -> Pair:
    with SvidFollower(troth.endpoint, spiffe_id=spiffe_id) as me:
        me.wait_ready()
        assert me.pair is not None
        return me.pair


def write_pair(folder: Path, name: str, pair: Pair) -> None:
    key = load_der_private_key(pair.key, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(render_pem_certificates(list(pair.chain)))
    (folder / f"{name}_key.pem").write_bytes(pem)
    (folder / f"{name}_key.pem").chmod(0o600)


def print_rules(troth: Server, part: str) -> str:
    made = run_troth(
        *("--data", troth.data, "postgres", "rules", "shop-db", "--database", DATABASE),
        *("--part", part, "--address", "127.0.0.1/32"),
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


class Database:
    """A PostgreSQL with TLS whose rules are troth's."""

    def __init__(self, troth: Server, folder: Path) -> None:
        programs = find_programs()
        assert programs is not None
        self.troth, self.port = troth, find_port()
        self.cluster = Cluster(
            programs,
            listen_addresses="127.0.0.1",
            port=str(self.port),
            ssl="on",
            ssl_cert_file="server.pem",
            ssl_key_file="server_key.pem",
            ssl_ca_file="roots.pem",
            ssl_crl_file="crl.pem",
        )
        self.data = self.cluster.directory / "data"
        pair = fetch(troth, "spiffe://troth.local/database")
        write_pair(self.data, "server", pair)
        (self.data / "roots.pem").write_bytes(render_pem_certificates(list(pair.roots)))
        self.write_crl()
        hba = self.data / "pg_hba.conf"
        hba.write_text(print_rules(troth, "hba") + hba.read_text())
        (self.data / "pg_ident.conf").write_text(print_rules(troth, "ident"))
        owner = self.data.stat()
        for path in self.data.glob("*.pem"):
            os.chown(path, owner.st_uid, owner.st_gid)
        self.folder = folder
        (folder / "roots.pem").write_bytes(render_pem_certificates(list(pair.roots)))

    def write_crl(self) -> None:
        crls = WorkloadApi(self.troth.endpoint).fetch_x509().crls
        (self.data / "crl.pem").write_bytes(render_pem_crls(list(crls)))

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        where = f"host={self.cluster.directory} port={self.port} dbname={database} user=troth"
        return psycopg.connect(where, autocommit=True)

    def connect(self, role: str, certificate: str, **more: str) -> psycopg.Connection[Any]:
        values = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "dbname": DATABASE,
            "user": role,
            "sslmode": "verify-ca",
            "sslrootcert": str(self.folder / "roots.pem"),
            "sslcert": str(self.folder / f"{certificate}.pem"),
            "sslkey": str(self.folder / f"{certificate}_key.pem"),
            **more,
        }
        return psycopg.connect(**values)  # type: ignore[arg-type]


@pytest.fixture
def database(troth: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = Database(troth, tmp_path)
    monkeypatch.setenv("PGPORT", str(made.port))  # for the programs that look whether it answers
    made.cluster.start()
    try:
        with made.admin() as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        with made.admin(DATABASE) as admin:
            admin.execute(print_rules(troth, "roles").encode())
            admin.execute(print_rules(troth, "roles").encode())  # once more
            admin.execute("CREATE SCHEMA sales; CREATE TABLE sales.goods AS SELECT 7 AS number")
            admin.execute("CREATE SCHEMA cards; CREATE TABLE cards.numbers AS SELECT 8 AS number")
            admin.execute("GRANT USAGE ON SCHEMA sales TO shop_db_read")
            admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA sales TO shop_db_read")
        for name, spiffe_id in (("till", SHOP), ("stranger", OTHER)):
            write_pair(tmp_path, name, fetch(troth, spiffe_id))
        yield made
    finally:
        made.cluster.remove()


def test_a_certificate_names_its_holder_where_that_is_wanted(troth: Server) -> None:
    leaf = x509.load_der_x509_certificate(fetch(troth, SHOP).chain[0])
    (name,) = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "shop/till"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [SHOP]


def test_the_rules_are_what_the_roles_say(troth: Server) -> None:
    assert print_rules(troth, "ident") == 'troth "CN=shop/till" shop_db_read\n'
    assert print_rules(troth, "hba").splitlines() == [
        "hostssl shop shop_db_read,shop_db_write 127.0.0.1/32 cert clientname=DN map=troth",
        "host all shop_db_read,shop_db_write all reject",
        "local all shop_db_read,shop_db_write reject",
    ]
    made = run_troth(
        "--data",
        troth.data,
        "postgres",
        "rules",
        "shop-db",
        "--database",
        "a; DROP",
        "--part",
        "hba",
    )
    assert made.returncode == 1


def test_who_may_read_sees_one_schema_and_nothing_else(database: Database) -> None:
    with database.connect("shop_db_read", "till") as connection:
        assert connection.execute("SELECT number FROM sales.goods").fetchall() == [(7,)]
        shown = connection.execute(
            "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert shown == ("/CN=shop/till",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT number FROM cards.numbers")
        connection.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO sales.goods VALUES (9)")


def test_nobody_else_gets_in_and_in_no_other_way(database: Database) -> None:
    for role, certificate, more in (
        ("shop_db_write", "till", {}),
        ("shop_db_read", "stranger", {}),
        ("troth", "till", {}),
        ("shop_db_read", "till", {"dbname": "postgres"}),
        ("shop_db_read", "till", {"sslmode": "disable"}),
        ("shop_db_read", "till", {"sslcert": "/nowhere", "sslkey": "/nowhere"}),
        ("shop_db_read", "till", {"host": str(database.cluster.directory)}),
    ):
        with pytest.raises(psycopg.OperationalError):
            database.connect(role, certificate, **more).close()


def test_a_revoked_certificate_is_refused_after_a_reload(troth: Server, database: Database) -> None:
    leaf = x509.load_pem_x509_certificate((database.folder / "till.pem").read_bytes())
    database.connect("shop_db_read", "till").close()
    serial = f"{leaf.serial_number:040x}"
    troth.call("certificate.revoke", RevokeCertificate(serial=serial, reason="a test says so"))

    def is_listed() -> bool:
        for der in WorkloadApi(troth.endpoint).fetch_x509().crls:
            found = x509.load_der_x509_crl(der)
            if found.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None:
                return True
        return False

    wait_for(is_listed, "the serial in the list")
    database.connect("shop_db_read", "till").close()  # it doesn't know yet
    database.write_crl()
    with database.admin() as admin:
        admin.execute("SELECT pg_reload_conf()")

    def is_refused() -> bool:
        try:
            database.connect("shop_db_read", "till").close()
        except psycopg.OperationalError:
            return True
        return False

    wait_for(is_refused, "the database refuses it")
