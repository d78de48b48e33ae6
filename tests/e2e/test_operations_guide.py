"""The operations guide, command by command, on a real server that has workloads."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import TROTH, Server, make_environ, wait_for
from tests.fakes.postgres import start_cluster

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("jq") is None, reason="jq isn't installed"),
]

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "operations.md"
AGAIN_SECONDS = 60.0
TOO_EARLY = ("try again", "later", "still", "wait")


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
            )
            if done.returncode == 0:
                return (done.stdout,)
            early = "authority" in command and any(word in done.stderr for word in TOO_EARLY)
            assert early, f"{command}: {done.stdout}{done.stderr}"
            return None

        return wait_for(attempt, command, AGAIN_SECONDS)[0]


def test_every_command_of_the_guide_works_in_its_order(lone_troth, new_machine):
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    commands = read_commands()
    assert sum(map(len, commands.values())) > 25
    backups = lone_troth.folder / "backups"
    backups.mkdir(mode=0o700)
    for server in (lone_troth, new_machine):
        server.environ["TROTH_KEYSTORE_KEY_ENCRYPTION_KEY"] = f"file:{server.folder}/kek"
    operator = Operator(lone_troth, backups, cluster.create_database())
    lone_troth.start()
    lone_troth.register("api", "unix:uid:1001")

    for title in ("Watch", "Back up", "Upgrade", "Rotate"):
        operator.work(commands.pop(title))
    revoked = lone_troth.wait_for_journal("authority.revoked")
    assert revoked.subject == operator.variables["OLD"]

    lone_troth.stop()
    shutil.copy(lone_troth.folder / "kek", new_machine.folder / "kek")
    operator.server = new_machine
    assert "store.restored" in operator.work(commands["When the machine is lost"][:3])
    operator.work(commands.pop("When the machine is lost")[3:])
    story = new_machine.read_journal()
    operator.work(commands.pop("Move to PostgreSQL"))
    assert new_machine.read_journal()[: len(story)] == story
    assert {title for title, left in commands.items() if left} == set()
