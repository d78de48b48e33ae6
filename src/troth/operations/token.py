"""Join tokens: made once, shown once, stored hashed, good for one key."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, Refused
from troth.core.ids import NodeId, TokenId, new_id
from troth.identity.x509pop import NAME_PREFIX
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.operations.single_use import Permission
from troth.store.engine import Store
from troth.store.records import JoinToken
from troth.store.transaction import Transaction
from troth.wire.api import nodes as wire

PREFIX = "troth-join"
SECRET_SIZE = 32
REMEDY = "make a new one with `troth token join --node NAME`."
TOKEN = Permission("join token", REMEDY)


@dataclass(frozen=True, slots=True)
class CreateJoinToken:
    """``token.join``: a one-time token for one node name."""

    store: Store
    clock: Clock
    entropy: Entropy

    async def __call__(self, call: Call[wire.CreateJoinToken]) -> wire.JoinTokenCreated:
        """The token in clear, this once; its SHA-256 is kept (256 random bits need no salt)."""
        if call.body.node.startswith(NAME_PREFIX):
            raise Invalid(
                f"Names that begin with '{NAME_PREFIX}' are kept for nodes that prove themselves "
                "by a certificate; choose another."
            )
        now = self.clock.now()
        token_id = TokenId(new_id("jtk", self.entropy))
        secret = self.entropy.token(SECRET_SIZE)
        record = JoinToken(
            id=token_id,
            secret_hash=hash_secret(secret),
            node_name=call.body.node,
            created_by=call.caller.principal,
            created_at=now,
            expires_at=now + timedelta(seconds=call.body.ttl),
            used_at=None,
            used_by=None,
        )

        def create(tx: Transaction) -> None:
            tx.join_tokens.add(record)
            record_event(
                tx,
                call,
                "token.created",
                token_id,
                now,
                node=record.node_name,
                expires_at=record.expires_at.isoformat(),
            )

        await self.store.transact(create)
        return wire.JoinTokenCreated(
            token=render_token(token_id, secret),
            node=record.node_name,
            expires_at=record.expires_at,
        )


def render_token(token_id: TokenId, secret: bytes) -> str:
    """``troth-join.<id>.<secret>``: the id finds the record, the secret proves the bearer."""
    return f"{PREFIX}.{token_id}.{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def parse_token(text: str) -> tuple[TokenId, bytes]:
    """Id and secret; raises `Invalid` if `text` is not a whole join token."""
    parts = text.strip().split(".")
    problem = Invalid(f"This is not a whole join token; {REMEDY}")
    if len(parts) != 3 or parts[0] != PREFIX or not parts[1].startswith("jtk_"):
        raise problem
    try:
        secret = base64.b64decode(parts[2] + "=" * (-len(parts[2]) % 4), b"-_", validate=True)
    except ValueError:
        raise problem from None
    if len(secret) != SECRET_SIZE:
        raise problem
    return TokenId(parts[1]), secret


def find_token(
    tx: Transaction, token_id: TokenId, secret: bytes, key_hash: str, now: datetime
) -> JoinToken:
    """The token, if its bearer may use it now for the key with this hash; else `Refused`, which
    says what to do."""
    found = tx.join_tokens.find(token_id)
    if found is None or not hmac.compare_digest(found.secret_hash, hash_secret(secret)):
        raise Refused(f"This join token is not valid here; {REMEDY}")
    TOKEN.check(found, key_hash, now)
    return found


def take_token(
    tx: Transaction, token: JoinToken, key_hash: str, now: datetime, node_id: NodeId
) -> None:
    """Use a join token up, for the node that joins with this key."""

    def take(until: datetime) -> bool:
        return tx.join_tokens.take(token.id, now, key_hash, until, node_id)

    TOKEN.use(token, key_hash, now, take)


def hash_secret(secret: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(secret).hexdigest()
