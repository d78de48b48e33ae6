"""The operations guide, command by command, on a real server that has workloads."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.e2e.processes import TROTH, Server, make_environ, wait_for
from tests.fakes.postgres import start_cluster
from troth.store.schema import HEAD, MIGRATIONS, upgrade_connection
from troth.store.sqlite import SqliteFile
from troth.wire.api.identities import NameIdentity

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("jq") is None, reason="jq isn't installed"),
]

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "operations.md"
AGAIN_SECONDS = 60.0
TOO_EARLY = ("try again", "later", "still", "wait", "Wait")
HURRY = """import datetime, sys
if "up" in sys.orig_argv:
    from troth.issuance import authorities
    authorities.KNOWN_AFTER = datetime.timedelta(seconds=5)
"""
"""A `sitecustomize`: no test waits the ten minutes that a new authority is published for."""
MANIFEST = """apiVersion: troth/v1
kind: Identity
metadata: {name: api}
spec: {kind: service, owner: team-tests, purpose: begins anew, selectors: ["unix:uid:1001"]}
"""


def read_commands() -> dict[str, list[str]]:
    """The commands of each section, in order."""
    sections = re.split(r"^## (.+)$", GUIDE.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        found[title] = re.findall(r"^\$ (.+)$", "\n".join(blocks), re.MULTILINE)
    return found


class Operator:
    """Somebody at a shell, whose variables last from one command to the next."""

    def __init__(self, server: Server, backups: Path, database: str) -> None:
        self.server = server
        self._backups = backups
        self._database = database
        self._options: tuple[str, ...] = ()
        self.meanwhile: Callable[[], None] | None = None
        """What is done once, as soon as the server is stopped."""
        self.variables = {"DATABASE": database}

    def work(self, commands: list[str]) -> str:
        """Run commands; what the last one printed."""
        printed = ""
        for command in commands:
            printed = self._run(command)
        return printed

    def _run(self, command: str) -> str:
        if command.startswith("systemctl "):
            self._control(command.split()[1])
            return ""
        if command.startswith("export TROTH_DATABASE_URL="):
            self._options = ("--database", self._database)
            return ""
        told = command.replace("/var/backups/troth", str(self._backups))
        told = told.replace("/var/lib/troth", str(self.server.data))
        name, sign, value = told.partition("=")
        if sign and name.isidentifier():
            self.variables[name] = self._shell(f"printf %s {value}")
            assert self.variables[name], command
            return ""
        return self._shell(told)

    def _control(self, verb: str) -> None:
        if verb == "stop":
            self.server.daemon.stop()
            if self.meanwhile is not None:
                self.meanwhile()
                self.meanwhile = None
        else:
            self.server.start(*self._options)

    def _shell(self, command: str) -> str:
        """Run it as a shell does; what says that it is too early is said again."""
        told = "".join(f"{name}={shlex.quote(text)}\n" for name, text in self.variables.items())
        environ = make_environ(TROTH_DATA=str(self.server.data), **self.server.environ)
        environ["PATH"] = f"{TROTH.parent}:{environ['PATH']}"

        def attempt() -> tuple[str] | None:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", told + command],
                capture_output=True,
                text=True,
                timeout=120,
                env=environ,
                cwd=self.server.folder,
            )
            if done.returncode == 0:
                return (done.stdout,)
            early = "authority" in command and any(word in done.stderr for word in TOO_EARLY)
            assert early, f"{command}: {done.stdout}{done.stderr}"
            return None

        return wait_for(attempt, command, AGAIN_SECONDS)[0]


def read_version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def write_as_before(path: Path) -> None:
    """Make of a stopped server's database what the version before this one would have left."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    before = ScriptDirectory.from_config(config).get_revision(HEAD).down_revision
    assert isinstance(before, str)
    older = SqliteFile(path.with_suffix(".older"))
    older.create()
    link = older.begin_migration()
    upgrade_connection(link.connection, before)
    link.commit()
    link.close()
    with closing(sqlite3.connect(path.with_suffix(".older"))) as database:
        database.execute("ATTACH ? AS newer", (str(path),))
        kept = "type = 'table' AND name NOT LIKE 'sqlite%' AND name != 'alembic_version'"
        for (table,) in database.execute(f"SELECT name FROM sqlite_schema WHERE {kept}").fetchall():
            rows = database.execute("SELECT name FROM pragma_table_info(?)", (table,))
            columns = ", ".join(f'"{name}"' for (name,) in rows)
            database.execute(
                f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM newer."{table}"'
            )
        database.commit()
    for name in (path, *path.parent.glob(f"{path.name}-*")):
        name.unlink(missing_ok=True)
    path.with_suffix(".older").rename(path)
    assert read_version(path) == before


def test_every_command_of_the_guide_works_in_its_order(lone_troth, new_machine):
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    commands = read_commands()
    assert sum(map(len, commands.values())) > 38
    backups = lone_troth.folder / "backups"
    backups.mkdir(mode=0o700)
    for server in (lone_troth, new_machine):
        server.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{server.folder}/kek"
    (lone_troth.folder / "sitecustomize.py").write_text(HURRY)
    path = f"{lone_troth.folder}:{os.environ.get('PYTHONPATH', '')}"
    lone_troth.environ["PYTHONPATH"] = path
    (lone_troth.folder / "manifests").mkdir()
    (lone_troth.folder / "manifests" / "api.yaml").write_text(MANIFEST)
    operator = Operator(lone_troth, backups, cluster.create_database())
    lone_troth.start()
    lone_troth.register("api", "unix:uid:1001")

    for title in ("Watch", "Back up"):
        operator.work(commands.pop(title))
    operator.meanwhile = lambda: write_as_before(lone_troth.data / "troth.db")
    story = lone_troth.read_journal()
    operator.work(commands.pop("Upgrade"))
    assert read_version(lone_troth.data / "troth.db") == HEAD
    assert lone_troth.read_journal()[: len(story)] == story
    drill, emergency = commands["Rotate"][:5], commands.pop("Rotate")[5:]
    for part in (drill, emergency):
        operator.work(part)
        lone_troth.wait_for_journal("authority.revoked", operator.variables["OLD"])
    assert [command for command in drill if "--force" in command] == []
    operator.work(commands.pop("When the disk is full"))

    lone_troth.stop()
    shutil.copy(lone_troth.folder / "kek", new_machine.folder / "kek")
    operator.server = new_machine
    assert "store.restored" in operator.work(commands["When the machine is lost"][:3])
    operator.work(commands.pop("When the machine is lost")[3:])

    operator.server = lone_troth
    (lone_troth.folder / "kek").unlink()
    roots = (lone_troth.data / "ca.pem").read_text()
    operator.work(commands.pop("When the key-encryption key is lost"))
    assert (lone_troth.data / "ca.pem").read_text() != roots
    assert lone_troth.call("identity.show", NameIdentity(name="api")).state == "active"

    operator.server = new_machine
    story = new_machine.read_journal()
    operator.work(commands.pop("Move to PostgreSQL"))
    assert new_machine.read_journal()[: len(story)] == story
    assert {title for title, left in commands.items() if left} == set()
