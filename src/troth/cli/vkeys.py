"""Keys of logs and witnesses on the command line, and what is remembered of a log between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from troth.cli.secrets import replace_file
from troth.core.errors import Invalid

if TYPE_CHECKING:
    from troth.audit.note import VerifierKey
    from troth.audit.proof import Trust

LARGEST_KEYS = 64 << 10
LARGEST_PIN = 2 << 20
PIN_FORMAT = "troth-audit-pin/v1"


class _PinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    keys: list[str]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A log as it was seen last: its keys, and the signed checkpoint that was verified."""

    keys: tuple[VerifierKey, ...]
    note: bytes


def read_vkeys(
    given: Sequence[str], option: str, *, apart_from: Path | None = None
) -> tuple[VerifierKey, ...]:
    """The keys that are named as verifier keys, or as ``@FILE`` with one a line, each once.

    Wrong usage if one is none, or if a file lies in the folder `apart_from`: who altered what is
    there could have altered the key as well.
    """
    keys: dict[VerifierKey, None] = {}
    for one in given:
        path = Path(one.removeprefix("@"))
        named = one.startswith("@") or ("+" not in one and path.is_file())
        if named and apart_from is not None and path.resolve().is_relative_to(apart_from.resolve()):
            raise typer.BadParameter(
                f"{path} lies in the log that is to be verified, so it shows nothing: get the key "
                "from the log's operator in another way, or say --trust-on-first-use.",
                param_hint=option,
            )
        for line in _read_lines(path, option) if named else [one]:
            keys[_parse(line, option)] = None
    return tuple(keys)


def parse_vkeys(data: bytes) -> tuple[VerifierKey, ...]:
    """The keys that a log says are its own, one a line; those of unknown kinds are left out."""
    from troth.audit.note import parse_vkey

    keys: dict[VerifierKey, None] = {}
    for line in data[:LARGEST_KEYS].decode("utf-8", "replace").split("\n"):
        try:
            keys[parse_vkey(line.strip())] = None
        except Invalid:
            continue
    if not keys:
        raise Invalid("The log names no key of its own that can be used.")
    return tuple(keys)


def make_trust(
    keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey], quorum: int | None
) -> Trust | None:
    """What is believed beforehand; None without keys. As many witnesses as there are must have
    cosigned, unless a quorum is given. Wrong usage for what can't work together."""
    from troth.audit.proof import Trust
    from troth.audit.witness import WitnessPolicy

    if quorum is not None and not witnesses:
        raise typer.BadParameter("--quorum counts witnesses: name them with --witness.")
    if not keys:
        if witnesses:
            raise typer.BadParameter("--witness needs --key: witnesses vouch for one log's key.")
        return None
    try:
        names = {key.name for key in witnesses}
        policy = WitnessPolicy(tuple(witnesses), len(names) if quorum is None else quorum)
        return Trust(tuple(keys), policy if witnesses else None)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from error


def load_pin(path: Path) -> Pin | None:
    """What was remembered, None if nothing was yet; `Invalid` if the file is another one."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_PIN)
    except FileNotFoundError:
        return None
    return parse_pin(data, str(path))


def parse_pin(data: bytes, where: str) -> Pin:
    """The pin in these bytes; `Invalid` if there is none."""
    from troth.audit.note import parse_vkey

    try:
        found = msgspec.json.decode(data, type=_PinFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(
            f"{where} doesn't remember a log: name another file, or a new one."
        ) from error
    if found.format != PIN_FORMAT or not found.keys:
        raise Invalid(f"{where} has the format {found.format[:40]!r}, not {PIN_FORMAT!r}.")
    return Pin(tuple(map(parse_vkey, found.keys)), found.checkpoint.encode())


def save_pin(path: Path, pin: Pin) -> None:
    """Remember it, in one step."""
    keys = [key.render() for key in pin.keys]
    found = _PinFile(PIN_FORMAT, keys, pin.note.decode())
    replace_file(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n", 0o644)


def _parse(text: str, option: str) -> VerifierKey:
    from troth.audit.note import parse_vkey

    try:
        return parse_vkey(text)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint=option) from error


def _read_lines(path: Path, option: str) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_KEYS).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise typer.BadParameter(f"{path} can't be read: {reason}.", param_hint=option) from error
    lines = (line.strip() for line in text.splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise typer.BadParameter(f"There is no key in {path}.", param_hint=option)
    return found
