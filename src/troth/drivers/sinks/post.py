"""Batches by HTTP POST: one connection, bounded answers, and what a refusal means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from troth.drivers.headers import check_headers
from troth.drivers.sinks import Away, Rejected, Slow, Target
from troth.drivers.sinks.place import Place
from troth.drivers.sinks.tls import make_context

LARGEST_ANSWER = 4 << 20
"""Bytes of an answer that are read."""
LONGEST_REASON = 300
"""Characters of an answer that are repeated."""
BATCH_REFUSED = frozenset({400, 413, 422})
"""Statuses that are about what was sent, and not about who sends or where."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer. `retry_after` is in seconds."""

    status: int
    body: bytes
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def describe(self) -> str:
        """Status and the beginning of the body, in one printable line."""
        text = " ".join(self.body[: 4 * LONGEST_REASON].decode("utf-8", "replace").split())
        plain = "".join(c if c.isprintable() else "?" for c in text)[:LONGEST_REASON]
        return f"{self.status}: {plain}" if plain else str(self.status)


class Poster:
    """Posts to one place. Proxies of the environment and redirections aren't followed: what is sent
    is for this receiver alone."""

    def __init__(
        self,
        target: Target,
        place: Place,
        headers: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_headers(headers)  # one may hold a secret
        (self.where,) = place.render_hosts()
        self._base = f"{'https' if place.secure else 'http'}://{self.where}"
        self._timeout = target.timeout
        self._http = httpx.AsyncClient(
            headers={
                "user-agent": f"troth/{target.version}",
                "accept-encoding": "identity",  # a small answer could become a large one
                **headers,
            },
            verify=make_context(target) if place.secure else False,
            timeout=target.timeout,
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    async def post(self, path: str, content: bytes, media_type: str) -> Answer:
        """Post once; raises `Away` if no whole answer comes."""
        headers = {"content-type": media_type}
        try:
            async with self._http.stream(
                "POST", f"{self._base}{path}", content=content, headers=headers
            ) as found:
                body = bytearray()
                async for piece in found.aiter_raw():
                    body += piece
                    if len(body) > LARGEST_ANSWER:
                        raise Away(f"{self.where} answers without end.")
                return Answer(found.status_code, bytes(body), _read_seconds(found.headers))
        except httpx.TimeoutException as error:
            kind = Away if isinstance(error, httpx.ConnectTimeout) else Slow
            raise kind(f"{self.where} stood still for {self._timeout:g} seconds.") from error
        except httpx.HTTPError as error:
            reason = str(error)[:LONGEST_REASON] or type(error).__name__
            raise Away(f"{self.where} can't be reached, or went away: {reason}.") from error

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    def refuse(self, answer: Answer) -> Exception:
        """The error for an answer that is no success."""
        if answer.status in BATCH_REFUSED:
            return Rejected(f"{self.where} answered {answer.describe()}")
        return Away(f"{self.where} answered {answer.describe()}", answer.retry_after)


def _read_seconds(headers: httpx.Headers) -> float | None:
    """``Retry-After`` in seconds (RFC 9110, section 10.2.3); a date isn't taken."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None
