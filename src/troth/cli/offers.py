"""Whether a process would get an identity from a template, and what it lacks if not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from troth.core.errors import Invalid, TrothError
from troth.identity.pattern import Pattern
from troth.identity.readers import ANY_NODE
from troth.identity.selectors import Selector
from troth.identity.template import Catalogue
from troth.wire.api import templates
from troth.wire.api.client import ApiClient, Unreachable

MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Offer:
    """A template that holds on this node."""

    name: str
    match: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What templates have for a process: the `chosen` one, `rivals` that fit alike, or what is
    `lacking` in words."""

    chosen: str | None = None
    rivals: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def fetch_offers(client: ApiClient, node: str) -> list[Offer]:
    """The templates of `node`; none from a server that doesn't know of any."""
    try:
        views = client.call("template.ls", templates.ListTemplates()).items
    except Unreachable:
        raise
    except TrothError:
        return []
    return list(_read_offers(views, node))


def _read_offers(views: Iterable[templates.TemplateView], node: str) -> Iterable[Offer]:
    for view in views:
        if node not in view.nodes and ANY_NODE not in view.nodes:
            continue
        try:
            yield Offer(view.name, tuple(map(Pattern.parse, view.match)))
        except Invalid:  # a newer server's pattern: it can't fit here either
            continue


def look_out(offers: Iterable[Offer], attested: Iterable[Selector]) -> Outlook:
    """What `offers` have for a process that proved `attested`."""
    catalogue, proved = Catalogue(offers), frozenset(attested)
    choice = catalogue.choose(proved)
    if choice.template is not None:
        return Outlook(chosen=choice.template.name)
    if choice.rivals:
        return Outlook(rivals=choice.rivals)
    near = catalogue.list_nearest(proved, MOST_NAMED)
    return Outlook(lacking=tuple(_explain_lack(one.name, p, proved) for one, p in near))


def _explain_lack(name: str, pattern: Pattern, proved: frozenset[Selector]) -> str:
    values = sorted(selector.value for selector in proved if selector.key == pattern.key)
    instead = f"it is {' and '.join(values)}" if values else "which was not proved"
    return f"template {name} wants {pattern}, {instead}."
