"""Witnesses by HTTPS (C2SP tlog-witness, "add-checkpoint")."""

from __future__ import annotations

from dataclasses import dataclass

from troth.audit.witness import (
    LARGEST_ANSWER,
    PATH,
    Cosigned,
    Declined,
    Submission,
    parse_answer,
    render_submission,
)
from troth.core.errors import Invalid, Unavailable
from troth.drivers.posting import Poster, check_url
from troth.drivers.witnesses import Whereabouts

MEDIA_TYPE = "text/plain; charset=utf-8"


def open_witness(where: Whereabouts, seconds: float) -> HttpsWitness:
    """The witness at a URL; `Invalid` if that can't be one."""
    url = check_url(where.url).rstrip("/") + PATH
    return HttpsWitness(Poster(url, seconds, LARGEST_ANSWER, where.authorities))


@dataclass(frozen=True, slots=True)
class HttpsWitness:
    """See `Witness`. Opens a connection for each call: there are few."""

    poster: Poster

    async def add_checkpoint(self, submission: Submission) -> Cosigned | Declined:
        """Ask once."""
        reply = await self.poster.post(render_submission(submission), MEDIA_TYPE)
        try:
            return parse_answer(reply.status, reply.media_type, reply.body)
        except Invalid as error:
            raise Unavailable(f"{self.poster.where}: {error.detail}") from error
