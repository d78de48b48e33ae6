"""Names and tokens: SPIFFE IDs, selectors, patterns, naming, join tokens, durations, moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated_text
from troth.cli.words import parse_duration, parse_moment
from troth.core.ids import MAX_SPIFFE_ID_LENGTH, SpiffeId, TokenId, TrustDomain
from troth.core.manifest.reader import read_duration, render_duration
from troth.core.tracing import parse_traceparent, render_traceparent
from troth.identity.naming import VARIABLES, Naming
from troth.identity.pattern import Pattern
from troth.identity.selectors import Selector
from troth.operations.token import parse_token, render_token
from troth.wire.api.faults import explain_fault

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SELECTORS = (
    "unix:uid:1001",
    "unix:path:/usr/bin/x y",
    "unix:sha256:" + "0f" * 32,
    "systemd:unit:a@b.service",
    "container:id:" + "0f" * 32,
)
PATTERNS = (
    "unix:uid:1000-1999",
    "unix:gid:7",
    "systemd:unit:a*b@*.service",
    "unix:path:/opt/*/bin/**",
    "unix:sha256:" + "0f" * 32,
)
VALUES = (
    "1000",
    "7",
    "a-b@c.service",
    "user@1000.service",
    "session-1.scope",
    "/opt/x y/bin/z",
    "0f" * 32,
)
JOIN_TOKEN = render_token(TokenId("jtk_0123456789abcdef01234567"), bytes(range(32)))


@fuzz(mutated_text("spiffe://example.org/a/b", "spiffe://example.org", "spiffe://a." + "b" * 2040))
def fuzz_spiffe_id(text: str) -> None:
    parsed = answer(SpiffeId.parse, text)
    if parsed is not None:
        assert str(parsed) == text
        assert text.isascii()
        assert len(text) <= MAX_SPIFFE_ID_LENGTH
        assert not {".", ".."} & set(text.split("/"))
    domain = answer(TrustDomain.parse, text)
    if domain is not None:
        assert TrustDomain.parse(str(domain.id)) == domain


@fuzz(mutated_text("00-" + "0f" * 16 + "-" + "1e" * 8 + "-01", "cc-" + "ab" * 24 + "-00-x"))
def fuzz_traceparent(text: str) -> None:
    place = parse_traceparent(text)
    if place is not None:
        assert text.isascii()
        assert place.trace_id > 0
        assert parse_traceparent(render_traceparent(place)) == place


@fuzz(mutated_text("Expected `int` >= 1 - at `$.limit`", "Object missing required field `a`"))
def fuzz_fault(text: str) -> None:
    sentence = explain_fault(text)
    assert sentence.endswith(".")
    assert "regex" not in sentence or "regex" in text


@fuzz(mutated_text(*SELECTORS))
def fuzz_selector(text: str) -> None:
    parsed = answer(Selector.parse, text)
    if parsed is not None:
        assert str(parsed) == text
        assert "\n" not in text
        assert Selector.parse(str(parsed)) == parsed


@fuzz(mutated_text(*PATTERNS))
def fuzz_pattern(text: str) -> None:
    pattern = answer(Pattern.parse, text)
    if pattern is None:
        return
    assert str(pattern) == text
    assert Pattern.parse(str(pattern)) == pattern
    assert pattern.meets(pattern)
    if pattern.is_exact:
        assert pattern.fits(pattern.text)
    for value in VALUES:
        if pattern.fits(value):
            # What fits is a value that can be registered, so the identity can be issued to.
            Selector.parse(f"{pattern.key}:{value}")
            assert not value.startswith("user@") or pattern.text.startswith("user@")


@fuzz(st.tuples(mutated_text("{node}/{uid}", "{unit}", "x-{path}/{gid}"), st.text(), st.text()))
def fuzz_naming(found: tuple[str, str, str]) -> None:
    text, value, node = found
    naming = answer(Naming.parse, text)
    if naming is not None:
        values = {**dict.fromkeys(VARIABLES, value), "node": node}
        path = f"/t/{naming.render(values)}"
        assert SpiffeId.of(TrustDomain("example.org"), path).path == path
        assert len(path) <= len("/t/") + naming.longest
        assert path.count("/") == text.count("/") + 2


@fuzz(mutated_text(JOIN_TOKEN))
def fuzz_join_token(text: str) -> None:
    parsed = answer(parse_token, text)
    if parsed is not None:
        token_id, secret = parsed
        assert len(secret) == 32
        assert parse_token(render_token(token_id, secret)) == parsed


@fuzz(
    mutated_text("1h30m", "9999d", "600", "2027-06-30T12:00:00Z", "9999-12-31", "7d")
    | st.sampled_from(["9" * 5_000, "9" * 12 + "d", "0001-01-01T00:00:00+23:59"])
)
def fuzz_time(text: str) -> None:
    answer(parse_duration, text)
    moment = answer(parse_moment, text, NOW)
    if moment is not None:
        assert moment.tzinfo is not None
    duration = answer(read_duration, text)
    if duration is not None and duration < timedelta(days=365):
        assert read_duration(render_duration(duration)) == duration
