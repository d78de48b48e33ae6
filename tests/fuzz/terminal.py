"""What people hand the command line: tokens, and key sets that are to verify them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer
from hypothesis import strategies as st

from tests.fakes.oauth import NOW, FakeAuthorizationServer
from tests.fuzz.bearers import _sign
from tests.fuzz.harness import check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated
from troth.cli.options import Options
from troth.cli.terminal import Terminal
from troth.cli.token import decode
from troth.core.clock import VirtualClock
from troth.core.errors import TrothError

_SERVER = FakeAuthorizationServer(VirtualClock(NOW), number=3)
_TOKEN = _SERVER.issue(note="\x1b[31mred\u202e")
_TOKENS = mutated(_TOKEN.encode(), b"a.b.c.d.e") | st.builds(
    _sign,
    json_documents({"alg": "ES256", "kid": "k"}),
    json_documents({"iat": 1, "exp": 10**12, "nbf": 1e300, "x": "\x1b[2J"}),
).map(str.encode)
_KEYS = json_documents(
    {"keys": _SERVER.published}, _SERVER.published[0], {"keys": [{}, {"kty": "EC"}]}
)


@contextmanager
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@fuzz(st.tuples(_TOKENS, st.none() | _KEYS, st.booleans()), examples=120, stage=open_folder)
def fuzz_decode(found: tuple[bytes, bytes | None, bool], folder: Path) -> None:
    """Shown, or refused in a sentence; nothing of it commands the terminal."""
    text, keys, as_json = found
    (folder / "token").write_bytes(text)
    if keys is not None:
        (folder / "keys").write_bytes(keys)
    options: Any = Options(json=as_json)
    terminal = Terminal(options, VirtualClock(NOW), asks_server=False)
    shown, said = StringIO(), StringIO()
    with redirect_stdout(shown), redirect_stderr(said):
        try:
            decode(terminal, str(folder / "token"), None if keys is None else folder / "keys")
        except TrothError as error:
            check_refusal(error)
            return
        except typer.Exit:
            pass  # what it says of the token stands on standard error
    assert shown.getvalue()
    written = shown.getvalue() + said.getvalue()
    assert not set(written) & set("\x1b\x07" if as_json else "\x1b\x07\u202e\x9b")
