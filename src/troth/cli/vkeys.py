"""Keys of logs and witnesses on the command line, and what is remembered of a log between runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from troth.cli.secrets import replace_file
from troth.core.errors import Invalid

if TYPE_CHECKING:
    from troth.audit.note import VerifierKey
    from troth.audit.pin import Pin
    from troth.audit.proof import Trust

LARGEST_KEYS = 64 << 10
LARGEST_PIN = 2 << 20


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
        named = one.startswith("@") or ("+" not in one and os.path.isfile(path))
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
    """What was remembered of a log, None if nothing was yet; `Invalid` if the file is another."""
    from troth.audit.pin import read_pin

    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_PIN)
    except FileNotFoundError:
        return None
    try:
        return read_pin(data)
    except Invalid as error:
        raise Invalid(f"{path} remembers no log: {error.detail} Name another file.") from error


def save_pin(path: Path, keys: Sequence[VerifierKey], note: bytes) -> None:
    """Remember a log's keys and a checkpoint that they signed, in one step."""
    from troth.audit.pin import begin_pin

    pin = begin_pin([key.render() for key in keys], note.decode())
    replace_file(path, msgspec.json.format(msgspec.json.encode(pin), indent=2) + b"\n", 0o644)


def list_keys(pin: Pin | None) -> tuple[VerifierKey, ...]:
    """The keys that were remembered."""
    return () if pin is None else parse_vkeys("\n".join(pin.keys).encode())


def _parse(text: str, option: str) -> VerifierKey:
    from troth.audit.note import parse_vkey

    try:
        return parse_vkey(text)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint=option) from error


def _read_lines(path: Path, option: str) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_KEYS + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
        raise typer.BadParameter(f"{path} can't be read: {reason}.", param_hint=option) from error
    if len(data) > LARGEST_KEYS:
        raise typer.BadParameter(
            f"{path} has more than {LARGEST_KEYS >> 10} KiB: it can't be a list of keys.",
            param_hint=option,
        )
    lines = (line.strip() for line in text.splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise typer.BadParameter(f"There is no key in {path}.", param_hint=option)
    return found
