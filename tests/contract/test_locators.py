"""Every locator, by the same questions; and what each has of its own."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from troth.core.errors import Invalid
from troth.drivers.geo import BUILT_IN, NETWORKS, NOWHERE, Locator, Place, load_locator

TABLE = """\
# ours
8.8.8.0/24,US,cloud
8.8.8.8/32,DE,
2001:4860::/32,US,cloud
10.0.0.0/8,,vpn
1.1.1.0/24,AU,cdn
"""


def open_bundled(folder: Path) -> Locator | None:
    return load_locator("bundled", None)


def open_table(folder: Path) -> Locator | None:
    path = folder / "places.csv"
    path.write_text(TABLE)
    return load_locator("table", path)


OPENERS: dict[str, Callable[[Path], Locator | None]] = {
    "bundled": open_bundled,
    "table": open_table,
}


def test_every_built_in_is_here() -> None:
    assert set(OPENERS) == set(BUILT_IN)
    assert load_locator("none", None) is None


@pytest.fixture(params=OPENERS)
def locator(request: pytest.FixtureRequest, tmp_path: Path) -> Locator:
    made = OPENERS[request.param](tmp_path)
    assert made is not None
    return made


def test_places_have_the_form_that_rules_compare_with(locator: Locator) -> None:
    for text in ("8.8.8.1", "2001:4860:4860::8888", "1.1.1.1", "193.0.0.1", "255.255.255.255"):
        place = locator.locate(ip_address(text))
        assert place.country == "" or (len(place.country) == 2 and place.country.isupper())
        assert place.network in ("", *NETWORKS)


def test_known_addresses_have_their_country_and_network(locator: Locator) -> None:
    for text in ("8.8.8.1", "2001:4860:4860::8888"):
        assert locator.locate(ip_address(text)) == Place("US", "cloud")


def test_private_addresses_are_nowhere(locator: Locator) -> None:
    for text in ("192.168.1.1", "127.0.0.1", "::1", "fe80::1"):
        assert locator.locate(ip_address(text)) == Place(NOWHERE, "private")


def test_an_answer_is_always_the_same(locator: Locator) -> None:
    address = ip_address("8.8.8.1")
    assert locator.locate(address) == locator.locate(address)


def test_the_longest_prefix_of_a_table_counts(tmp_path: Path) -> None:
    made = open_table(tmp_path)
    assert made is not None
    assert made.locate(ip_address("8.8.8.8")) == Place("DE", "")
    assert made.locate(ip_address("10.1.2.3")) == Place("", "vpn")
    assert made.locate(ip_address("9.9.9.9")) == Place()


@pytest.mark.parametrize(
    "text",
    ["8.8.8.8/24,US,cloud", "nonsense", "8.8.8.0/24,usa", "8.8.8.0/24,de", "8.8.8.0/24,,home", "é"],
)
def test_a_table_that_is_wrong_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "places.csv"
    path.write_text(f"1.1.1.0/24,AU,cdn\n{text}\n")
    with pytest.raises(Invalid, match=r"places\.csv"):
        load_locator("table", path)


def test_files_belong_to_tables(tmp_path: Path) -> None:
    for driver, file in (("bundled", tmp_path / "x"), ("table", None), ("table", tmp_path / "x")):
        with pytest.raises(Invalid):
            load_locator(driver, file)
