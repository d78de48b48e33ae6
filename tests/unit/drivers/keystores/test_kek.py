"""Where the key-encryption key comes from, and every way in which it can be missing or unsafe."""

from __future__ import annotations

import base64
import os
import shlex
import stat
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from troth.core.entropy import SeededEntropy
from troth.core.errors import Invalid, TrothError, Unavailable
from troth.drivers.keystores.kek import resolve_key_encryption_key

KEY = bytes(range(32))


def _resolve(
    source: str,
    environment: Mapping[str, str] | None = None,
    create: bool = False,
    timeout_s: float = 30.0,
) -> bytes:
    return resolve_key_encryption_key(
        source,
        environment=environment or {},
        entropy=SeededEntropy(),
        create=create,
        timeout_s=timeout_s,
    )


def _python(code: str) -> str:
    return f"command:{shlex.join([sys.executable, '-S', '-c', code])}"


def _write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return f"file:{path}"


FORMS = {
    "hex": KEY.hex(),
    "upper-case hex": KEY.hex().upper(),
    "base64": base64.b64encode(KEY).decode(),
    "with a line end": KEY.hex() + "\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_from_each_source(form: str, tmp_path: Path) -> None:
    text = FORMS[form]
    assert _resolve(_write(tmp_path / "kek", text)) == KEY
    assert _resolve("env:TROTH_KEK", {"TROTH_KEK": text}) == KEY
    assert _resolve(_python(f"print({text!r}, end='')")) == KEY


def test_a_file_may_be_read_only(tmp_path: Path) -> None:
    assert _resolve(_write(tmp_path / "kek", KEY.hex(), 0o400)) == KEY


NO_KEY = {
    "empty": "",
    "a word": "secret",
    "31 bytes": KEY.hex()[:-2],
    "33 bytes": KEY.hex() + "00",
    "no hex": "zz" * 32,
    "16 bytes": base64.b64encode(KEY[:16]).decode(),
    "long": "secret " * 2000,
    "not ASCII": "ä" * 32,
}


@pytest.mark.parametrize("text", NO_KEY.values(), ids=NO_KEY)
def test_what_is_no_key_is_refused_and_never_repeated(text: str, tmp_path: Path) -> None:
    sources = [
        (_write(tmp_path / "kek", text), {}),
        ("env:TROTH_KEK", {"TROTH_KEK": text}),
        (_python(f"print({text!r})"), {"PYTHONIOENCODING": "utf-8"}),
    ]
    for source, environment in sources:
        with pytest.raises(Unavailable, match="32 bytes in hex or base64") as raised:
            _resolve(source, environment)
        told = "".join(traceback.format_exception_only(raised.value))
        assert not text or text not in told
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None


@pytest.mark.parametrize("byte", [0, 255])
def test_a_key_of_one_repeated_byte_is_refused(byte: int) -> None:
    with pytest.raises(Unavailable, match="one byte repeated"):
        _resolve("env:K", {"K": bytes([byte] * 32).hex()})


@pytest.mark.parametrize(
    "source", ["", "file", "file:", "env:", "command:", "command: ", "vault:x", KEY.hex()]
)
def test_an_unknown_source_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(Invalid, match="file:PATH, env:NAME or command:") as raised:
        _resolve(source)
    assert KEY.hex() not in raised.value.detail


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o700])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Unavailable, match="chmod 600"):
        _resolve(_write(tmp_path / "kek", KEY.hex(), mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    source = _write(tmp_path / "kek", KEY.hex())
    os.chown(tmp_path / "kek", 65534, 65534)
    with pytest.raises(Unavailable, match="chown"):
        _resolve(source)


def test_a_link_a_pipe_or_a_directory_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "kek", KEY.hex())
    (tmp_path / "link").symlink_to(tmp_path / "kek")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("link", "pipe", "folder"):
        with pytest.raises(Unavailable, match=r"Can't read|plain file"):
            _resolve(f"file:{tmp_path / name}", create=True)


def test_a_missing_file_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "data" / "kek"
    with pytest.raises(Unavailable, match="No such file"):
        _resolve(f"file:{path}")
    assert not path.parent.exists()
    made = _resolve(f"file:{path}", create=True)
    assert len(made) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["kek"]
    assert _resolve(f"file:{path}") == _resolve(f"file:{path}", create=True) == made


def test_a_file_that_is_there_is_never_made_anew(tmp_path: Path) -> None:
    source = _write(tmp_path / "kek", "damaged")
    with pytest.raises(Unavailable):
        _resolve(source, create=True)
    assert (tmp_path / "kek").read_text() == "damaged"


def test_where_a_file_cannot_be_made_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="Can't make the key-encryption key"):
        _resolve(f"file:{tmp_path / 'file' / 'kek'}", create=True)


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(Unavailable, match="variable TROTH_KEK"):
        _resolve("env:TROTH_KEK", {"OTHER": KEY.hex()})


def test_the_process_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROTH_KEK", KEY.hex())
    with pytest.raises(Unavailable):
        _resolve("env:TROTH_KEK")


def test_a_command_gets_the_given_environment_and_no_shell() -> None:
    assert _resolve(_python("import os; print(os.environ['K'])"), {"K": KEY.hex()}) == KEY
    with pytest.raises(Unavailable, match="32 bytes"):
        _resolve("command:/bin/echo $K", {"K": KEY.hex()})


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (_python("raise SystemExit(3)"), "failed with status 3"),
        ("command:/nonexistent/program", "can't start: No such file"),
        ("command:/", "can't start: Permission denied"),
    ],
)
def test_a_command_that_fails_is_told(source: str, sentence: str) -> None:
    with pytest.raises(Unavailable, match=sentence):
        _resolve(source)


def test_a_failed_command_gives_no_key_even_if_it_printed_one() -> None:
    with pytest.raises(Unavailable, match="status 1"):
        _resolve(_python(f"print('{KEY.hex()}'); raise SystemExit(1)"))


def test_an_unclosed_quote_is_a_wrong_setting() -> None:
    with pytest.raises(Invalid, match="unclosed quote"):
        _resolve("command:echo 'x")


def test_a_command_that_hangs_is_ended_with_its_children() -> None:
    """The child holds the pipe open: without ending the whole session this would wait for it."""
    code = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']).wait()"
    )
    with pytest.raises(TrothError, match=r"longer than 0\.2 seconds"):
        _resolve(_python(code), timeout_s=0.2)
