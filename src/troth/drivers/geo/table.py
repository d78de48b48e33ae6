"""Places from a file of one's own: ``network,country,kind``, one a line, such as
``203.0.113.0/24,DE,cloud``. The longest prefix counts; country or kind may be empty."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

from troth.core.address import Address
from troth.core.errors import Invalid
from troth.drivers.geo import NETWORKS, NOWHERE, Place

MAX_BYTES = 256 << 20
MAX_LINE = 256


class TableLocator:
    """Answers from prefixes by IP version and length, the longest first."""

    def __init__(self, places: dict[tuple[int, int], dict[int, Place]]) -> None:
        self._places = sorted(places.items(), key=lambda item: item[0][1], reverse=True)

    def locate(self, address: Address) -> Place:
        """Where an address is."""
        number, size = int(address), address.max_prefixlen
        for (version, length), found in self._places:
            if version == address.version:
                place = found.get(number >> (size - length))
                if place is not None:
                    return place
        return Place() if address.is_global else Place(NOWHERE, "private")


def open_locator(file: Path | None) -> TableLocator:
    """The locator of a file, which is read once; raises `Invalid` for the first line that isn't as
    it must be."""
    if file is None:
        raise Invalid("The geo driver 'table' needs a file: set geo.file.")
    places: dict[tuple[int, int], dict[int, Place]] = {}
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Invalid(f"{file} is larger than {MAX_BYTES >> 20} MiB.")
        with file.open(encoding="ascii", newline="") as lines:
            for number, row in enumerate(_read_rows(lines), 1):
                _add(places, row, f"{file}:{number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"The table of places {file} can't be read: {error}.") from error
    return TableLocator(places)


def _read_rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for row in csv.reader(lines):
        yield [] if row and row[0].startswith("#") else row


def _add(places: dict[tuple[int, int], dict[int, Place]], row: list[str], where: str) -> None:
    if not row:
        return
    prefix, country, kind = (*(cell.strip() for cell in row), "", "", "")[:3]
    try:
        network = ip_network(prefix)
    except ValueError as error:
        raise Invalid(f"{where}: {prefix[:64]!r} is no network: {error}.") from None
    if country and not (len(country) == 2 and country.isalpha() and country.isupper()):
        raise Invalid(f"{where}: a country is two capital letters, not {country[:16]!r}.")
    if kind and kind not in NETWORKS:
        raise Invalid(f"{where}: {kind[:16]!r} is none of {', '.join(NETWORKS)}.")
    length = network.prefixlen
    key = int(network.network_address) >> (network.max_prefixlen - length)
    places.setdefault((network.version, length), {})[key] = Place(country, kind)
