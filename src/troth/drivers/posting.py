"""One bounded POST, as drivers make it who talk to somebody else's server.

No redirect is followed, no proxy of the environment used, nothing decompressed, and no more read
than may be an answer; what isn't over within the time is given up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from troth import __version__
from troth.core.errors import Invalid, TooLarge, Unavailable
from troth.drivers.answer import read_answer, tell_reason
from troth.drivers.tls import make_context

LONGEST_URL = 2048
_ODD = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the media type as it stands in the header, and the whole body."""

    status: int
    media_type: str
    body: bytes


def check_url(url: str, *, query: bool = False) -> str:
    """`url` if something may be posted there; `Invalid` if not.

    It is https, or http to this very machine, where a proxy has the TLS; it holds no user and no
    fragment, and a query only where that is said. The error repeats nothing of it: what was put
    into the wrong place may be a password.
    """
    odd = Invalid("the URL must be one such as https://witness.example.net/w1.")
    if len(url) > LONGEST_URL or _ODD.search(url) or "#" in url:
        raise odd
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise odd from None
    if "@" in parts.netloc:
        raise Invalid("the URL must hold no user and no password: URLs are shown.")
    if not host or port == 0:
        raise odd
    if "?" in url and not query:
        raise Invalid("the URL must have no query: something is put at its end.")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(host)):
        raise Invalid("the URL must be https; http is for this very machine.")
    return url


def show_url(url: str) -> str:
    """A checked URL as it may be shown: its query may hold what others mustn't know."""
    return url.partition("?")[0]


@dataclass(frozen=True)
class Poster:
    """Posts to one server, which is believed if `authorities` (a PEM file; those of the system if
    None) vouch for it. `seconds` bound all of one call, `largest` the bytes of its answer."""

    url: str
    seconds: float
    largest: int
    authorities: Path | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def post(self, body: bytes, media_type: str) -> Reply:
        """The answer. `Unavailable` if there is none, or one that isn't taken; says which."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._post(body, media_type)
        except TimeoutError as error:
            raise Unavailable(f"{self.where} didn't answer in {self.seconds:g} seconds.") from error
        except (Invalid, TooLarge) as error:
            raise Unavailable(f"{self.where}: {error.detail}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            # TLS fails with an OSError; a host's name that can't be one with a UnicodeError.
            raise Unavailable(f"{self.where} can't be reached: {tell_reason(error)}.") from error

    @property
    def where(self) -> str:
        """The URL as it may be shown."""
        return show_url(self.url)

    async def _post(self, body: bytes, media_type: str) -> Reply:
        async with self._lock:  # authorities are read once
            context = await asyncio.to_thread(lambda: self._context)
        headers = {
            "Content-Type": media_type,
            "Accept-Encoding": "identity",
            "User-Agent": f"troth/{__version__}",
        }
        async with (
            httpx.AsyncClient(
                verify=context, timeout=self.seconds, trust_env=False, follow_redirects=False
            ) as client,
            client.stream("POST", self.url, content=body, headers=headers) as response,
        ):
            body = await read_answer(response, self.largest)
            return Reply(response.status_code, response.headers.get("content-type", ""), body)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return make_context(self.authorities)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
