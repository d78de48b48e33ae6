"""An anchor that is somebody's server: each signed note is posted there as it is."""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.errors import Unavailable
from troth.drivers.anchors import SECONDS, Place
from troth.drivers.posting import Poster, check_url

LARGEST_ANSWER = 64 << 10
MEDIA_TYPE = "text/plain; charset=utf-8"


def open_anchor(place: Place) -> HttpAnchor:
    """The anchor at a URL; `Invalid` if nothing may be posted there."""
    return HttpAnchor(Poster(check_url(place.target, query=True), SECONDS, LARGEST_ANSWER))


@dataclass(frozen=True, slots=True)
class HttpAnchor:
    """See `Anchor`. What the server answers beside its status is of no account."""

    poster: Poster

    async def deliver(self, note: bytes) -> None:
        """Post it; any status from 200 to 299 says that it is kept."""
        reply = await self.poster.post(note, MEDIA_TYPE)
        if not 200 <= reply.status < 300:
            raise Unavailable(f"{self.poster.where} answers with status {reply.status}.")
