"""Where requests come from, looked up only where a rule asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from troth.core.address import Address
from troth.drivers.geo import Locator

COUNTRY = "request.country"
NETWORK = "request.network"


@dataclass(frozen=True, slots=True)
class Places:
    """Facts about addresses; without a locator there are none."""

    locator: Locator | None = None

    def find_describer(
        self, reads: Collection[str]
    ) -> Callable[[Address], Mapping[str, str]] | None:
        """What describes addresses to rules that read these facts; None if nothing need be."""
        if self.locator is None or not (COUNTRY in reads or NETWORK in reads):
            return None
        return lambda address: self.describe(address, reads)

    def describe(self, address: Address, reads: Collection[str]) -> dict[str, str]:
        """`request.country` and `request.network`, by key, if `reads` has one of them."""
        if self.locator is None or not (COUNTRY in reads or NETWORK in reads):
            return {}
        place = self.locator.locate(address)
        found = {"country": place.country, "network": place.network}
        return {key: value for key, value in found.items() if value}
