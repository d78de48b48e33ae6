"""What the machine itself says: /proc, control groups, and files that people write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from tests.fakes.procfs import PEER, PID, FakeProc
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import WILD, mutated
from troth.cli.targets import read_targets
from troth.drivers.attestors import attest_peer, cgroup, unix
from troth.identity.selectors import Selector
from troth.server.config import load_config
from troth.server.setting_words import describe_settings, name_environment

_ID = b"0f" * 32
_CGROUPS = (
    b"0::/system.slice/payments.service\n",
    b"0::/system.slice/docker-" + _ID + b".scope/init.scope\n",
    b"12:cpu:/\n1:name=systemd:/user.slice/user-1000.slice/user@1000.service/app.slice\n0::/\n",
    b"0::/kubepods/burstable/pod" + b"0" * 32 + b"/" + _ID + b"\n",
    b"0::/../../" + _ID + b" (deleted)\n",
    b"0::/docker/" + _ID + b"\n",
)


@fuzz(mutated(*_CGROUPS))
def fuzz_cgroup(data: bytes) -> None:
    """Nothing is proved that isn't there, and no more than one of each."""
    proved = [Selector.parse(text) for text in cgroup.find_selectors(data)]
    assert len({selector.key for selector in proved}) == len(proved)
    for selector in proved:
        assert selector.key in ("systemd:unit", "container:id")
        assert selector.value.encode() in data


@contextmanager
def open_proc() -> Iterator[FakeProc]:
    with TemporaryDirectory() as folder:
        yield FakeProc(Path(folder))


_FIELDS = " ".join(str(n) for n in range(4, 22))
_STAT = f"{PID} (pay ) S 1 ments) S {_FIELDS} 777 23 24 25\n".encode()
_STATUS = b"Name:\tx\nUid:\t5\t1001\t6\t7\nGid:\t8\t1002\t8\t8\nGroups:\t1 2\n"


@fuzz(
    st.fixed_dictionaries(
        {
            f"{PID}/stat": mutated(_STAT) | st.just(_STAT),
            f"{PID}/status": mutated(_STATUS) | st.just(_STATUS),
            f"{PID}/cgroup": mutated(*_CGROUPS) | st.just(_CGROUPS[0]),
        }
    ),
    examples=40,
    stage=open_proc,
)
def fuzz_proc(texts: dict[str, bytes], proc: FakeProc) -> None:
    for name, text in texts.items():
        (proc.root / name).write_bytes(text)
    settings: dict[str, Any] = {"proc": proc.root, "wait": lambda _: None, "recheck_after": 0.0}
    for attestor in (unix.open_attestor(**settings), cgroup.open_attestor(**settings)):
        answer(attest_peer, (attestor,), PEER, lambda _: None)


@contextmanager
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


_CONFIG = b"""\
trust_domain = "example.org"
origin = "https://troth.example.org:8443"
lease = 30
[listen]
public = "[::1]:8443"
mutual = "localhost:8444"
[database]
url = "sqlite:////tmp/troth.db"
[keystore]
key_encryption_key = "file:/tmp/kek"
[roles.uids]
1000 = "admin"
[roles.spiffe_ids]
"spiffe://example.org/a" = "auditor"
[ttl]
x509_default = 3600
[limits]
connections = 100
"""
_VARIABLES = [name_environment(setting.name) for setting in describe_settings()]
_VALUES = st.text(WILD, max_size=40) | st.sampled_from(
    ["9" * 5_000, "-1", "{}", '{"1000":"admin"}', "[" * 3_000, "localhost:99999", "https://["]
)


@fuzz(
    st.tuples(
        mutated(_CONFIG, b"a = 2027-06-30\n", b"a.b.c = [1, 2.5, {d = 1}]\n"),
        st.dictionaries(
            st.sampled_from(_VARIABLES) | st.just("TROTH_LISTENN_PUBLIC"), _VALUES, max_size=2
        ),
    ),
    examples=40,
    stage=open_folder,
)
def fuzz_config(found: tuple[bytes, dict[str, str]], folder: Path) -> None:
    content, environ = found
    path = folder / "troth.toml"
    path.write_bytes(content)
    variables = {name: value.replace("\0", "") for name, value in environ.items()}
    variables.pop("TROTH_CONFIG", None)
    settings = {"HOME": str(folder), **variables}
    answer(lambda: load_config(data=folder, config_file=path, environ=settings))


_TARGETS = b"""\
[[files]]
identity = "web"
directory = "/run/web"
user = "root"
group = 0
mode = "0640"
reload = {signal = "HUP", pid_file = "/run/web.pid"}
[[files]]
identity = "db"
directory = "/run/db"
user = 0
reload = {command = ["systemctl", "reload", "db"]}
"""


@fuzz(mutated(_TARGETS), stage=open_folder)
def fuzz_targets(content: bytes, folder: Path) -> None:
    path = folder / "files.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    for target in answer(read_targets, path) or ():
        assert target.directory.is_absolute()
        assert not target.mode & ~0o660
        assert "\0" not in str(target.directory)
        assert 0 <= target.gid < 2**32
