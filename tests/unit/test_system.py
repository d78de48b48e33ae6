"""What the tests need of the machine is looked for, and installed without starting anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TOOLS = (
    "bash",
    "cat",
    "dirname",
    "env",
    "install",
    "mkdir",
    "mktemp",
    "rm",
    "tail",
    "tar",
    "touch",
)
APT_GET = """#!/usr/bin/env bash
echo "apt-get $*" >>"$CALLS"
if [[ $1 == download ]]; then touch "${@: -1}_2_amd64.deb"; fi
"""
DPKG_DEB = """#!/usr/bin/env bash
mkdir -p usr/bin usr/sbin
echo tool >usr/bin/promtool && echo tool >usr/sbin/nginx && tar -c ./usr
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with little more than a shell; its programs are in bin/."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    return tmp_path


def add_program(machine: Path, name: str, text: str) -> None:
    path = machine / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def ensure(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{machine}/bin", "PYTHON": sys.executable, "CALLS": f"{machine}/calls"}
    return subprocess.run(
        ["bash", str(machine / "scripts" / "ensure_system.sh"), *words],
        capture_output=True,
        text=True,
        timeout=30,
        env=environ,
        cwd=machine,
    )


def test_what_is_missing_is_named_with_what_it_costs(machine):
    add_program(machine, "id", "#!/usr/bin/env bash\necho 1000\n")
    for words, more in (
        ((), set()),
        (("tests",), {"iproute2", "jq", "systemd", "prometheus", "nginx"}),
    ):
        done = ensure(machine, *words)
        assert done.returncode == 0, done.stderr
        named = dict(re.findall(r"^missing Debian package (\S+): (.+)$", done.stderr, re.MULTILINE))
        assert {"openssl", "curl"} | more <= set(named)
        assert not {"jq", "prometheus", "nginx"} - more & set(named)
        assert all(named.values())


def test_of_what_would_start_a_server_only_the_program_is_taken(machine):
    add_program(machine, "id", "#!/usr/bin/env bash\necho 0\n")
    add_program(machine, "apt-get", APT_GET)
    add_program(machine, "dpkg-deb", DPKG_DEB)
    (machine / "bin" / "initdb").symlink_to("/bin/true")  # so that nothing is written to /etc
    done = ensure(machine, "tests")
    assert (done.returncode, "missing" in done.stderr) == (0, False), done.stderr
    update, install, *downloads = (machine / "calls").read_text().splitlines()
    assert update.startswith("apt-get update")
    assert {"jq", "systemd", "curl"} <= set(install.split())
    assert not {"prometheus", "nginx"} & set(install.split())
    assert {one.split()[-1] for one in downloads} == {"prometheus", "nginx"}
    for name in ("promtool", "nginx"):
        tool = machine / ".cache" / "bin" / name
        assert tool.read_text() == "tool\n"
        assert os.access(tool, os.X_OK)
