"""An operator of NATS with one account and one user, as `nsc` makes them: JWTs signed with nkeys.

Source: NATS documentation, "Decentralized JWT Authentication"; nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
SEED = 18 << 3


def encode(content: bytes) -> str:
    checksum = binascii.crc_hqx(content, 0).to_bytes(2, "little")
    return base64.b32encode(content + checksum).decode().rstrip("=")


class Party:
    """Somebody with an nkey."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.key = Ed25519PrivateKey.generate()
        self.name = encode(bytes([kind]) + self.key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        first = bytes([SEED | self.kind >> 5, (self.kind & 31) << 3])
        return encode(first + self.key.private_bytes_raw())

    def issue(self, subject: Party, **claims: Any) -> str:
        """A token about somebody."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {
            "jti": subject.name,
            "iat": 1_767_268_800,
            "iss": self.name,
            "name": "troth",
            "sub": subject.name,
            "nats": {**claims, "version": 2},
        }
        text = ".".join(_encode(json.dumps(one).encode()) for one in (head, body))
        return f"{text}.{_encode(self.key.sign(text.encode()))}"


class NatsOperator:
    """`config` is for the server, `credentials` are the user's."""

    def __init__(self) -> None:
        operator, account, user = Party(OPERATOR), Party(ACCOUNT), Party(USER)
        system = Party(ACCOUNT)  # JetStream wants one
        names = (
            "subs data payload imports exports conn leaf mem_storage disk_storage streams consumer"
        )
        limits = dict.fromkeys(names.split(), -1)
        everything: dict[str, Any] = {"pub": {}, "sub": {}}
        tokens = "\n".join(
            f"{one.name}: "
            + operator.issue(
                one,
                type="account",
                limits={**limits, "wildcards": True} if one is account else {},
                default_permissions=everything,
            )
            for one in (account, system)
        )
        self.config = (
            f"operator: {operator.issue(operator, type='operator')}\n"
            f"system_account: {system.name}\nresolver: MEMORY\nresolver_preload: {{\n{tokens}\n}}\n"
        )
        open_ = {"subs": -1, "data": -1, "payload": -1}
        self.token = account.issue(user, type="user", **everything, **open_)
        self.seed = user.seed
        self.credentials = (
            f"-----BEGIN NATS USER JWT-----\n{self.token}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n\n"
            "*************************************************************\n"
        )


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
