"""Searches: which subjects, resources or actions a question would be permitted for, in pages.

Source: AuthZEN 1.0, "Subject Search API", "Resource Search API", "Action Search API".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from troth.core.errors import Invalid
from troth.core.jose.jwk import decode_base64url, encode_base64url
from troth.wire.authzen.question import (
    Action,
    Entity,
    Properties,
    TypeName,
    read_json,
)

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_TOKEN = 8192


class AnyOne(Struct, frozen=True):
    """A subject or resource of which the id is what is looked for; one that is given is ignored."""

    type: TypeName
    properties: Properties = None


class Page(Struct, frozen=True):
    """Which part of the results: so many at most, after those before `token`."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None
    next_token: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


_FIRST = Page()


class _SubjectSearch(Struct, frozen=True):
    subject: AnyOne
    action: Action
    resource: Entity
    context: Properties = None
    page: Page | None = None


class _ResourceSearch(Struct, frozen=True):
    subject: Entity
    action: Action
    resource: AnyOne
    context: Properties = None
    page: Page | None = None


class _ActionSearch(Struct, frozen=True):
    subject: Entity
    resource: Entity
    context: Properties = None
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for (``subject``, ``resource`` or ``action``), of what else is known.

    Where the subject or resource is looked for, its `id` is empty; likewise the action's name.
    `after` is where the page before ended, "" for the first.
    """

    target: str
    subject: Entity
    action: Action
    resource: Entity
    context: Properties = None
    limit: int = DEFAULT_LIMIT
    after: str = ""

    @property
    def digest(self) -> str:
        """What tells a search from others: pages of one are none of another."""
        parts = (self.target, self.subject, self.action, self.resource, self.context)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]

    def start_after(self, place: str) -> Search:
        """The same search for the page that begins after `place`."""
        return replace(self, after=place)


class Found(Struct, frozen=True, omit_defaults=True):
    """One result: a subject or resource has a type and an id, an action a name."""

    type: str = ""
    id: str = ""
    name: str = ""
    properties: dict[str, str] = {}


class PageEnd(Struct, frozen=True):
    """What to pass as `token` for the next page, "" after the last; and the number of results."""

    next_token: str
    count: int


class Results(Struct, frozen=True):
    """One page of results."""

    results: list[Found]
    page: PageEnd


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "subject": msgspec.json.Decoder(_SubjectSearch),
    "resource": msgspec.json.Decoder(_ResourceSearch),
    "action": msgspec.json.Decoder(_ActionSearch),
}


def parse_search(target: str, body: bytes) -> Search:
    """The search of a request; `Invalid` if it is none, or its token is of another search."""
    return make_search(target, read_json(body, _DECODERS[target].decode))


def make_search(target: str, found: Any) -> Search:
    """The search of a request that is read."""
    page = found.page or _FIRST
    search = Search(
        target,
        found.subject if target != "subject" else _any(found.subject),
        found.action if target != "action" else Action(""),
        found.resource if target != "resource" else _any(found.resource),
        found.context,
        min(page.limit or DEFAULT_LIMIT, MAX_LIMIT),
    )
    token = page.token or page.next_token or ""
    return search.start_after(parse_token(token, search.digest)) if token else search


def _any(one: AnyOne) -> Entity:
    return Entity(one.type, "", one.properties)


def render_token(digest: str, after: str) -> str:
    """The token of the page that begins after `after`. It is no secret and gives no right: each
    page is permitted anew, and so a forged one is only another place to begin."""
    return encode_base64url(msgspec.json.encode((1, digest, after)))


def parse_token(text: str, digest: str) -> str:
    """Where the page before ended; `Invalid` for what isn't a token of this search."""
    try:
        version, made_for, after = msgspec.json.decode(
            decode_base64url(text), type=tuple[int, str, Annotated[str, Meta(max_length=4096)]]
        )
    except (Invalid, ValueError, msgspec.MsgspecError) as error:
        raise Invalid("The page's token is none of ours; begin the search anew.") from error
    if version != 1 or made_for != digest:
        raise Invalid("The page's token is of another search; ask the same question for each page.")
    return after
