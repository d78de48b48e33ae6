"""A /proc in a temporary folder, to say things that a real kernel says only in bad moments."""

import shutil
from pathlib import Path

from troth.drivers.attestors import Peer

PID, UID, GID = 4242, 1001, 1002
PEER = Peer(PID, UID, GID)
ALL_USERS = "         0          0 4294967295\n"


class FakeProc:
    """One process that can be changed under the eyes of an attestor."""

    def __init__(self, root: Path) -> None:
        self.root = root / "proc"
        self.folder = self.root / str(PID)
        self.folder.mkdir(parents=True)
        self.program = root / "program"
        self.program.write_bytes(b"honest")
        self.write("self/uid_map", ALL_USERS)
        self.write("self/gid_map", ALL_USERS)
        self.write("sys/kernel/random/boot_id", "0f6d9b1c-1111-4222-8333-444455556666\n")
        self.set_stat()
        self.set_uid(UID)
        self.set_cgroup("0::/system.slice/payments.service\n")
        self.run(self.program)

    def write(self, name: str, text: str) -> None:
        """Write a file of the fake /proc."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def set_stat(self, name: str = "payments", state: str = "S", started: int = 777) -> None:
        """Fields 1 to 3 and 22 of the process' stat; the rest are numbers of their own."""
        fields = " ".join(str(n) for n in range(4, 22))
        self.write(f"{PID}/stat", f"{PID} ({name}) {state} {fields} {started} 23 24 25\n")

    def set_uid(self, uid: int) -> None:
        """The effective uid."""
        self.write(f"{PID}/status", f"Name:\tx\nUid:\t5\t{uid}\t6\t7\nGid:\t8\t8\t8\t8\n")

    def set_cgroup(self, text: str) -> None:
        """The process' control groups."""
        self.write(f"{PID}/cgroup", text)

    def run(self, target: Path | str) -> None:
        """What the link to the program says and leads to."""
        link = self.folder / "exe"
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def exit(self) -> None:
        """The process is gone."""
        shutil.rmtree(self.folder)
