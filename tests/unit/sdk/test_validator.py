"""A resource server's judgement: what is checked once, what each time, and what stays usable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.issuer import make_private_key
from tests.fakes.oauth import API, ISSUER, ME, FakeAuthorizationServer
from tests.fakes.proofs import find_thumbprint, make_proof
from tests.fakes.tiny_ca import TinyCa
from troth.core.errors import TrothError, Unavailable
from troth.live.revocations import Revocations
from troth.policy.resource import Binding
from troth.sdk import validator as module
from troth.sdk.credential import thumbprint
from troth.sdk.errors import InvalidProof, InvalidToken
from troth.sdk.guard import PeerGuard
from troth.sdk.keys import KeySet
from troth.sdk.replay import ReplayMemory
from troth.sdk.validator import Sight, TokenValidator
from troth.wire.api.problems import Unreachable
from troth.wire.api.revocations import RevocationChange, RevocationHeartbeat, RevocationSnapshot

URL = f"{API}/entries"


class Stage:
    """A validator, its issuer, and the stream that tells whom to refuse."""

    def __init__(self, binding: Binding = Binding.NONE, capacity: int = 100) -> None:
        self.server = FakeAuthorizationServer()
        self.clock = self.server.clock
        # A guard that nobody started: a test says what the stream brings.
        self.guard = PeerGuard([f"{ISSUER}"], "unix:///agent.sock", clock=self.clock)
        self.known: Revocations = self.guard._known
        self.spawned: list[Callable[[], None]] = []
        issuer = self.server.connect()
        self.keys = KeySet(issuer, self.clock, self.spawned.append)
        self.validator = TokenValidator(
            issuer,
            [API],
            self.guard,
            binding=binding,
            keys=self.keys,
            clock=self.clock,
            capacity=capacity,
        )
        self.hear()

    def hear(self, **known: Any) -> None:
        values: dict[str, Any] = {"cut_off": {}, "revoked": {}, "distrusted": {}, **known}
        message = RevocationSnapshot(
            epoch=1, mark="m", as_of=0, lease=15, trust_domain="example.org", **values
        )
        self.known.take(message, self.clock.monotonic())

    def advance(self, seconds: float, *, connected: bool = True) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        if connected:
            message = RevocationHeartbeat(epoch=self.known.epoch, mark="", as_of=0)
            self.known.take(message, self.clock.monotonic())

    def check(self, token: str, scheme: str = "bearer", **sight: Any) -> Any:
        return self.validator.check(Sight(scheme, token, **sight))

    @property
    def fetched(self) -> int:
        return self.server.count_paths("/oauth/jwks")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_good_token_says_who_it_is_and_what_it_permits(stage: Stage) -> None:
    act = {"sub": "spiffe://example.org/agent", "act": {"sub": "spiffe://example.org/older"}}
    token = stage.check(stage.server.issue(scope="read write", act=act))
    assert (token.subject, token.client_id, token.jti) == (ME, ME, "tok_1")
    assert token.actors == ("spiffe://example.org/agent", "spiffe://example.org/older")
    assert token.scopes == {"read", "write"}
    assert (token.expires_at - stage.clock.now()).total_seconds() == 600


def test_a_token_seen_before_is_not_verified_again(stage: Stage, monkeypatch) -> None:
    text = stage.server.issue()
    first = stage.check(text)
    monkeypatch.setattr(module, "validate_parsed_token", None)
    assert stage.check(text) is first


def test_a_token_seen_before_ends_all_the_same(stage: Stage) -> None:
    text = stage.server.issue()
    stage.check(text)
    for _ in range(62):
        stage.advance(10)
    stage.check(text)  # half a minute is left to clocks that differ
    stage.advance(10)
    with pytest.raises(InvalidToken, match="expired"):
        stage.check(text)
    with pytest.raises(InvalidToken, match="expired"):
        stage.check(text)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("who", [ME, "spiffe://example.org/agent", "spiffe://example.org/older"])
def test_who_is_cut_off_takes_every_token_with_it(stage: Stage, who: str, seen: bool) -> None:
    act = {"sub": "spiffe://example.org/agent", "act": {"sub": "spiffe://example.org/older"}}
    text = stage.server.issue(act=act)
    if seen:
        stage.check(text)
    change = RevocationChange(
        since=1, epoch=2, mark="m", as_of=0, lease=15, cut_off={who: "quarantined"}
    )
    stage.known.take(change, stage.clock.monotonic())
    with pytest.raises(InvalidToken, match=f"{who} is quarantined"):
        stage.check(text)


def test_the_client_counts_beside_the_subject(stage: Stage) -> None:
    text = stage.server.issue(client_id="spiffe://example.org/other")
    stage.check(text)
    stage.hear(cut_off={"spiffe://example.org/other": "suspended"})
    with pytest.raises(InvalidToken, match="other is suspended"):
        stage.check(text)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("copy", ["ins_actor", "ins_subject"])
def test_a_copy_that_is_locked_takes_what_it_obtained_with_it(
    stage: Stage, copy: str, seen: bool
) -> None:
    text = stage.server.issue(troth_instances=["ins_actor", "ins_subject"])
    sibling = stage.server.issue(troth_instances=["ins_sibling", "ins_subject_s_sibling"])
    plain = stage.server.issue()
    if seen:
        stage.check(text)
    now = int(stage.clock.now().timestamp())
    change = RevocationChange(
        since=1, epoch=2, mark="m", as_of=0, lease=15, issued_until={copy: now + 1}
    )
    stage.known.take(change, stage.clock.monotonic())
    with pytest.raises(InvalidToken, match=copy):
        stage.check(text)
    stage.check(sibling)
    stage.check(plain)
    stage.advance(2)
    stage.check(stage.server.issue(troth_instances=["ins_actor", "ins_subject"]))
    with pytest.raises(InvalidToken, match=copy):
        stage.check(text)


def test_a_key_that_is_trusted_no_more_ends_what_it_signed(stage: Stage) -> None:
    text = stage.server.issue()
    stage.check(text)
    kid = stage.server.published[0]["kid"]
    stage.hear(distrusted={kid: int(stage.clock.now().timestamp()) + 100})
    with pytest.raises(InvalidToken, match="trusted no more"):
        stage.check(text)


def test_a_key_that_is_published_no_more_ends_what_it_signed(stage: Stage) -> None:
    text = stage.server.issue()
    stage.check(text)
    stage.server.published = []
    stage.advance(301)
    stage.check(text)  # the keys are fetched while everybody goes on
    (work,) = stage.spawned
    work()
    stage.advance(1)
    with pytest.raises(InvalidToken, match="no key with the token's kid"):
        stage.check(text)


def test_without_a_word_from_a_server_nobody_can_say(stage: Stage) -> None:
    text = stage.server.issue()
    stage.check(text)
    stage.advance(16, connected=False)
    with pytest.raises(Unavailable, match="longer than the lease"):
        stage.check(text)


def test_a_service_may_choose_to_go_without_revocations() -> None:
    server = FakeAuthorizationServer()
    issuer = server.connect()
    validator = TokenValidator(issuer, API, None, clock=server.clock)
    assert validator.check(Sight("bearer", server.issue())).subject == ME


def test_the_keys_are_fetched_when_a_token_names_another_but_not_for_everybody(
    stage: Stage,
) -> None:
    stage.check(stage.server.issue())
    assert stage.fetched == 1
    new = make_private_key(78)
    text = stage.server.issue(key=new)
    with pytest.raises(InvalidToken):  # within the interval
        stage.check(text)
    assert stage.fetched == 1
    stage.advance(10)
    stage.server.published.append(stage.server.describe_key(new))
    assert stage.check(text).subject == ME
    assert stage.fetched == 2
    for number in range(5):
        with pytest.raises(InvalidToken):
            stage.check(stage.server.issue(key=make_private_key(100 + number)))
    assert stage.fetched == 2


def test_the_keys_stay_usable_while_the_issuer_is_briefly_away(stage: Stage) -> None:
    stage.server.life = 10_000
    text = stage.server.issue()
    stage.check(text)
    stage.server.down = Unreachable("Away.")
    stage.advance(3000)
    assert stage.check(text).subject == ME
    assert stage.check(stage.server.issue()).subject == ME
    for work in stage.spawned:
        work()
    stage.advance(601)
    with pytest.raises(Unavailable, match="Away"):
        stage.check(text)
    stage.server.down = None
    stage.advance(10)
    assert stage.check(text).subject == ME


def test_before_the_first_keys_nobody_can_say(stage: Stage) -> None:
    stage.server.down = Unreachable("Away.")
    text = stage.server.issue()
    with pytest.raises(Unavailable, match="Away"):
        stage.check(text)
    with pytest.raises(Unavailable, match="Away"):
        stage.check(text)
    assert len(stage.server.requests) == 1


def test_an_event_loop_isn_t_blocked_while_keys_are_fetched(stage: Stage) -> None:
    text, threads = stage.server.issue(), []
    refresh = stage.keys.refresh

    def note() -> None:
        threads.append(threading.current_thread())
        refresh()

    stage.keys.refresh = note  # type: ignore[method-assign]
    assert asyncio.run(stage.validator.check_async(Sight("bearer", text))).subject == ME
    assert threads[0] is not threading.main_thread()


def test_keys_that_can_t_be_used_are_passed_over(stage: Stage) -> None:
    good = stage.server.published[0]
    broken: Iterable[Any] = [
        7,
        {},
        {"kty": "oct", "k": "AA", "kid": good["kid"], "alg": "HS256"},
        {**good, "use": "enc"},
        {**good, "alg": "HS256"},
        {**good, "alg": ["ES256"]},
        {**good, "alg": "RS256"},
        {**good, "kid": 7},
        {**good, "d": "AA"},
    ]
    stage.server.published = [*broken, {n: v for n, v in good.items() if n != "alg"}]
    assert stage.check(stage.server.issue()).subject == ME
    assert list(stage.keys.usable) == [good["kid"]]


@pytest.mark.parametrize(
    "claims",
    [
        {"header": {"typ": "JWT"}},
        {"header": {"typ": None}},
        {"header": {"kid": None}},
        {"header": {"jku": "https://evil.example/jwks"}},
        {"iss": "https://evil.example"},
        {"aud": "https://other.example"},
        {"aud": None},
        {"exp": None},
        {"exp": 1},
        {"exp": 1 << 52},
        {"iat": None},
        {"iat": 99999999999},
        {"sub": None},
        {"client_id": 7},
        {"jti": None},
        {"cnf": {}},
        {"cnf": "x"},
        {"cnf": {"kid": "x"}},
        {"cnf": {"jkt": 7}},
        {"cnf": None, "act": "x"},
        {"act": {"sub": 7}},
        {"troth_instances": "ins_1"},
        {"troth_instances": [7]},
    ],
)
def test_what_is_no_sound_token_is_refused(stage: Stage, claims: dict[str, Any]) -> None:
    text = stage.server.issue(**claims)
    with pytest.raises(InvalidToken):
        stage.check(text)


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "x" * 20_000, "\udcff", "\udd00a.b.c", "ä.ä.ä"])
def test_what_is_no_token_at_all_is_refused(stage: Stage, text: str) -> None:
    with pytest.raises(InvalidToken):
        stage.check(text)


def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch) -> None:
    stage = Stage(capacity=3)
    texts = [stage.server.issue() for _ in range(5)]
    for text in texts:
        stage.check(text)
    assert len(stage.validator._seen) == 3
    monkeypatch.setattr(module, "validate_parsed_token", None)
    stage.check(texts[-1])
    with pytest.raises(TypeError):
        stage.check(texts[0])


# Bound tokens


def test_a_token_bound_to_a_certificate_is_good_with_that_one_alone(stage: Stage) -> None:
    ca = TinyCa()
    mine, other = ca.issue("/billing").chain[0], ca.issue("/billing").chain[0]
    text = stage.server.issue(cnf={"x5t#S256": thumbprint(mine)})
    for _ in range(2):
        assert stage.check(text, certificate=mine).subject == ME
        for shown in (None, other):
            with pytest.raises(InvalidToken, match="another certificate"):
                stage.check(text, certificate=shown)
    with pytest.raises(InvalidToken, match="scheme"):
        stage.check(text, "dpop", certificate=mine)


def test_a_certificate_that_was_revoked_takes_its_tokens_with_it(stage: Stage) -> None:
    mine = TinyCa().issue("/billing").chain[0]
    text = stage.server.issue(cnf={"x5t#S256": thumbprint(mine)})
    stage.check(text, certificate=mine)
    serial, _ = module._read_certificate(mine)
    stage.hear(revoked={serial: int(stage.clock.now().timestamp()) + 100})
    with pytest.raises(InvalidToken, match=f"certificate {serial} was revoked"):
        stage.check(text, certificate=mine)


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return make_private_key(5)


def prove(stage: Stage, key: ec.EllipticCurvePrivateKey, text: str, **claims: Any) -> dict:
    proof = make_proof(key, "GET", URL, stage.clock.now(), text, **claims)
    return {"scheme": "dpop", "proof": proof, "method": "GET", "url": URL}


def test_a_token_bound_to_a_key_needs_a_proof_each_time(stage: Stage, key) -> None:
    text = stage.server.issue(cnf={"jkt": find_thumbprint(key)})
    assert stage.check(text, **prove(stage, key, text)).subject == ME
    with pytest.raises(InvalidProof, match="used before"):
        stage.check(text, **prove(stage, key, text))
    assert stage.check(text, **prove(stage, key, text, jti="p2")).subject == ME
    with pytest.raises(InvalidToken, match="scheme dpop"):
        stage.check(text)
    with pytest.raises(InvalidProof, match="needs a DPoP proof"):
        stage.check(text, "dpop")


def test_a_proof_of_another_key_request_or_time_is_none(stage: Stage, key) -> None:
    text = stage.server.issue(cnf={"jkt": find_thumbprint(key)})
    other = stage.server.issue(cnf={"jkt": find_thumbprint(key)}, scope="write")
    wrong: list[tuple[dict[str, Any], type[TrothError]]] = [
        (prove(stage, make_private_key(6), text), InvalidToken),
        (prove(stage, key, other), InvalidProof),
        (prove(stage, key, text, htm="POST"), InvalidProof),
        (prove(stage, key, text, htu=f"{API}/other"), InvalidProof),
        (prove(stage, key, text, iat=int(stage.clock.now().timestamp()) - 61), InvalidProof),
        (prove(stage, key, text) | {"proof": "a.b.c"}, InvalidProof),
    ]
    for sight, error in wrong:
        with pytest.raises(error):
            stage.check(text, **sight)
    assert stage.check(text, **prove(stage, key, text)).subject == ME


def test_the_proof_of_one_who_isn_t_let_in_is_not_used_up(stage: Stage, key) -> None:
    text = stage.server.issue(cnf={"jkt": find_thumbprint(key)})
    stage.hear(cut_off={ME: "suspended"})
    with pytest.raises(InvalidToken):
        stage.check(text, **prove(stage, key, text))
    stage.hear()
    assert stage.check(text, **prove(stage, key, text)).subject == ME


@pytest.mark.parametrize(
    ("binding", "cnf", "good"),
    [
        (Binding.NONE, (), True),
        (Binding.NONE, ("mtls",), True),
        (Binding.ANY, (), False),
        (Binding.ANY, ("mtls",), True),
        (Binding.ANY, ("dpop",), True),
        (Binding.MTLS, (), False),
        (Binding.MTLS, ("dpop",), False),
        (Binding.MTLS, ("mtls",), True),
        (Binding.DPOP, ("mtls",), False),
        (Binding.DPOP, ("dpop",), True),
        (Binding.DPOP, ("dpop", "mtls"), True),
    ],
)
def test_a_resource_says_which_tokens_it_takes(binding, cnf, good, key) -> None:
    stage = Stage(binding)
    mine = TinyCa().issue("/billing").chain[0]
    ways = {"mtls": {"x5t#S256": thumbprint(mine)}, "dpop": {"jkt": find_thumbprint(key)}}
    claims = {name: value for way in cnf for name, value in ways[way].items()}
    text = stage.server.issue(cnf=claims or None)
    sight = prove(stage, key, text) if "dpop" in cnf else {"scheme": "bearer"}
    if good:
        assert stage.check(text, certificate=mine, **sight).subject == ME
        return
    with pytest.raises(InvalidToken, match="bound"):
        stage.check(text, certificate=mine, **sight)


def test_an_unbound_token_is_not_taken_with_the_scheme_of_a_proof(stage: Stage) -> None:
    with pytest.raises(InvalidToken, match="bound to no key"):
        stage.check(stage.server.issue(), "dpop")


def test_what_was_shown_is_remembered_as_long_as_it_would_work_and_no_more(stage: Stage) -> None:
    memory = ReplayMemory(stage.clock, 90, capacity=2)
    assert memory.add("a")
    stage.advance(89)
    assert not memory.add("a")
    assert memory.add("b")
    with pytest.raises(Unavailable):
        memory.add("c")
    stage.advance(1)
    assert memory.add("a")
