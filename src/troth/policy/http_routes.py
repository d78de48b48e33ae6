"""HTTP requests as actions: which resource, action and id a request at a proxy is about.

A path is read the one way that every program behind the proxy reads it; what could be read in
several ways is refused before any route is looked at. Sources: RFC 3986 sections 2 and 3.3, RFC
9110 sections 7.2 and 9.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from troth.core.errors import Invalid
from troth.policy.protection_manifest import IDENTIFIER
from troth.policy.resource import HttpRoute, Resource

MAX_PATH = 4_096
MAX_SEGMENTS = 64
MAX_HOST = 260
ONE = "*"
REST = "**"
ANY_HOST = ""

_SENT = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_CODED_TWICE = re.compile(r"%25(?=[0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER = frozenset((*b"/\\", *range(0x20), 0x7F))
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}", re.ASCII)
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """What a request is about: one of a declared `resource`, "" if the route names none, and the
    path as it was read."""

    resource: Resource
    action: str
    id: str
    path: str


def normalise_path(sent: str) -> str:
    """A request's path in its one form: unreserved characters decoded, once, and nothing else.

    `sent` is a request target in origin form; its query is left out. Raises `Invalid` for what
    programs read in different ways: ``//``, segments that are or end in dots or begin with ``;``,
    encoded slashes, backslashes and control characters, what is encoded twice or isn't ASCII; and
    for what is too long.
    """
    path = sent.partition("?")[0]
    if len(path) > MAX_PATH:
        raise Invalid(f"The path is longer than {MAX_PATH} characters.")
    if not _SENT.fullmatch(path):
        raise Invalid("The path has characters that don't belong there (RFC 3986, 3.3).")
    if "%" in path:
        path = _decode(path)
    segments = path.split("/")[1:]
    if len(segments) > MAX_SEGMENTS:
        raise Invalid(f"The path has more than {MAX_SEGMENTS} segments.")
    if not all(segments[:-1]):
        raise Invalid("The path has an empty segment.")
    for segment in segments:
        # Some servers cut off what follows a semicolon before they look at the rest.
        bare = segment.partition(";")[0]
        if bare.endswith(".") or segment.endswith(".") or (segment and not bare):
            raise Invalid("The path has a segment that is, or ends in, dots, or begins with ';'.")
    return path


def _decode(path: str) -> str:
    if _CODED_TWICE.search(path):
        raise Invalid("The path is percent-encoded twice.")
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("The path's encoded bytes aren't UTF-8.") from None
    return _ENCODED.sub(_decode_one, path)


def _decode_one(found: re.Match[str]) -> str:
    value = int(found[1], 16)
    if value in _NEVER:
        raise Invalid("The path has an encoded slash, backslash or control character.")
    return chr(value) if value in _UNRESERVED else f"%{value:02X}"


def normalise_host(sent: str) -> str:
    """A request's host, perhaps with its port, in lower case; `Invalid` if it is none."""
    host = sent.lower() if sent.isascii() else ""
    if len(host) > MAX_HOST or not _HOST.fullmatch(host):
        raise Invalid("The request's host is no host name or address.")
    return host


@dataclass(frozen=True, slots=True)
class _Entry:
    """A route of a resource, the `number`-th there; `at` is where the id stands, -1 for nowhere.

    Of two that fit, the one with the greater `weight` says more: its host, then its segments from
    the first on.
    """

    resource: Resource
    route: HttpRoute
    number: int
    at: int
    weight: tuple[int, ...]

    def takes(self, method: str) -> bool:
        """Whether the route is for that method; HEAD is as GET (RFC 9110, section 9.3.2)."""
        methods = self.route.methods
        return not methods or method in methods or (method == "HEAD" and "GET" in methods)


@dataclass(slots=True)
class _Branch:
    """Routes that have their segments so far in common."""

    literal: dict[str, _Branch] = field(default_factory=dict)
    one: _Branch | None = None
    ends: list[_Entry] = field(default_factory=list)
    rests: list[_Entry] = field(default_factory=list)

    def walk(self, segments: Sequence[str], at: int = 0) -> Iterator[_Entry]:
        """The routes that fit `segments` from the `at`-th on."""
        if at == len(segments):
            yield from self.ends
            return
        yield from self.rests
        segment = segments[at]
        branch = self.literal.get(segment)
        if branch is not None:
            yield from branch.walk(segments, at + 1)
        if self.one is not None and segment:
            yield from self.one.walk(segments, at + 1)


class HttpRoutes:
    """The routes of all resources, ready to be asked.

    Host, method and path must fit; a segment that isn't a pattern fits itself alone, in the very
    case. ``{id}`` and ``*`` stand for one segment that isn't empty, ``**`` for one or more. Of one
    resource the first route that fits counts. Of several resources that fit, the one counts whose
    route says most: a named host before any host, then from the first segment on what is written
    out before a pattern, and one segment before the rest.
    """

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._hosts: dict[str, _Branch] = {}
        for resource in resources:
            for host in resource.hosts or (ANY_HOST,):
                trunk = self._hosts.setdefault(host, _Branch())
                for number, route in enumerate(resource.routes):
                    _plant(trunk, resource, route, number, named=host != ANY_HOST)

    def find(self, method: str, host: str, target: str) -> HttpTarget:
        """What a request is about; raises `Invalid` with the reason if that can't be said."""
        if not _METHOD.fullmatch(method):
            raise Invalid("The request's method is not one in capital letters.")
        host, path = normalise_host(host), normalise_path(target)
        segments = path.split("/")[1:]
        firsts: dict[str, _Entry] = {}
        for trunk in self._list_trunks(host):
            for entry in trunk.walk(segments):
                if entry.takes(method):
                    name = entry.resource.name
                    known = firsts.get(name)
                    if known is None or entry.number < known.number:
                        firsts[name] = entry
        best = _choose(firsts.values())
        action, at = best.route.action, best.at
        return HttpTarget(best.resource, action, segments[at] if at >= 0 else "", path)

    def _list_trunks(self, host: str) -> Iterator[_Branch]:
        name, _, port = host.rpartition(":")
        names = [host, name] if name and port.isdigit() else [host]
        for one in (*names, ANY_HOST):
            trunk = self._hosts.get(one)
            if trunk is not None:
                yield trunk


def _choose(entries: Iterable[_Entry]) -> _Entry:
    ranked = sorted(entries, key=lambda entry: entry.weight, reverse=True)
    if not ranked:
        raise Invalid("No route of any resource fits the request.")
    if len(ranked) > 1 and ranked[0].weight == ranked[1].weight:
        raise Invalid(
            f"Resources {ranked[0].resource.name} and {ranked[1].resource.name} both claim the "
            "request; make their routes differ."
        )
    return ranked[0]


def _plant(
    trunk: _Branch, resource: Resource, route: HttpRoute, number: int, *, named: bool
) -> None:
    segments = route.path.split("/")[1:]
    kinds = [0 if part == REST else 1 if part in (ONE, IDENTIFIER) else 2 for part in segments]
    at = segments.index(IDENTIFIER) if IDENTIFIER in segments else -1
    entry = _Entry(resource, route, number, at, (int(named), *kinds))
    branch = trunk
    for part, kind in zip(segments, kinds, strict=True):
        if kind == 0:
            branch.rests.append(entry)
            return
        if kind == 1:
            if branch.one is None:
                branch.one = _Branch()
            branch = branch.one
        else:
            written = normalise_path(f"/{part}")[1:]
            branch = branch.literal.setdefault(written, _Branch())
    branch.ends.append(entry)
