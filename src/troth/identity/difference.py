"""What a change of an identity means, in words: which fields differ, and who gains or loses it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from troth.core.manifest.reader import render_duration
from troth.identity.identity import Identity, State
from troth.identity.readers import ANY_NODE
from troth.identity.selectors import Selector

MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Reach:
    """Who obtains an identity: processes with all `selectors`, on one of `nodes`."""

    selectors: frozenset[Selector]
    nodes: frozenset[str]


def find_reach(identity: Identity, now: datetime) -> Reach | None:
    """Who obtains the identity from an agent while it is active; None if nobody does."""
    if not identity.selectors or now >= identity.expires_at or identity.state is State.RETIRED:
        return None
    return Reach(frozenset(identity.selectors), frozenset(identity.nodes))


def describe_fields(before: Identity, after: Identity) -> tuple[str, ...]:
    """One line for each field that differs, such as ``owner: a → b``."""
    return tuple(_list_differences(before, after))


def describe_grants(identity: Identity) -> tuple[str, ...]:
    """What a new identity may do, who may act for it, and how else it proves itself."""
    grants = (
        ("roles", identity.roles),
        ("delegates", identity.delegates),
        ("client.keys", _name_keys(identity)),
        ("client.certificates", _digest(identity)),
    )
    return tuple(f"{name}: {', '.join(sorted(map(_cut, of)))}" for name, of in grants if of)


def _list_differences(before: Identity, after: Identity) -> Iterator[str]:
    for name in ("kind", "owner", "purpose", "environment", "hint"):
        old, new = str(getattr(before, name)), str(getattr(after, name))
        if old != new:
            yield f"{name}: {_cut(old) or 'none'} → {_cut(new) or 'none'}"
    yield from _compare_sets("labels", _flatten(before.labels), _flatten(after.labels))
    yield from _compare_sets("selectors", before.selectors, after.selectors)
    yield from _compare_sets("nodes", before.nodes, after.nodes)
    yield from _compare_sets("dnsNames", before.dns_names, after.dns_names)
    yield from _compare_sets("roles", before.roles, after.roles)
    yield from _compare_sets("delegates", before.delegates, after.delegates)
    yield from _compare_sets("client.keys", _name_keys(before), _name_keys(after))
    yield from _compare_sets("client.certificates", _digest(before), _digest(after))
    for name, attribute in (("ttl.x509", "x509_ttl"), ("ttl.jwt", "jwt_ttl")):
        old_ttl, new_ttl = getattr(before, attribute), getattr(after, attribute)
        if old_ttl != new_ttl:
            yield f"{name}: {render_duration(old_ttl)} → {render_duration(new_ttl)}"
    if before.expires_at != after.expires_at:
        yield f"expires: {render_time(before.expires_at)} → {render_time(after.expires_at)}"


def _compare_sets(name: str, old: Collection[object], new: Collection[object]) -> Iterator[str]:
    added = sorted(str(item) for item in set(new) - set(old))
    removed = sorted(str(item) for item in set(old) - set(new))
    marks = [f"+ {_cut(item)}" for item in added] + [f"− {_cut(item)}" for item in removed]
    if marks:
        yield f"{name}: {' '.join(marks)}"


def _name_keys(identity: Identity) -> list[str]:
    """Each key by what tells it from any other, whatever its `kid`."""
    digests = ((key.kid, sha256(key.public_key).hexdigest()[:16]) for key in identity.client.keys)
    return [f"{kid} ({digest})" for kid, digest in digests]


def _digest(identity: Identity) -> list[str]:
    return [f"sha256:{sha256(der).hexdigest()}" for der in identity.client.certificates]


def _flatten(labels: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()]


def describe_access(
    before: Identity | None, after: Identity | None, now: datetime
) -> tuple[str, ...]:
    """Who gains and who loses the SPIFFE ID when `before` becomes `after` (None: not there)."""
    subject = after or before
    if subject is None:
        return ()
    old = find_reach(before, now) if before is not None else None
    new = find_reach(after, now) if after is not None else None
    words = tuple(f"{line} {subject.spiffe_id}" for line in _compare_reach(old, new))
    if before is not None and before.state not in (State.ACTIVE, State.RETIRED):
        return tuple(f"once it is no longer {before.state.value}: {line}" for line in words)
    return words


def _compare_reach(old: Reach | None, new: Reach | None) -> Iterator[str]:
    if old == new:
        return
    if old is None or new is None:
        if old is not None:
            yield f"{_describe_processes(old)} lose"
        if new is not None:
            yield f"{_describe_processes(new)} gain"
    elif old.selectors == new.selectors:
        yield from _compare_nodes(old, new)
    elif old.nodes == new.nodes and old.selectors < new.selectors:
        extra = _join(new.selectors - old.selectors, "or")
        yield f"{_describe_processes(old)}, but without {extra}, lose"
    elif old.nodes == new.nodes and new.selectors < old.selectors:
        extra = _join(old.selectors - new.selectors, "or")
        yield f"{_describe_processes(new)}, even without {extra}, gain"
    else:
        yield f"{_describe_processes(old)}, unless the new selectors match too, lose"
        yield f"{_describe_processes(new)} gain"


def _compare_nodes(old: Reach, new: Reach) -> Iterator[str]:
    who = f"processes with {_join(new.selectors, 'and')}"
    if ANY_NODE in old.nodes and ANY_NODE in new.nodes:
        return
    if ANY_NODE in old.nodes:
        yield f"{who} on nodes other than {_join(new.nodes, 'and')} lose"
    elif ANY_NODE in new.nodes:
        yield f"{who} on any attested node besides {_join(old.nodes, 'and')} gain"
    else:
        if removed := old.nodes - new.nodes:
            yield f"{who} {_describe_nodes(removed)} lose"
        if added := new.nodes - old.nodes:
            yield f"{who} {_describe_nodes(added)} gain"


def _describe_processes(reach: Reach) -> str:
    return f"processes with {_join(reach.selectors, 'and')} {_describe_nodes(reach.nodes)}"


def _describe_nodes(nodes: Collection[str]) -> str:
    if ANY_NODE in nodes:
        return "on any attested node"
    return f"on {'node' if len(nodes) == 1 else 'nodes'} {_join(nodes, 'and')}"


def _join(items: Collection[object], word: str) -> str:
    texts = sorted(_cut(str(item)) for item in items)
    return (
        f" {word} ".join(texts) if len(texts) < 3 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"
    )


def render_time(moment: datetime) -> str:
    """A moment for people: ``2027-06-30 00:00 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
