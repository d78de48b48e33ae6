"""Keys of outside issuers by HTTPS: OpenID discovery, then the key set.

The URL stands in a manifest, so whoever may apply one chooses where this server asks. What can be
reached so is bounded: HTTPS alone with a verified certificate, no redirects, public addresses
alone unless the manifest says otherwise, a few seconds and a few hundred kilobytes. The address
that was looked at is the one that is connected to, so that a name can't lead elsewhere in between.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import SplitResult, urlsplit

import httpx

from troth.core.errors import Invalid, TooLarge, Unavailable
from troth.drivers.answer import read_answer, tell_reason
from troth.drivers.issuers import KeySet, Whereabouts
from troth.drivers.tls import make_context
from troth.wire.oauth.jwks import parse_discovery, parse_key_set

MAX_SIZE = 256 * 1024
"""Bytes of a document."""
SECONDS = 5.0
"""For all of it: discovery and keys."""
WELL_KNOWN = "/.well-known/openid-configuration"

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})(?![0-9])", re.ASCII | re.IGNORECASE)
_NOT_KEPT = re.compile(r"(?:^|[\s,])(no-store|no-cache)(?:$|[\s,=])", re.ASCII | re.IGNORECASE)


def open_source(seconds: float = SECONDS) -> HttpsKeySource:
    """The source; `seconds` bound each fetch."""
    return HttpsKeySource(seconds)


class HttpsKeySource:
    """See `KeySource`. Opens a connection for each fetch: there are few."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def fetch(self, where: Whereabouts) -> KeySet:
        """The keys now."""
        try:
            async with asyncio.timeout(self._seconds):
                return await _fetch(where)
        except TimeoutError as error:
            raise Unavailable(
                f"{where.url} didn't answer within {self._seconds:g} seconds."
            ) from error
        except (Invalid, TooLarge) as error:
            raise Unavailable(f"{where.url}: {error.detail}") from error
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise Unavailable(
                f"{where.url} can't be asked for its keys: {tell_reason(error)}."
            ) from error


async def _fetch(where: Whereabouts) -> KeySet:
    context = await asyncio.to_thread(make_context, pem=where.ca)
    timeout = httpx.Timeout(SECONDS)
    async with httpx.AsyncClient(
        verify=context, timeout=timeout, trust_env=False, follow_redirects=False
    ) as client:
        uri = where.jwks_uri
        if not uri:
            body, _ = await _get(client, where.url.rstrip("/") + WELL_KNOWN, where)
            uri = parse_discovery(body, where.url)
        body, control = await _get(client, uri, where)
        keys = await asyncio.to_thread(parse_key_set, body)
    return KeySet(keys, read_max_age(control))


async def _get(client: httpx.AsyncClient, url: str, where: Whereabouts) -> tuple[bytes, str]:
    """The body and the Cache-Control header of `url`."""
    parts = urlsplit(url)
    address = await _find_address(parts, where)
    request = client.build_request(
        "GET",
        _point_at(parts, address),
        headers={
            "Host": parts.netloc,
            "Accept": "application/json, application/jwk-set+json",
            "Accept-Encoding": "identity",
        },
        extensions={"sni_hostname": parts.hostname},
    )
    response = await client.send(request, stream=True)
    try:
        if response.status_code != httpx.codes.OK and not response.is_redirect:
            raise Invalid(f"It answers with status {response.status_code}.")
        body = await read_answer(response, MAX_SIZE)
        return body, response.headers.get("cache-control", "")
    finally:
        await response.aclose()


async def _find_address(parts: SplitResult, where: Whereabouts) -> str:
    """An address of the host that may be asked; `Invalid` if there is none."""
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 443
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = may_ask_private if where.private or where.ca else may_ask
    return choose_address([str(info[4][0]) for info in found], allowed)


def choose_address(found: list[str], allowed: Callable[[str], bool]) -> str:
    """The first of these addresses, if all of them may be asked."""
    if not found or not all(map(allowed, found)):
        raise Invalid(
            "Its name leads to an address that isn't on the internet: give its ca, or set "
            "privateNetwork, if it is meant to be asked there."
        )
    return found[0]


def may_ask(address: str) -> bool:
    """Whether an address is one of the internet."""
    found = _read_address(address)
    return found is not None and found.is_global and not found.is_multicast


def may_ask_private(address: str) -> bool:
    """As `may_ask`, or in a private network; but where machines find their own credentials
    (link-local, such as 169.254.169.254) nobody's keys are."""
    found = _read_address(address)
    if found is None or found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    return found.is_global or found.is_private or found in _SHARED


_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598


def _read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that is meant: what is wrapped in IPv6 counts as what it is."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        return inner or found
    return found


_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052


def _point_at(parts: SplitResult, address: str) -> str:
    """The URL with the address in the place of the name."""
    host = f"[{address}]" if ":" in address else address
    netloc = f"{host}:{parts.port}" if parts.port else host
    return parts._replace(netloc=netloc).geturl()


def read_max_age(control: str) -> timedelta | None:
    """How long an answer may be kept (RFC 9111, section 5.2.2); None if nothing is said."""
    if _NOT_KEPT.search(control):
        return timedelta(0)
    found = _MAX_AGE.search(control)
    return timedelta(seconds=int(found[1])) if found else None
