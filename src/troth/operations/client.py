"""OAuth clients: who asks for a token, and how that is proved.

Every client is a registered identity, and its `client_id` is its SPIFFE ID. What a proof may be
used for once only is not used up here, but named, so that it goes into the transaction that records
what it was used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Invalid, TrothError
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.jose.claims import check_times, list_audiences
from troth.core.jose.jwk import PublicKey, load_key
from troth.core.jose.jws import Token, fits_algorithm, parse_token, verify_signature
from troth.core.jose.nobody import verify_for_nobody
from troth.identity.client import ClientKey
from troth.identity.identity import Identity
from troth.identity.lifecycle import may_hold_credentials
from troth.identity.selfsigned import is_registered, is_self_issued, read_validity
from troth.live.snapshot import Snapshot
from troth.operations.assertion import (
    LEEWAY,
    MAX_JTI,
    OutsideIssuers,
    Unproven,
    check_type,
    digest_proof,
)
from troth.operations.client_secret import SecretVerifier
from troth.operations.declaration import read_bundle
from troth.operations.peer import PeerReader
from troth.operations.svidclient import (
    JWT_SPIFFE_ASSERTION,
    digest_certificate,
    read_certificate,
    read_jwt_svid,
)
from troth.store.engine import Store
from troth.wire.oauth.basic import is_basic, parse_basic
from troth.wire.oauth.errors import InvalidClient, InvalidGrant
from troth.wire.oauth.metadata import ASSERTION_ALGORITHMS
from troth.wire.oauth.request import OAuthRequest

SELF_SIGNED = "self_signed_tls_client_auth"
SECRET_METHOD = "client_secret_basic"  # noqa: S105 - a name
"""How old programs may, where the server is told to let them (RFC 6749, section 2.3.1)."""
JWT_BEARER_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_LIFE = timedelta(hours=1)
"""Of an assertion: until its end its `jti` is remembered."""
CLIENT_METHODS = (
    "private_key_jwt",
    "tls_client_auth",
    SELF_SIGNED,
    "spiffe_jwt",
    "spiffe_x509",
)
"""How a client may prove who it is (RFC 7591, section 2; RFC 8705, section 2)."""
FEDERATED = "federated_jwt"
"""How we call it in the journal; no standard has a word for it."""
KEYS_KNOWN = 10_000
SERIALS_KNOWN = 50_000
"""Certificates of which it is known to which running copy they were issued."""

UNKNOWN = (
    "The client is unknown here, its proof doesn't fit what is registered, or it may hold no "
    "tokens now."
)
"""One sentence for all that depends on what is registered: an outsider learns nothing from it."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A client that proved who it is.

    `method` is how (RFC 7591, section 2); `proofs` are digests of what may be used once, with the
    time after which it is refused for its age. What it is given is bound by `confirmation` (`cnf`)
    and ends with `ends` at the latest. `dpop` are those of the digests that stand for DPoP proofs;
    `vouched` says which outside issuer vouched for whom, if one did. `instance` is the running copy
    that asks, "" where the proof doesn't tell.
    """

    identity: Identity
    method: str
    proofs: Mapping[str, datetime] = field(default_factory=dict)
    confirmation: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[datetime, ...] = ()
    dpop: frozenset[str] = frozenset()
    vouched: Mapping[str, str] = field(default_factory=dict)
    instance: str = ""

    @property
    def client_id(self) -> str:
        """Its SPIFFE ID."""
        return str(self.identity.spiffe_id)


class Authenticator:
    """Finds out which client sends a request. Belongs to one event loop.

    `audiences` are the names under which this server may be meant by an assertion.
    """

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        clock: Clock,
        trust_domain: TrustDomain,
        audiences: frozenset[str],
        outside: OutsideIssuers,
        secrets: SecretVerifier,
        peers: PeerReader,
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._clock = clock
        self._trust_domain = trust_domain
        self._audiences = audiences
        self._outside = outside
        self._secrets = secrets
        self._peers = peers
        self._keys: dict[bytes, PublicKey] = {}
        self._instances: dict[str, str] = {}

    async def authenticate(self, request: OAuthRequest) -> Proven:
        """The client; raises `InvalidClient`, or `Invalid` for one that proves itself in two ways
        at once (RFC 6749, sections 2.3 and 5.2). A certificate beside an assertion isn't one: on
        the mutual-TLS listener everybody shows one."""
        self._snapshot.check_fresh()
        form = request.form
        method = _find_method(request)
        if method == "Authorization":
            return await self._by_secret(request, request.authorization or "")
        if method == "client_secret":
            raise InvalidClient("A client_secret is never taken out of the body.")
        kind = form.find("client_assertion_type")
        if kind == JWT_BEARER_ASSERTION:
            shown = await self._prove(form.require("client_assertion"), form.find("client_id"))
            return _bind(shown, request.certificate)
        if kind == JWT_SPIFFE_ASSERTION:
            return _bind(await self._by_jwt_svid(request), request.certificate)
        if kind is not None:
            raise InvalidClient(
                f"The client_assertion_type is unknown; it may be {JWT_BEARER_ASSERTION} or "
                f"{JWT_SPIFFE_ASSERTION}."
            )
        if request.certificate is not None:
            return await self._by_certificate(request, request.certificate)
        raise InvalidClient(
            "Prove who you are: send a client_assertion (private_key_jwt, RFC 7523, or a JWT-SVID),"
            " or show an X.509-SVID on the mutual-TLS listener (mtls_endpoint_aliases)."
        )

    async def _by_secret(self, request: OAuthRequest, authorization: str) -> Proven:
        self._secrets.check_pace(request.source)
        try:
            credentials = parse_basic(authorization)
            _check_client_id(request.form.find("client_id"), credentials.client_id)
            holder = await self._secrets.verify(credentials)
            identity, now = holder.identity, self._clock.now()
            if identity is None or not holder.proved or not self.may_hold(identity, now):
                raise InvalidClient(UNKNOWN)
        except InvalidClient:
            self._secrets.count_failure(request.source)
            raise
        return Proven(identity, SECRET_METHOD)

    async def _by_certificate(self, request: OAuthRequest, der: bytes) -> Proven:
        if is_self_issued(der):
            return await self._by_registered_certificate(request.form.require("client_id"), der)
        now = self._clock.now()
        shown = await read_certificate(der, self._peers)
        _check_client_id(request.form.find("client_id"), shown.spiffe_id)
        identity = await self._require(shown.spiffe_id, now)
        return Proven(
            identity,
            "tls_client_auth",
            confirmation={"x5t#S256": shown.thumbprint},
            ends=(shown.not_after,),
            instance=await self._find_instance(shown.serial),
        )

    async def _by_registered_certificate(self, client_id: str, der: bytes) -> Proven:
        """The client that registered this very certificate, which is its own issuer (RFC 8705,
        section 2.2). TLS proved that it holds the key; nothing in the certificate is believed."""
        now = self._clock.now()
        identity = await self.find_identity(client_id)
        registered = identity.client.certificates if identity else ()
        known = is_registered(der, registered)
        validity = read_validity(der)
        if validity is None or not validity.start <= now < validity.end:
            raise InvalidClient(UNKNOWN)
        if identity is None or not known or not self.may_hold(identity, now):
            raise InvalidClient(UNKNOWN)
        bound = {"x5t#S256": digest_certificate(der)}
        return Proven(identity, SELF_SIGNED, confirmation=bound, ends=(validity.end,))

    async def _by_jwt_svid(self, request: OAuthRequest) -> Proven:
        now = self._clock.now()
        bundle = await read_bundle(self._store, self._snapshot)
        text = request.form.require("client_assertion")
        shown = read_jwt_svid(text, bundle, self._trust_domain, self._audiences, now)
        _check_client_id(request.form.find("client_id"), shown.spiffe_id)
        identity = await self._require(shown.spiffe_id, now)
        # A copy that was cut off may have kept it.
        if self._snapshot.tokens.find_ended((shown.instance,), shown.issued_at) is not None:
            raise InvalidClient("The JWT-SVID counts no more; get a new one.")
        return Proven(identity, "spiffe_jwt", instance=shown.instance)

    async def _find_instance(self, serial: str) -> str:
        """The running copy with this certificate; "" if it is none's. That never changes, so each
        certificate is looked for once."""
        known = self._instances.get(serial)
        if known is None:
            found = await self._store.read(lambda tx: tx.certificates.find_instance(serial))
            while len(self._instances) >= SERIALS_KNOWN:
                del self._instances[next(iter(self._instances))]
            known = self._instances[serial] = found or ""
        return known

    async def _require(self, spiffe_id: str, now: datetime) -> Identity:
        """The identity of that name, if it may hold a token now."""
        identity = await self.find_identity(spiffe_id)
        if identity is None or not self.may_hold(identity, now):
            raise InvalidClient(UNKNOWN)
        return identity

    async def _prove(self, text: str, client_id: str | None) -> Proven:
        """Whom an assertion names, by a key of its own or by an outside issuer."""
        token = _read_assertion(text)
        if _names_outsider(token):
            return await self._by_outside_issuer(token, client_id)
        return await self._by_private_key(token, client_id)

    async def _by_outside_issuer(self, token: Token, claimed: str | None) -> Proven:
        now = self._clock.now()
        bundle = await read_bundle(self._store, self._snapshot)
        try:
            vouched = await self._outside.read(token, bundle, self._audiences, now)
        except Unproven as error:
            raise InvalidClient(UNKNOWN) from error
        except Invalid as error:
            raise _blame(error) from error
        identity = await self._find_called(vouched.identity)
        if identity is None or not self.may_hold(identity, now):
            raise InvalidClient(UNKNOWN)
        _check_client_id(claimed, str(identity.spiffe_id))
        told = {"issuer": vouched.issuer, "subject": vouched.subject}
        return Proven(identity, FEDERATED, vouched.proofs, vouched=told)

    async def take_assertion(self, request: OAuthRequest) -> Proven:
        """The identity that signed the assertion of a JWT bearer grant (RFC 7523, section 2.1).

        Nobody else needs to be authenticated (section 3.1); who does so all the same must be that
        identity: the grant says nothing of who else may have its token. Raises `InvalidGrant`.
        """
        self._snapshot.check_fresh()
        form = request.form
        try:
            proven = await self._prove(form.require("assertion"), form.find("client_id"))
        except InvalidClient as error:
            raise blame_grant(error) from error
        if _find_method(request) is None and request.certificate is None:
            return replace(proven, method="jwt_bearer")
        client = await self.authenticate(request)
        if client.client_id != proven.client_id:
            raise InvalidGrant("The assertion is not of the client that sends it.")
        proofs = {**client.proofs, **proven.proofs}
        return replace(client, method="jwt_bearer", proofs=proofs, vouched=proven.vouched)

    async def _by_private_key(self, token: Token, claimed: str | None) -> Proven:
        client_id = _check_names(token, claimed)
        now = self._clock.now()
        end = self._check_terms(token, now)
        live = self._snapshot.facts.find_named(client_id) is not None
        identity = await self.find_identity(client_id)
        kid = token.header.get("kid")
        key = identity.client.find_key(kid if isinstance(kid, str) else None) if identity else None
        try:
            self._verify(token, key)
            if identity is None or not self.may_hold(identity, now):
                raise InvalidClient(UNKNOWN)
        except InvalidClient:
            if live:  # so that the answer takes as long as for one that had to be looked up
                await self._look_up(client_id)
            raise
        proof = digest_proof("assertion", client_id, str(token.claims["jti"]))
        return Proven(identity, "private_key_jwt", {proof: end + LEEWAY})

    def _check_terms(self, token: Token, now: datetime) -> datetime:
        """When the assertion ends, if it is meant for this server and sound but for its signature
        (RFC 7523, section 3)."""
        claims = token.claims
        try:
            check_type(token)
            check_times(claims, now, LEEWAY)
            meant = list_audiences(claims)
        except Invalid as error:
            raise _blame(error) from error
        if not self._audiences.issuperset(meant):
            raise InvalidClient(
                "The client_assertion must be meant for this server alone: aud is its issuer, or "
                "its token endpoint."
            )
        if claims["exp"] - now.timestamp() > (LONGEST_LIFE + LEEWAY).total_seconds():
            raise InvalidClient("The client_assertion lives too long: let it end within the hour.")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:
            raise InvalidClient(
                f"The client_assertion needs a jti of 1 to {MAX_JTI} characters, a new one each."
            )
        return datetime.fromtimestamp(claims["exp"], UTC)

    async def find_identity(self, client_id: str) -> Identity | None:
        """The living identity of that SPIFFE ID, live where it is known."""
        facts, epoch = self._snapshot.facts, self._snapshot.epoch
        known = facts.find_named(client_id)
        if known is not None:
            return known
        found = await self._look_up(client_id)
        if found is not None:
            facts.remember(found, epoch)
        return found

    async def _look_up(self, client_id: str) -> Identity | None:
        """The living identity of that SPIFFE ID, from the store."""
        try:
            spiffe_id = SpiffeId.parse(client_id)
        except TrothError:
            return None
        if spiffe_id.trust_domain != self._trust_domain:
            return None
        found = await self._store.read(lambda tx: tx.identities.list_living_at([spiffe_id]))
        return found[0] if found else None

    async def _find_called(self, name: str) -> Identity | None:
        """The living identity of that name, live where it is known."""
        facts, epoch = self._snapshot.facts, self._snapshot.epoch
        known = facts.find_called(name)
        if known is not None:
            return known
        found = await self._store.read(lambda tx: tx.identities.list_named([name]))
        for identity in found:
            facts.remember(identity, epoch)
        return found[0] if found else None

    def may_hold(self, identity: Identity, now: datetime) -> bool:
        """Whether the identity may hold a token now."""
        cut_off = self._snapshot.find_cut_off(str(identity.spiffe_id))
        return cut_off is None and may_hold_credentials(identity, now)

    def _verify(self, token: Token, key: ClientKey | None) -> None:
        """Raise `InvalidClient` unless `key` signed the assertion."""
        algorithm = str(token.header["alg"])
        known = None if key is None else self._load(key.public_key)
        try:
            if known is None or not fits_algorithm(algorithm, known):
                verify_for_nobody(token)
            else:
                verify_signature(algorithm, known, token.signing_input, token.signature)
        except Invalid as error:
            raise InvalidClient(UNKNOWN) from error

    def _load(self, public_key: bytes) -> PublicKey:
        found = self._keys.get(public_key)
        if found is None:
            if len(self._keys) >= KEYS_KNOWN:
                self._keys.clear()
            found = self._keys[public_key] = load_key(public_key)
        return found


def _bind(client: Proven, der: bytes | None) -> Proven:
    """The client, bound to the certificate that it shows besides, if it does, and ending with it:
    TLS proved that it holds the key (RFC 8705, section 3)."""
    validity = None if der is None else read_validity(der)
    if der is None or validity is None:
        return client
    bound = {**client.confirmation, "x5t#S256": digest_certificate(der)}
    return replace(client, confirmation=bound, ends=(*client.ends, validity.end))


def list_methods(*, client_secrets: bool) -> tuple[str, ...]:
    """The ways that are announced (`token_endpoint_auth_methods_supported`)."""
    return (*CLIENT_METHODS, SECRET_METHOD) if client_secrets else CLIENT_METHODS


def _find_method(request: OAuthRequest) -> str | None:
    """Where the proof of a client stands, its certificate aside; None if there is none."""
    names = [name for name in ("client_secret", "client_assertion") if request.form.find(name)]
    if not names and request.form.find("client_assertion_type"):
        names = ["client_assertion"]
    if is_basic(request.authorization):
        names.append("Authorization")
    # With an assertion a certificate may be there to bind the token to; no secret needs one.
    certified = request.certificate is not None and names != ["client_assertion"]
    shown = [*names, "a certificate"] if certified else names
    if len(shown) > 1:
        raise Invalid(
            f"Prove who you are in one way: there are {' and '.join(shown)} (RFC 6749, 2.3)."
        )
    return names[0] if names else None


def _check_client_id(claimed: str | None, proven: str) -> None:
    if claimed is not None and claimed != proven:
        raise InvalidClient("The client_id is not the SPIFFE ID that was proved.")


def _read_assertion(text: str) -> Token:
    try:
        token = parse_token(text)
    except TrothError as error:
        raise _blame(error) from error
    if token.header.get("alg") not in ASSERTION_ALGORITHMS:
        known = ", ".join(ASSERTION_ALGORITHMS)
        raise InvalidClient(f"The client_assertion's alg must be one of {known}.")
    return token


def blame_grant(error: InvalidClient) -> InvalidGrant:
    """The same fault where the assertion is the grant and not the client's proof."""
    return InvalidGrant(error.detail.replace("client_assertion", "assertion"))


def _blame(error: TrothError) -> InvalidClient:
    return InvalidClient(error.detail.replace("The token", "The client_assertion"))


def _names_outsider(token: Token) -> bool:
    """Whether a token says that it is of an OpenID issuer: those are URLs, our clients aren't."""
    issuer = token.claims.get("iss")
    return isinstance(issuer, str) and issuer.startswith("https://")


def _check_names(token: Token, client_id: str | None) -> str:
    """The client that an assertion speaks of: `iss` and `sub` alike (RFC 7523, section 3)."""
    subject: Any = token.claims.get("sub")
    if not isinstance(subject, str) or token.claims.get("iss") != subject:
        raise InvalidClient("The client_assertion's iss and sub must both be the client_id.")
    if client_id is not None and client_id != subject:
        raise InvalidClient("The client_id is not the one that the client_assertion speaks of.")
    return subject
