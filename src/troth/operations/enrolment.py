"""Enrolment codes: made once, shown once, stored hashed, good for one key.

A code is 16 random bytes and a check of 12 bits, in Crockford's base 32: 28 characters that can be
read out and typed, in upper or lower case, with or without hyphens. A slip of the finger is told
from a wrong code without a look at the store. 128 random bits need no salt and can't be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, Refused
from troth.core.ids import CodeId
from troth.identity.identity import Identity, Kind, State
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.operations.single_use import Permission
from troth.operations.target import target_of
from troth.store.engine import Store
from troth.store.records import EnrolmentCode
from troth.store.transaction import Transaction
from troth.wire.api import devices as wire

REMEDY = "make a new one with `troth device invite NAME`."
CODE = Permission("enrolment code", REMEDY)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""https://www.crockford.com/base32.html: no I, L, O or U."""
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
_RANDOM_BYTES = 16
_CHECK_BITS = 12
_SYMBOLS = 28
_GROUP = 4
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class InviteDevices:
    """``device.invite``: one-time enrolment codes, as many as there are names."""

    store: Store
    clock: Clock
    entropy: Entropy

    async def __call__(self, call: Call[wire.InviteDevices]) -> wire.DevicesInvited:
        """The codes in clear, this once; all of them or none. `Refused` for what is no device."""
        now, body = self.clock.now(), call.body
        ends = now + timedelta(seconds=body.ttl)
        made = [(name, self.entropy.token(_RANDOM_BYTES)) for name in body.names]

        def invite(tx: Transaction) -> None:
            known = {name: _require_device(tx, call, name) for name in dict.fromkeys(body.names)}
            records = []
            for name, secret in made:
                code_id, secret_hash = hash_code(secret)
                identity = known[name]
                records.append(
                    EnrolmentCode(
                        code_id, secret_hash, identity.id, call.caller.principal, now, ends
                    )
                )
                record_event(
                    tx,
                    call,
                    "device.invited",
                    str(identity.spiffe_id),
                    now,
                    id=code_id,
                    identity=name,
                    expires_at=ends.isoformat(),
                )
            tx.enrolment_codes.add_all(records)

        await self.store.transact(invite)
        codes = [
            wire.EnrolmentCode(id=hash_code(secret)[0], name=name, code=render_code(secret))
            for name, secret in made
        ]
        return wire.DevicesInvited(codes=codes, expires_at=ends)


def _require_device(tx: Transaction, call: Call[wire.InviteDevices], name: str) -> Identity:
    identity = tx.identities.get_named(name)
    call.gate.check(target_of(identity))
    require_kind(identity)
    if identity.state not in (State.PROPOSED, State.ACTIVE):
        raise Refused(f"'{name}' is {identity.state.value}: no device could enrol as it now.")
    return identity


def require_kind(identity: Identity) -> None:
    """Raise `Refused` unless the identity is a device's: nothing else enrols without an agent."""
    if identity.kind is not Kind.DEVICE:
        raise Refused(
            f"'{identity.name}' is a {identity.kind.value}, and only a device enrols without an "
            "agent. Register an identity with the kind device."
        )


def render_code(secret: bytes) -> str:
    """``7ZK4-…``: seven groups of four."""
    number = (int.from_bytes(secret, "big") << _CHECK_BITS) | _check(secret)
    symbols = [_ALPHABET[number >> shift & 31] for shift in range(5 * (_SYMBOLS - 1), -1, -5)]
    text = "".join(symbols)
    return "-".join(text[start : start + _GROUP] for start in range(0, _SYMBOLS, _GROUP))


def parse_code(text: str) -> bytes:
    """The secret of a code as somebody typed it; `Invalid` if it can't be one."""
    if len(text) > _LONGEST:
        raise Invalid(f"An enrolment code has {_SYMBOLS} letters and digits, not {len(text)}.")
    symbols = text.strip().upper().translate(_READ_AS)
    number = 0
    for symbol in symbols:
        value = _ALPHABET.find(symbol)
        if value < 0:
            raise Invalid(
                "That isn't an enrolment code: it has letters and digits alone, and no U."
            )
        number = number << 5 | value
    if len(symbols) != _SYMBOLS:
        raise Invalid(f"An enrolment code has {_SYMBOLS} letters and digits, not {len(symbols)}.")
    secret = (number >> _CHECK_BITS).to_bytes(_RANDOM_BYTES, "big")
    if number & ((1 << _CHECK_BITS) - 1) != _check(secret):
        raise Invalid("The enrolment code was mistyped: its check doesn't fit. Compare it again.")
    return secret


def _check(secret: bytes) -> int:
    digest = hashlib.sha256(b"troth enrolment code check\0" + secret).digest()
    return int.from_bytes(digest[:2], "big") >> 4


def hash_code(secret: bytes) -> tuple[CodeId, str]:
    """The id under which a code is stored, and the hash that proves it: two independent hashes."""
    name = hashlib.sha256(b"troth enrolment code id\0" + secret).hexdigest()[:24]
    return CodeId(f"enc_{name}"), hashlib.sha256(b"troth enrolment code\0" + secret).hexdigest()


def find_code(tx: Transaction, secret: bytes) -> EnrolmentCode | None:
    """The code of this secret, in whatever state, or None if there is no such code."""
    code_id, secret_hash = hash_code(secret)
    found = tx.enrolment_codes.find(code_id)
    if found is None or not hmac.compare_digest(found.secret_hash, secret_hash):
        return None
    return found


def take_code(tx: Transaction, code: EnrolmentCode, key_hash: str, now: datetime) -> bool:
    """Use a code up for a key; whether this was its first use. Raises as `CODE.check` does."""
    return CODE.use(
        code, key_hash, now, lambda until: tx.enrolment_codes.take(code.id, now, key_hash, until)
    )
