"""What is registered for an OAuth client, as it lies in its identity's row."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from troth.identity.client import NO_CLIENT, Client, ClientKey


def write_client(client: Client) -> dict[str, Any] | None:
    """Plain JSON values; None where nothing is registered."""
    if client == NO_CLIENT:
        return None
    return {
        "keys": [[key.kid, b64encode(key.public_key).decode()] for key in client.keys],
        "certificates": [b64encode(der).decode() for der in client.certificates],
    }


def read_client(value: Any) -> Client:
    """What `write_client` wrote."""
    if value is None:
        return NO_CLIENT
    keys = tuple(ClientKey(kid, b64decode(key)) for kid, key in value["keys"])
    return Client(keys, tuple(map(b64decode, value["certificates"])))
