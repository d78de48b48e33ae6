"""Who puts load on the servers of a soak: one of each kind of client, or two."""

from __future__ import annotations

from collections.abc import Callable

from tests.soak.clients import Client, Issuer, Joiner, Rotator, TokenIssuer, Warden
from tests.soak.devices import DeviceOwner
from tests.soak.registrants import Applier, Sighter

CLIENTS: dict[str, Callable[..., Client]] = {
    "issuer-a": Issuer,
    "issuer-b": Issuer,
    "tokens": TokenIssuer,
    "warden-a": Warden,
    "warden-b": Warden,
    "joiner": Joiner,
    "rotator": Rotator,
    "devices": DeviceOwner,
    "sighter": Sighter,
    "applier": Applier,
}
