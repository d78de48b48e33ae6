"""Keys of outside issuers over real TLS: what is asked, what is believed, what is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.jwksserver import DISCOVERY, KEYS, JwksServer, serve_keys
from tests.fakes.outsiders import Outsider
from troth.core.errors import Invalid, Unavailable
from troth.drivers.issuers import Whereabouts
from troth.drivers.issuers.https import (
    MAX_SIZE,
    choose_address,
    may_ask,
    may_ask_private,
    open_source,
    read_max_age,
)


def at_server(test: Callable[[JwksServer, Whereabouts], Awaitable[None]]) -> Callable[[Path], None]:
    """Run a test with a server that publishes one key."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with serve_keys(tmp_path) as server:
                server.publish(Outsider().jwk)
                await test(server, Whereabouts(server.url, ca=server.ca))

        asyncio.run(main())

    return run


async def refuse(where: Whereabouts, seconds: float = 5.0) -> str:
    with pytest.raises(Unavailable) as caught:
        await open_source(seconds).fetch(where)
    return caught.value.detail


@at_server
async def test_keys_come_by_way_of_the_discovery_document(
    server: JwksServer, where: Whereabouts
) -> None:
    server.publish(Outsider().jwk, **{"Cache-Control": "public, max-age=600"})
    found = await open_source().fetch(where)
    assert [key.kid for key in found.keys] == ["k1"]
    assert found.max_age == timedelta(minutes=10)
    assert server.asked == [DISCOVERY, KEYS]
    assert set(server.hosts) == {server.url.removeprefix("https://")}


@at_server
async def test_a_key_set_that_is_named_is_asked_at_once(
    server: JwksServer, where: Whereabouts
) -> None:
    found = await open_source().fetch(
        Whereabouts("https://elsewhere.example", server.url + KEYS, server.ca)
    )
    assert len(found.keys) == 1
    assert found.max_age is None
    assert server.asked == [KEYS]


@at_server
async def test_a_new_key_is_there_at_the_next_fetch(server: JwksServer, where: Whereabouts) -> None:
    source = open_source()
    await source.fetch(where)
    server.publish(Outsider(kid="k2").jwk)
    assert [key.kid for key in (await source.fetch(where)).keys] == ["k2"]


@at_server
async def test_who_isnt_certified_isnt_believed(server: JwksServer, where: Whereabouts) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in await refuse(replace(where, ca="", private=True))
    assert server.asked == []


def test_a_certificate_for_another_name_isnt_believed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve_keys(tmp_path, "elsewhere.example") as server:
            server.publish(Outsider().jwk)
            detail = await refuse(Whereabouts(server.url, ca=server.ca))
            assert "CERTIFICATE_VERIFY_FAILED" in detail
            assert server.asked == []

    asyncio.run(main())


@at_server
async def test_without_leave_no_address_of_this_network_is_asked(
    server: JwksServer, where: Whereabouts
) -> None:
    assert "isn't on the internet" in await refuse(replace(where, ca=""))
    uri = server.url + KEYS
    assert "isn't on the internet" in await refuse(Whereabouts("https://x.example", uri))
    assert server.asked == []


@at_server
async def test_a_discovery_document_leads_nowhere_that_is_forbidden(
    server: JwksServer, where: Whereabouts
) -> None:
    for uri in ("http://localhost/keys", "https://u@localhost/keys", "file:///etc/passwd", 7, ""):
        body = json.dumps({"issuer": server.url, "jwks_uri": uri}).encode()
        server.answers[DISCOVERY] = (200, {}, body)
        assert "jwks_uri" in await refuse(where)
    body = json.dumps({"issuer": server.url, "jwks_uri": "https://169.254.169.254/latest"}).encode()
    server.answers[DISCOVERY] = (200, {}, body)
    assert "isn't on the internet" in await refuse(where)


WRONG: list[tuple[str, int, dict[str, str], bytes, str]] = [
    (DISCOVERY, 404, {}, b"", "status 404"),
    (DISCOVERY, 302, {"Location": "/other"}, b"", "redirect"),
    (DISCOVERY, 200, {}, b"<html>", "no JSON"),
    (DISCOVERY, 200, {}, b"[]", "no JSON object"),
    (DISCOVERY, 200, {}, b'{"issuer": "https://other.example"}', "another issuer"),
    (DISCOVERY, 200, {}, b"[" * 100_000, "no JSON"),
    (KEYS, 500, {}, b"", "status 500"),
    (KEYS, 301, {"Location": "https://other.example/keys"}, b"", "redirect"),
    (KEYS, 200, {"Content-Encoding": "gzip"}, b"x", "content encoding"),
    (KEYS, 200, {}, b"{}", "has no keys"),
    (KEYS, 200, {}, b'{"keys": []}', "no key that could verify"),
    (KEYS, 200, {}, b'{"keys": [7, {"kty": "oct", "k": "AA"}, {}]}', "no key that could verify"),
    (KEYS, 200, {}, b'{"keys": [' + b"1," * 100 + b"1]}", "more than 100 keys"),
    (KEYS, 200, {}, b" " * (MAX_SIZE + 1), "more than 256 KiB"),
    (KEYS, 200, {}, b"\xff\xfe", "no JSON"),
]


@pytest.mark.parametrize(("path", "status", "headers", "body", "reason"), WRONG)
def test_what_is_no_key_set_is_told(
    path: str, status: int, headers: dict[str, str], body: bytes, reason: str, tmp_path: Path
) -> None:
    async def run(server: JwksServer, where: Whereabouts) -> None:
        server.answers[path] = (status, headers, body)
        assert reason in await refuse(where)

    at_server(run)(tmp_path)


@at_server
async def test_who_is_slow_is_left(server: JwksServer, where: Whereabouts) -> None:
    server.answers[KEYS] = None
    assert "didn't answer within 0.3 seconds" in await refuse(where, 0.3)


def test_who_is_away_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve_keys(tmp_path) as server:
            where = Whereabouts(server.url, ca=server.ca)
        assert "can't be asked for its keys" in await refuse(where)
        nowhere = Whereabouts("https://nowhere.invalid", ca=server.ca)
        assert "can't be asked for its keys" in await refuse(nowhere)

    asyncio.run(main())


@at_server
async def test_keys_that_are_for_something_else_are_passed_over(
    server: JwksServer, where: Whereabouts
) -> None:
    good = Outsider().jwk
    others: list[dict[str, Any]] = [
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "ops", "key_ops": ["sign"]},
        {**good, "kid": "alg", "alg": "HS256"},
        {**good, "kid": "private", "d": "AA"},
        {**good, "kid": 7},
        {**good, "kid": "curve", "crv": "secp256k1"},
    ]
    server.publish(*others, good)
    assert [key.kid for key in (await open_source().fetch(where)).keys] == ["k1"]


INTERNET = ["8.8.8.8", "2001:4860:4860::8888"]
PRIVATE = ["10.1.2.3", "192.168.0.1", "127.0.0.1", "::1", "fd00::1", "100.64.0.1", "172.16.9.9"]
NEVER = [
    "169.254.169.254",
    "fe80::1%eth0",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "not an address",
    "",
]


def test_which_addresses_may_be_asked() -> None:
    for address in INTERNET:
        assert may_ask(address), address
        assert may_ask_private(address), address
    for address in (*PRIVATE, "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"):
        assert not may_ask(address), address
    for address in PRIVATE:
        assert may_ask_private(address), address
    for address in NEVER:
        assert not may_ask(address), address
        assert not may_ask_private(address), address


def test_one_address_that_may_not_be_asked_spoils_the_name() -> None:
    assert choose_address(INTERNET, may_ask) == INTERNET[0]
    for found in ([], [*INTERNET, "10.0.0.1"], ["10.0.0.1", *INTERNET]):
        with pytest.raises(Invalid):
            choose_address(found, may_ask)


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        ("", None),
        ("public", None),
        ("max-age=60", 60),
        ('public,Max-Age="60", must-revalidate', 60),
        ("s-maxage=60", None),
        ("no-store, max-age=60", 0),
        ("no-cache", 0),
        ("max-age=x", None),
        ("max-age=99999999999999", None),
        ("max-age=-5", None),
    ],
)
def test_cache_control_is_read(control: str, seconds: int | None) -> None:
    found = read_max_age(control)
    assert found == (None if seconds is None else timedelta(seconds=seconds))
