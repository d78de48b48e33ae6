"""`troth svid`: fetch and look at SVIDs, as a workload does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from troth.cli.chain import describe_chain, load_chain, next_rotation, read_certificates
from troth.cli.command import command, make_app
from troth.cli.secrets import read_token, replace_file
from troth.cli.terminal import Terminal, make_sheet, make_table, make_text
from troth.cli.words import clean_text, count_noun, describe_time
from troth.core.errors import Internal, Unavailable
from troth.core.x509 import UNREADABLE
from troth.sdk.workload import FetchedSvid, WorkloadApi, X509Update

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

app = make_app("Fetch and look at SVIDs, as a workload does.")

RETRY_SECONDS = 1.0
PATIENCE = 60
"""How many times in a row a lost agent is tried again; one that never answered isn't."""

COLUMNS = ("SPIFFE ID", "EXPIRES", "ROTATES", "SERIAL", "HINT")

AudienceOption = Annotated[
    list[str] | None,
    typer.Option(help="Fetch a JWT-SVID for this audience instead; again for more."),
]


@command(
    app,
    "fetch",
    example="troth svid fetch --write /run/payments\ntroth svid fetch --audience orders-api",
)
def fetch(
    terminal: Terminal,
    audience: AudienceOption = None,
    spiffe_id: Annotated[str, typer.Option(help="Only this identity's (JWT-SVIDs).")] = "",
    write: Annotated[
        Path | None,
        typer.Option(help="Write svid.N.pem, svid.N.key, bundle.N.pem there.", metavar="DIR"),
    ] = None,
) -> None:
    """Fetch what the agent gives to this process: X.509-SVIDs, or JWT-SVIDs with --audience.

    Private keys are written to files that only you can read, and never printed.
    """
    api = WorkloadApi(terminal.options.workload_socket)
    if audience and write:
        raise typer.BadParameter("--audience and --write don't go together.", param_hint="--write")
    if audience:
        tokens = api.fetch_jwt(tuple(audience), spiffe_id)
        values = [{"spiffe_id": t.spiffe_id, "token": t.token, "hint": t.hint} for t in tokens]
        terminal.show({"svids": values}, lambda: [token.token for token in tokens])
        return
    update = api.fetch_x509()
    files = write_svids(write, update) if write else []
    value = {**view_update(update), "files": [str(path) for path in files]}
    terminal.show(value, lambda: _paint_update(update, terminal.now()))
    if files:
        terminal.say(f"Written: {', '.join(path.name for path in files)} in {write}.")


@command(app, "show", example="troth svid show /run/payments/svid.0.pem")
def show(
    terminal: Terminal,
    files: Annotated[
        list[Path], typer.Argument(help="PEM or DER files.", metavar="FILE…", show_default=False)
    ],
) -> None:
    """Show what certificates in files say: SPIFFE ID, validity, chain."""
    now = terminal.now()
    found = [(path, describe_chain(read_certificates(path))) for path in files]
    value = {
        "files": [
            {"file": str(path), "certificates": [_view_words(words) for words in chain]}
            for path, chain in found
        ]
    }

    def paint() -> list[RenderableType]:
        parts: list[RenderableType] = []
        for path, chain in found:
            for index, words in enumerate(chain):
                parts.append(make_text((f"{path} [{index}]", "bold underline")))
                parts.append(make_sheet(words.list_fields(now)))
        return parts

    terminal.show(value, paint)


@command(app, "watch", example="troth svid watch --json", streaming=True)
def watch(terminal: Terminal) -> None:
    """Follow this process's X.509-SVIDs: a line for each on every change, until Ctrl-C."""
    api = WorkloadApi(terminal.options.workload_socket)
    failures = PATIENCE

    def take(update: X509Update) -> None:
        nonlocal failures
        failures = 0
        _show_update(terminal, update)

    try:
        while True:
            try:
                api.watch_x509(take)
            except Unavailable as error:
                if failures >= PATIENCE:
                    raise
                failures += 1
                terminal.say(f"{clean_text(error.detail)} Connecting again.")
                threading.Event().wait(RETRY_SECONDS)
    except KeyboardInterrupt:
        return


@command(
    app,
    "validate",
    example="troth svid validate --audience orders-api - < token",
)
def validate(
    terminal: Terminal,
    token: Annotated[
        str, typer.Argument(help="The JWT-SVID, or - to read it from standard input.")
    ],
    audience: Annotated[
        str, typer.Option(help="Whom the token must be meant for (required).")
    ] = "",
) -> None:
    """Let the agent validate a JWT-SVID; exit code 1 if it doesn't hold."""
    if not audience:
        raise typer.BadParameter(
            "it is missing: whom must the token be meant for? Add --audience NAME.",
            param_hint="--audience",
        )
    if token == "-":  # noqa: S105 - the conventional name of standard input
        token = read_token(token)
    else:
        terminal.say("Every user of this machine can see that token in the process list; use -.")
    api = WorkloadApi(terminal.options.workload_socket)
    spiffe_id, claims = api.validate_jwt(audience, token)
    fields = [("SPIFFE ID", spiffe_id), *sorted((k, _show_claim(v)) for k, v in claims.items())]
    terminal.show({"spiffe_id": spiffe_id, "claims": claims}, lambda: [make_sheet(fields)])


def write_svids(folder: Path, update: X509Update) -> list[Path]:
    """Write every SVID, key and bundle, and the CRLs; a reader never sees half a file."""
    with _reading_answer():
        files = _render_files(update)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [replace_file(folder / name, *file) for name, file in files.items()]


def _render_files(update: X509Update) -> dict[str, tuple[bytes, int]]:
    """Contents and modes by name: all of them can be read, or nothing is written."""
    files: dict[str, tuple[bytes, int]] = {}
    for index, svid in enumerate(update.svids):
        files |= {
            f"svid.{index}.key": (_render_key(svid.key), 0o600),
            f"svid.{index}.pem": (_render_chain(svid.chain), 0o644),
            f"bundle.{index}.pem": (_render_chain(svid.bundle), 0o644),
        }
    if update.crls:
        files["crl.pem"] = (b"".join(_render_crl(crl) for crl in update.crls), 0o644)
    return files


def view_update(update: X509Update) -> dict[str, Any]:
    """An update as JSON values: certificates as PEM, never a private key."""
    with _reading_answer():
        svids = [_view_svid(svid) for svid in update.svids]
    return {
        "svids": svids,
        "crls": len(update.crls),
        "federated": list(update.federated),
    }


def _view_svid(svid: FetchedSvid) -> dict[str, Any]:
    leaf = load_chain(svid.chain[:1])[0]
    return {
        "spiffe_id": svid.spiffe_id,
        "hint": svid.hint,
        "serial": f"{leaf.serial_number:040x}",
        "not_before": leaf.not_valid_before_utc,
        "not_after": leaf.not_valid_after_utc,
        "chain": _render_chain(svid.chain).decode("ascii"),
        "bundle": _render_chain(svid.bundle).decode("ascii"),
    }


def _show_update(terminal: Terminal, update: X509Update) -> None:
    if terminal.json:
        terminal.show_line(view_update(update), make_text)
        return
    now = terminal.now()
    for svid in update.svids:
        terminal.show_line({}, partial(_describe_svid, svid, update, now))


def _describe_svid(svid: FetchedSvid, update: X509Update, now: datetime) -> Text:
    leaf = _read_leaf(svid)
    return make_text(
        (f"{now:%Y-%m-%d %H:%M:%S} ", "dim"),
        (svid.spiffe_id, "bold"),
        f" serial {leaf.serial_number:040x} expires "
        f"{describe_time(leaf.not_valid_after_utc, now)}, "
        f"{count_noun(len(svid.bundle), 'root')}, {count_noun(len(update.crls), 'CRL')}",
    )


def _paint_update(update: X509Update, now: datetime) -> list[RenderableType]:
    rows = []
    for svid in update.svids:
        leaf = _read_leaf(svid)
        start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        half = describe_time(next_rotation(start, end), now)
        serial = f"{leaf.serial_number:040x}"
        rows.append((svid.spiffe_id, describe_time(end, now), half, serial, svid.hint))
    return [make_table(COLUMNS, rows)]


def _view_words(words: Any) -> dict[str, Any]:
    return {name: getattr(words, name) for name in type(words).__slots__}


def _read_leaf(svid: FetchedSvid) -> x509.Certificate:
    with _reading_answer():
        return load_chain(svid.chain[:1])[0]


@contextmanager
def _reading_answer() -> Iterator[None]:
    """Raise `Internal` for certificates, lists and keys of the agent that can't be read."""
    try:
        yield
    except UNREADABLE as error:
        raise Internal(
            "The agent's answer holds a certificate, a revocation list or a key that can't be read."
        ) from error


def _render_chain(chain: tuple[bytes, ...]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in load_chain(chain))


def _render_crl(crl: bytes) -> bytes:
    return x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)


def _render_key(key: bytes) -> bytes:
    loaded = load_der_private_key(key, None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _show_claim(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
