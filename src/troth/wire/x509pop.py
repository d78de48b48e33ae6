"""The evidence of an X.509 proof of possession as text: a JSON object with three members.

``chain`` is DER certificates in base64, leaf first; ``time`` whole milliseconds since 1970;
``signature`` base64. Written with the standard library alone, for machines that have little else.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from troth.core.errors import Invalid

MAX_EVIDENCE = 24 * 1024
"""Characters."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799_999
"""The last millisecond of the year 9999, where `datetime` ends."""


class Evidence(NamedTuple):
    """What is in it, not verified. `chain` is DER, leaf first."""

    chain: tuple[bytes, ...]
    at: datetime
    signature: bytes


def render_evidence(chain: Sequence[bytes], at: datetime, signature: bytes) -> str:
    """The text for a proof that was signed for the time `at`."""
    value = {
        "chain": [b64encode(der).decode() for der in chain],
        "time": (at - _EPOCH) // timedelta(milliseconds=1),
        "signature": b64encode(signature).decode(),
    }
    return json.dumps(value, separators=(",", ":"))


def parse_evidence(text: str) -> Evidence:
    """The proof in `text`; raises `Invalid` if it has not this form."""
    problem = Invalid(
        "The evidence is not an x509pop proof: a JSON object with chain, time and signature, of "
        f"at most {MAX_EVIDENCE // 1024} KiB."
    )
    if len(text) > MAX_EVIDENCE:
        raise problem
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise problem from error
    match value:
        case {"chain": [*chain], "time": int(time), "signature": signature, **rest}:
            if rest or isinstance(time, bool) or not 0 <= time <= _LATEST:
                raise problem
        case _:
            raise problem
    try:
        return Evidence(
            chain=tuple(_decode(item) for item in chain),
            at=_EPOCH + timedelta(milliseconds=time),
            signature=_decode(signature),
        )
    except ValueError as error:
        raise problem from error


def _decode(item: Any) -> bytes:
    if not isinstance(item, str):
        raise ValueError("not text")
    return b64decode(item, validate=True)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member stands there twice")
    return dict(pairs)
