"""What nodes are sent of identities and templates: made once while a row stays, for all of them."""

from __future__ import annotations

from collections.abc import Iterable

from troth.core.ids import IdentityId
from troth.identity.identity import Identity
from troth.store.identities import Version
from troth.store.templates import ReadTemplates
from troth.store.transaction import Transaction
from troth.wire.api.nodes import Entry, TemplateEntry

CAPACITY = 20_000
"""Entries, of about a kilobyte each."""
FEW = 500
"""So many rows are read one by one; more are read with all others of the node."""


class Entries:
    """The entries that were made last, bounded. Lives as long as the server; any thread may ask.

    What is true is read each time: which identities a node may hold, and at which version each is.
    Only what is made of a row is kept, and an identity's version never returns.
    """

    def __init__(self, capacity: int = CAPACITY, few: int = FEW) -> None:
        self._capacity = capacity
        self._few = few
        self._known: dict[IdentityId, tuple[Version, Entry]] = {}
        self._templates = ReadTemplates()

    def collect(self, tx: Transaction, node_name: str) -> list[Entry]:
        """The entries of what `node_name` may host, by name."""
        versions = tx.identities.list_versions(node_name)
        found: dict[IdentityId, Entry] = {}
        for identity_id, version in versions.items():
            known = self._known.get(identity_id)
            if known is not None and known[0] == version:
                found[identity_id] = known[1]
        missing = versions.keys() - found.keys()
        if missing:
            read: Iterable[Identity] = (
                tx.identities.find_all(missing).values()
                if len(missing) <= self._few
                else tx.identities.for_node(node_name)
            )
            made = {one.id: make_entry(one) for one in read}
            found.update(made)
            self._keep({i: (versions[i], made[i]) for i in missing})
        return [found[identity_id] for identity_id in versions]

    def collect_templates(self, tx: Transaction, node_name: str) -> list[TemplateEntry]:
        """What `node_name` is sent of the templates that hold on it, by name."""
        return [
            TemplateEntry(name=one.name, match=[str(pattern) for pattern in one.match])
            for one in tx.templates.list_for_node(node_name, self._templates)
        ]

    def _keep(self, made: dict[IdentityId, tuple[Version, Entry]]) -> None:
        if len(self._known) + len(made) > self._capacity:
            self._known = {}  # what is asked for comes back by itself
        if len(made) <= self._capacity:
            self._known.update(made)


def make_entry(identity: Identity) -> Entry:
    """What a node is sent of an identity."""
    return Entry(
        identity_id=identity.id,
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        state=identity.state.value,
        selectors=[str(s) for s in identity.selectors],
        dns_names=list(identity.dns_names),
        x509_ttl=int(identity.x509_ttl.total_seconds()),
        jwt_ttl=int(identity.jwt_ttl.total_seconds()),
        hint=identity.hint,
        revision=identity.revision,
        expires_at=identity.expires_at,
        template=identity.template,
    )
