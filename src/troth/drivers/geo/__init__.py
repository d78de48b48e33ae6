"""Locators: the country of an address and the kind of network that it belongs to.

All of them answer from memory: a decision waits for nobody's service, and tells nobody who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from troth.core.address import Address

BUILT_IN: dict[str, str] = {
    "bundled": "troth.drivers.geo.bundled:open_locator",
    "table": "troth.drivers.geo.table:open_locator",
}
"""Name → ``module:factory``; loaded only when configured."""

NOWHERE = "ZZ"
"""The country of addresses that belong to none, such as private ones (a code that ISO 3166-1 leaves
to users, and CLDR uses for this)."""
NETWORKS = ("cloud", "cdn", "vpn", "tor", "bot", "private", "other")
"""Kinds of networks; `other` are those in no list, mostly homes and offices."""


@dataclass(frozen=True, slots=True)
class Place:
    """The country of an address, two capital letters, and its kind of network, one of `NETWORKS`;
    "" for what isn't known."""

    country: str = ""
    network: str = ""


class Locator(Protocol):
    """Finds places. Any thread may ask; it takes microseconds and never waits."""

    def locate(self, address: Address) -> Place:
        """Where an address is, as far as that is known."""
        ...


def load_locator(driver: str, file: Path | None) -> Locator | None:
    """The locator of that name; None for ``none``. Raises `Invalid` for data that can't be read."""
    if driver == "none":
        return None
    module, _, factory = BUILT_IN[driver].partition(":")
    make: Callable[[Path | None], Locator] = getattr(import_module(module), factory)
    return make(file)
