"""Places from the data in two packages: countries as the five registries assigned them
(``iptocc``), networks as their operators publish them (``iporigin``).

A country is where a block was registered, which differs from where it is used for one address in
twenty. The data are as old as the packages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import iporigin
import iptocc

from troth.core.address import Address
from troth.core.errors import Invalid
from troth.drivers.geo import NOWHERE, Place

_NETWORKS = {
    iporigin.HOSTING: "cloud",
    iporigin.CDN: "cdn",
    iporigin.VPN: "vpn",
    iporigin.TOR: "tor",
    iporigin.BOT: "bot",
    iporigin.RESERVED: "private",
    iporigin.UNKNOWN: "other",
}


classify: Callable[[str], Any] = iporigin.classify  # it has types inside, and none here


class BundledLocator:
    """Answers from the packages' tables."""

    def locate(self, address: Address) -> Place:
        """Where an address is."""
        text = str(address)
        if not address.is_global:
            return Place(NOWHERE, "private")
        return Place(iptocc.country_code(text) or "", _NETWORKS.get(classify(text).kind, "other"))


def open_locator(file: Path | None) -> BundledLocator:
    """The locator; it takes no file. The first look loads the tables, so one is taken here."""
    if file is not None:
        raise Invalid("geo.file is for the driver 'table'; leave it out, or choose that driver.")
    classify("192.0.2.1")
    return BundledLocator()
