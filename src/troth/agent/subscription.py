"""One SDS stream's state: what was asked for, what was sent, what must be sent now. No I/O.

Source: "xDS REST and gRPC protocol" of Envoy's documentation, state of the world variant. Secrets
need not be complete in a response, so only what changed is sent, each resource by itself. What was
once sent is never silently forgotten: when it goes away, a tombstone follows.
"""

from __future__ import annotations

import structlog

from troth.agent.tombstone import Tombstone
from troth.agent.view import Bundle, View
from troth.core.errors import Denied
from troth.wire.sds import (
    SecretRequest,
    render_certificate,
    render_response,
    render_spiffe_validation,
    render_validation,
)

DEFAULT = "default"
ROOT_CA = "ROOTCA"
ALL = "ALL"

_log = structlog.get_logger(__name__)
_SCHEME = "spiffe://"
_MAX_NOTED = 16
"""Unknown names logged for a stream; a caller must not be able to fill the log."""


class Subscription:
    """The state of one stream; feed it requests and views, then ask for the next response."""

    def __init__(self, tombstone: Tombstone) -> None:
        self._tombstone = tombstone
        self._view: View | None = None
        self._names: tuple[str, ...] = ()
        self._everything = False
        self._certified: set[str] = set()
        self._anchored: set[str] = set()
        self._sent: dict[str, bytes] = {}
        self._missed: set[str] = set()
        self._count = 0
        self._begun = False

    def apply_request(self, request: SecretRequest) -> None:
        """Take a subscription, an acknowledgement or a refusal; a stale one is ignored."""
        if not self._begun:
            self._begun = True
            self._everything = not request.names
            self._names = request.names
            return
        if self._count and request.nonce != str(self._count):
            # Whatever it says, the answer to our latest response says it again.
            _log.debug("sds.stale", nonce=request.nonce, expected=str(self._count))
            return
        if request.refusal is not None:
            _log.warning(
                "sds.refused",
                node=request.node,
                names=list(request.names),
                version=str(self._count),
                reason=request.refusal,
            )
        self._everything = self._everything and not request.names
        for dropped in set(self._names) - set(request.names):
            # Who asks again later must get it again.
            self._sent.pop(dropped, None)
        self._names = request.names

    def apply_view(self, view: View) -> None:
        """Take what the caller may see now.

        Raises `Denied` for a caller without any identity, unless this stream has certificates to
        take back first.
        """
        if not view.svids and not view.withdrawn and not self._certified:
            raise Denied(
                "No identity is registered for this process; "
                "`troth doctor` tells which selectors were compared."
            )
        self._view = view

    def withdraw_all(self) -> None:
        """The caller is nobody any more: take the certificates back that were sent."""
        if self._view is not None:
            self._view = View(svids=(), bundles=self._view.bundles)

    def next_response(self) -> bytes | None:
        """The response with all that is new, or None if there is nothing to say."""
        if self._view is None:
            return None
        changed: dict[str, bytes] = {}
        for name in self._wanted(self._view):
            secret = self._resolve(name, self._view)
            if secret is None:
                self._note_missing(name)
            elif self._sent.get(name) != secret:
                changed[name] = secret
        if not changed:
            return None
        self._sent.update(changed)
        self._count += 1
        return render_response(str(self._count), str(self._count), changed.values())

    def _wanted(self, view: View) -> tuple[str, ...]:
        if not self._everything:
            return self._names
        bundles = (bundle.trust_domain for bundle in view.bundles)
        svids = (svid.spiffe_id for svid in view.svids)
        named = (
            *bundles,
            *svids,
            *view.withdrawn,
            *sorted(self._certified),
            *sorted(self._anchored),
        )
        return tuple(dict.fromkeys(name for name in named if name != DEFAULT))

    def _resolve(self, name: str, view: View) -> bytes | None:
        bundles = _find_bundles(name, view)
        if bundles:
            self._anchored.add(name)
            if name == ROOT_CA:
                return render_validation(name, bundles[0].x509_authorities, bundles[0].crls)
            return render_spiffe_validation(name, _by_trust_domain(bundles))
        if name in self._anchored:
            return render_validation(name, (self._tombstone.anchor,), ())
        return self._resolve_certificate(name, view)

    def _resolve_certificate(self, name: str, view: View) -> bytes | None:
        spiffe_id = _find_default(view) if name == DEFAULT else name
        svid = next((svid for svid in view.svids if svid.spiffe_id == spiffe_id), None)
        if svid is not None:
            self._certified.add(name)
            return render_certificate(name, svid.chain, svid.private_key)
        withdrawn = spiffe_id in view.withdrawn or (spiffe_id is None and bool(view.withdrawn))
        if withdrawn or name in self._certified:
            self._certified.add(name)
            stone = self._tombstone
            return render_certificate(name, (stone.certificate,), stone.private_key)
        return None

    def _note_missing(self, name: str) -> None:
        if name not in self._missed and len(self._missed) < _MAX_NOTED:
            self._missed.add(name)
            _log.warning("sds.unknown_name", name=name[:200], hint="sent as soon as it exists")


def _find_default(view: View) -> str | None:
    """The one SPIFFE ID that `default` stands for, served or not.

    The proxy of a service that is cut off, or waits for its new certificate, must not slip into
    the next identity of the same process. It is the view's alone, so that a stream that begins
    now and one that has been open for long say the same.
    """
    if view.default is not None or view.withdrawn or not view.svids:
        return view.default
    return view.svids[0].spiffe_id


def _find_bundles(name: str, view: View) -> tuple[Bundle, ...]:
    if name == ALL:
        return view.bundles
    if name == ROOT_CA:
        return view.bundles[:1]
    return tuple(bundle for bundle in view.bundles if bundle.trust_domain == name)


def _by_trust_domain(
    bundles: tuple[Bundle, ...],
) -> dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]]:
    return {
        bundle.trust_domain.removeprefix(_SCHEME): (bundle.x509_authorities, bundle.crls)
        for bundle in bundles
    }
