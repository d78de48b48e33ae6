"""Access tokens as a resource server sees them: judged where they are shown, nobody is asked.

Signature, issuer, audience and times are checked at first sight and remembered by the token's hash;
each sight asks again whether it has ended, whether anybody it speaks for was cut off, and whether
who shows it holds the key that it is bound to.

Sources: RFC 9068 section 4, RFC 6750 section 2.1, RFC 8705 section 3, RFC 9449 sections 4.3 and 7.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cryptography import x509

from troth.core.clock import Clock, SystemClock
from troth.core.errors import Passing, TrothError, Unavailable
from troth.core.jose.dpop import LEEWAY as PROOF_LEEWAY
from troth.core.jose.dpop import read_proof
from troth.core.jose.jws import MAX_TOKEN_SIZE, parse_token
from troth.core.tier import Tier, read_tier
from troth.core.x509 import UNREADABLE
from troth.issuance.accesstoken import ACCESS, TIER, Kind, list_actors, validate_parsed_token
from troth.issuance.der import read_signer
from troth.issuance.instance import list_instances
from troth.issuance.opaque import is_opaque
from troth.issuance.presented import format_serial
from troth.policy.resource import Binding
from troth.sdk.client import OAuthClient
from troth.sdk.credential import thumbprint
from troth.sdk.errors import InvalidProof, InvalidToken
from troth.sdk.inquiry import KEPT, Inquirer
from troth.sdk.issuer import Issuer
from troth.sdk.keys import KeySet
from troth.sdk.replay import ReplayMemory

CAPACITY = 10_000
"""How many tokens are remembered; the oldest is forgotten first."""
MAX_HEADERS = 100
PROOF_AGE = timedelta(seconds=60)
"""How old a DPoP proof may be: the server's choice (RFC 9449, section 11.1)."""


class Revoked(Protocol):
    """Says whom to refuse: a `PeerGuard`."""

    def find_token_objections(
        self,
        jti: str,
        parties: Collection[str],
        issued_at: int,
        signer: str,
        certificate: tuple[str, str] | None = None,
    ) -> list[str]:
        """Why a token must be refused now; raises `Unavailable` where nobody can say."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """How a token is shown: the scheme of the ``Authorization`` header in lower case, the peer's
    certificate (DER) from TLS, the ``DPoP`` header, and the request's method and URL."""

    scheme: str
    token: str = field(repr=False)
    certificate: bytes | None = None
    proof: str | None = None
    method: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class ValidToken:
    """What a good token says. `actors` are those who act for its subject, the current one first."""

    subject: str
    client_id: str
    actors: tuple[str, ...]
    scopes: frozenset[str]
    expires_at: datetime
    jti: str
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def tier(self) -> Tier:
        """How much was relied on all who stand in it when it was issued; with introspection, how
        much is now. `LOW` if it doesn't say."""
        return read_tier(self.claims.get(TIER))


@dataclass(slots=True)
class _Seen:
    """What is remembered of a token. What a certificate says is read when it is first shown.

    `parties` are all whose end is its end: SPIFFE IDs, and ids of running copies.
    """

    valid: ValidToken
    ends: float
    kid: str
    parties: tuple[str, ...]
    issued_at: int
    certificate: str | None
    proof_key: str | None
    signed: tuple[str, str] | None = None
    """Serial and signer of the certificate that it is bound to."""
    kept_until: float = 0.0
    """Of an opaque token: until when the issuer's word is relied on, on the monotonic clock."""


class _IssuerWanted(Exception):
    """The issuer must be asked before anything can be said: for its keys, or about the token."""

    def __init__(self, ask: Callable[[], object]) -> None:
        super().__init__()
        self.ask = ask


class TokenValidator:
    """Judges the access tokens of one issuer for one resource, or its tokens of another `kind`.
    Any thread may use it.

    `audiences` are the identifiers of this resource; `guard` knows whom to refuse, and None says
    that every token shall be good until it ends; `binding` is which tokens are taken at all.
    `client` asks the issuer about opaque tokens, once a second each; without it none is taken.
    """

    def __init__(
        self,
        issuer: Issuer,
        audiences: Collection[str],
        guard: Revoked | None,
        *,
        binding: Binding = Binding.NONE,
        keys: KeySet | None = None,
        clock: Clock | None = None,
        capacity: int = CAPACITY,
        kind: Kind = ACCESS,
        client: OAuthClient | None = None,
    ) -> None:
        self.issuer_url = issuer.url
        self._kind = kind
        self.binding = binding
        self._audiences = frozenset((audiences,) if isinstance(audiences, str) else audiences)
        self._guard = guard
        self._clock = clock or SystemClock()
        self._keys = keys or KeySet(issuer, self._clock)
        self._inquirer = Inquirer(client, self._audiences, self._clock) if client else None
        self._capacity = capacity
        self._seen: dict[bytes, _Seen] = {}
        self._headers: dict[str, Mapping[str, Any]] = {}
        self._proofs = ReplayMemory(self._clock, (PROOF_AGE + PROOF_LEEWAY).total_seconds())

    def check(self, sight: Sight) -> ValidToken:
        """What the token says; raises `InvalidToken`, `InvalidProof`, or `Unavailable` where
        nobody can say. Asks the issuer, and blocks meanwhile, where its keys aren't known, or about
        an opaque token."""
        try:
            return self._check(sight)
        except _IssuerWanted as wanted:
            wanted.ask()
        return self._check_finally(sight)

    async def check_async(self, sight: Sight) -> ValidToken:
        """As `check`, without blocking the event loop."""
        try:
            return self._check(sight)
        except _IssuerWanted as wanted:
            await asyncio.to_thread(wanted.ask)
        return self._check_finally(sight)

    def _check_finally(self, sight: Sight) -> ValidToken:
        try:
            return self._check(sight, asked=True)
        except _IssuerWanted as error:  # the interval is over already: the clock jumped
            raise Unavailable("The issuer's word isn't known; try again.", 1.0) from error

    def _check(self, sight: Sight, *, asked: bool = False) -> ValidToken:
        text = sight.token
        if len(text) > MAX_TOKEN_SIZE:
            raise InvalidToken("The token is longer than any of ours.")
        if not text.isascii():
            raise InvalidToken("The token is no JWT: those are of ASCII characters alone.")
        digest = hashlib.sha256(text.encode("ascii")).digest()
        seen = self._seen.get(digest)
        if is_opaque(text):
            seen = self._recall(text, digest, asked=asked)
        elif seen is None or seen.kid not in self._keys.usable:
            seen = self._meet(text)
            self._remember(digest, seen)
        elif self._clock.now().timestamp() >= seen.ends:
            self._seen.pop(digest, None)
            raise InvalidToken("The token has expired; get a fresh one.")
        if seen.certificate is not None or seen.proof_key is not None:
            self._check_holder(seen, sight)
        elif self.binding is not Binding.NONE or sight.scheme != "bearer":
            raise _refuse_unbound(self.binding)
        if self._guard is not None:
            objections = self._guard.find_token_objections(
                seen.valid.jti, seen.parties, seen.issued_at, seen.kid, seen.signed
            )
            if objections:
                raise InvalidToken(" ".join(objections))
        if seen.proof_key is not None:
            # Last: only the proof of a request that is let in is used up.
            self._check_proof(seen.proof_key, sight)
        return seen.valid

    # An opaque token

    def _recall(self, text: str, digest: bytes, *, asked: bool) -> _Seen:
        """What the issuer said of an opaque token a moment ago; `asked`: just now."""
        seen, inquirer = self._seen.get(digest), self._inquirer
        if inquirer is None:
            raise InvalidToken("The token is opaque, and this resource takes JWTs alone.")
        if seen is None or (self._clock.monotonic() >= seen.kept_until and not asked):
            raise _IssuerWanted(lambda: self._inquire(inquirer, text, digest))
        if self._clock.now().timestamp() >= seen.ends:
            raise InvalidToken("The token has expired; get a fresh one.")
        return seen

    def _inquire(self, inquirer: Inquirer, text: str, digest: bytes) -> None:
        kept_until = self._clock.monotonic() + KEPT  # from the question on
        try:
            seen = _note("", inquirer.ask(text), self._kind)
        except InvalidToken:
            self._seen.pop(digest, None)
            raise
        seen.kept_until = kept_until
        self._remember(digest, seen)

    # A token's first sight

    def _meet(self, text: str) -> _Seen:
        usable = self._keys.usable
        if not usable:
            self._want_keys()
        try:
            token = parse_token(text, self._headers)
            kid = token.header.get("kid")
            if isinstance(kid, str) and kid not in usable:
                self._want_keys()
            claims = validate_parsed_token(
                token,
                issuer_url=self.issuer_url,
                audiences=self._audiences,
                keys=usable,
                now=self._clock.now(),
                kind=self._kind,
            )
            seen = _note(str(kid), claims, self._kind)
        except (InvalidToken, Passing):
            raise
        except TrothError as error:
            raise InvalidToken(error.detail) from error
        if len(self._headers) < MAX_HEADERS:  # those of sound tokens alone
            self._headers[text.partition(".")[0]] = token.header
        return seen

    def _want_keys(self) -> None:
        """Have the issuer asked if that may be; raise `Unavailable` if it doesn't answer."""
        if self._keys.askable:
            raise _IssuerWanted(self._keys.refresh)
        self._keys.check()

    def _remember(self, digest: bytes, seen: _Seen) -> None:
        while len(self._seen) >= self._capacity:
            try:
                del self._seen[next(iter(self._seen))]
            except (KeyError, StopIteration, RuntimeError):
                break  # another thread was faster
        self._seen[digest] = seen

    # Who shows it

    def _check_holder(self, seen: _Seen, sight: Sight) -> None:
        """Raise unless who shows the token is the one that it is bound to."""
        scheme = "bearer" if seen.proof_key is None else "dpop"
        if sight.scheme != scheme:
            raise InvalidToken(f"The token must be shown with the scheme {scheme} (RFC 9449, 7).")
        wrong = self.binding is Binding.MTLS and seen.certificate is None
        if wrong or (self.binding is Binding.DPOP and seen.proof_key is None):
            raise _refuse_unbound(self.binding)
        if seen.certificate is not None:
            self._check_certificate(seen, sight.certificate)

    def _check_certificate(self, seen: _Seen, der: bytes | None) -> None:
        if der is None or thumbprint(der) != seen.certificate:
            raise InvalidToken("The token is bound to another certificate (RFC 8705, 3).")
        if seen.signed is None:
            seen.signed = _read_certificate(der)

    def _check_proof(self, key: str, sight: Sight) -> None:
        if sight.proof is None:
            raise InvalidProof("The request needs a DPoP proof: one header DPoP.")
        now = self._clock.now()
        try:
            proof = read_proof(sight.proof, sight.method, sight.url, now, sight.token)
        except TrothError as error:
            raise InvalidProof(error.detail.replace("The token", "The DPoP proof")) from error
        if proof.thumbprint != key:
            raise InvalidToken("The token is bound to another key than the proof's (RFC 9449, 7).")
        if now - proof.issued_at > PROOF_AGE:
            raise InvalidProof("The DPoP proof is too old; make a new one for each request.")
        if not self._proofs.add(f"{key}\0{proof.jti}"):
            raise InvalidProof("The DPoP proof was used before; make a new one for each request.")


def _note(kid: str, claims: Mapping[str, Any], kind: Kind) -> _Seen:
    parties = kind.list_parties(claims)
    certificate, proof_key = _read_confirmation(claims)
    scope = claims.get("scope", "")
    try:
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidToken("The token's exp is no moment that a calendar has.") from error
    valid = ValidToken(
        subject=claims["sub"],
        client_id=parties[1],
        actors=list_actors(claims),
        scopes=frozenset(scope.split() if isinstance(scope, str) else ()),
        expires_at=expires_at,
        jti=claims["jti"],
        claims=claims,
    )
    issued_at = claims.get("iat")
    if not isinstance(issued_at, int | float):
        raise InvalidToken("The token has no iat (RFC 9068, 2.2).")
    return _Seen(
        valid=valid,
        ends=claims["exp"] + kind.leeway.total_seconds(),
        kid=kid,
        parties=tuple(dict.fromkeys((*parties, *list_instances(claims)))),
        issued_at=int(issued_at),
        certificate=certificate,
        proof_key=proof_key,
    )


def _read_confirmation(claims: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The certificate and the key that a token is bound to (RFC 7800, section 3.1)."""
    if "cnf" not in claims:
        return None, None
    cnf = claims["cnf"]
    if not isinstance(cnf, Mapping) or not cnf or not {"x5t#S256", "jkt"}.issuperset(cnf):
        raise InvalidToken("The token is bound in a way that isn't understood here.")
    if not all(isinstance(value, str) and value for value in cnf.values()):
        raise InvalidToken("The token's cnf must hold texts.")
    return cnf.get("x5t#S256"), cnf.get("jkt")


def _read_certificate(der: bytes) -> tuple[str, str]:
    """Serial and signer of a certificate, as they are listed; "" where it doesn't say."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return format_serial(certificate.serial_number), read_signer(certificate)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return "", ""


def _refuse_unbound(binding: Binding) -> InvalidToken:
    how = {Binding.MTLS: "to a certificate", Binding.DPOP: "to a DPoP key"}
    if binding is Binding.NONE:
        return InvalidToken("The token is bound to no key: show it with the scheme Bearer.")
    return InvalidToken(
        f"Only tokens that are bound {how.get(binding, 'to their holder')} are taken here."
    )
