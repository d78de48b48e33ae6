"""SPIFFE IDs, row by row from SPIFFE-ID.md sections 2 to 2.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.entropy import SeededEntropy
from troth.core.errors import Invalid
from troth.core.ids import MAX_SPIFFE_ID_LENGTH, SpiffeId, TrustDomain, check_path, new_id

LONGEST_DOMAIN = "d" * 255
LONGEST_ID = "spiffe://example.org/" + "p" * (MAX_SPIFFE_ID_LENGTH - 21)

VALID = [
    ("spiffe://staging.example.com/payments/mysql", "staging.example.com", "/payments/mysql"),
    ("spiffe://k8s-west.example.com/ns/staging/sa/default", "k8s-west.example.com", None),
    ("spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453", "example.com", None),
    ("spiffe://example.com", "example.com", ""),
    ("spiffe://1.2.3.4/service", "1.2.3.4", "/service"),
    ("spiffe://under_score.-dash/x", "under_score.-dash", "/x"),
    ("spiffe://example.org/UPPER/lower/0-9._-", "example.org", "/UPPER/lower/0-9._-"),
    ("spiffe://example.org/...", "example.org", "/..."),
    ("spiffe://example.org/.hidden/a..b", "example.org", "/.hidden/a..b"),
    (f"spiffe://{LONGEST_DOMAIN}/x", LONGEST_DOMAIN, "/x"),
    (LONGEST_ID, "example.org", None),
]

INVALID = [
    ("", "must start with 'spiffe://'"),
    ("spiffe:/example.org/x", "must start with 'spiffe://'"),
    ("SPIFFE://example.org/x", "must start with 'spiffe://'"),
    ("https://example.org/x", "must start with 'spiffe://'"),
    (" spiffe://example.org/x", "must start with 'spiffe://'"),
    ("spiffe://", "trust domain is empty"),
    ("spiffe:///path", "trust domain is empty"),
    ("spiffe://Example.org/x", "not a trust domain"),
    ("spiffe://user@example.org/x", "not a trust domain"),
    ("spiffe://user:secret@example.org/x", "not a trust domain"),
    ("spiffe://example.org:8443/x", "not a trust domain"),
    ("spiffe://[::1]/x", "not a trust domain"),
    ("spiffe://exa%6dple.org/x", "not a trust domain"),
    ("spiffe://exämple.org/x", "not a trust domain"),
    ("spiffe://example.org?q", "not a trust domain"),
    ("spiffe://example.org#f", "not a trust domain"),
    ("spiffe://example.org\n/x", "not a trust domain"),
    ("spiffe://spiffe://example.org", "not a trust domain"),
    (f"spiffe://{LONGEST_DOMAIN}d/x", "longer than 255"),
    ("spiffe://example.org/", "must not end with '/'"),
    ("spiffe://example.org/x/", "must not end with '/'"),
    ("spiffe://example.org//x", "empty segment"),
    ("spiffe://example.org/x//y", "empty segment"),
    ("spiffe://example.org/./x", "relative segment '.'"),
    ("spiffe://example.org/x/..", "relative segment '..'"),
    ("spiffe://example.org/x?q=1", "outside A-Z"),
    ("spiffe://example.org/x#f", "outside A-Z"),
    ("spiffe://example.org/%41", "outside A-Z"),
    ("spiffe://example.org/x y", "outside A-Z"),
    ("spiffe://example.org/x\n", "outside A-Z"),
    ("spiffe://example.org/x:y", "outside A-Z"),
    ("spiffe://example.org/é", "outside A-Z"),
    ("spiffe://example.org/٣", "outside A-Z"),  # a digit, but not of ASCII
    (LONGEST_ID + "p", "longer than 2048"),
]


@pytest.mark.parametrize(("uri", "domain", "path"), VALID)
def test_valid_ids_round_trip(uri, domain, path):
    parsed = SpiffeId.parse(uri)
    assert str(parsed) == uri
    assert parsed.trust_domain.name == domain
    assert path is None or parsed.path == path


@pytest.mark.parametrize(("uri", "reason"), INVALID)
def test_invalid_ids_say_why(uri, reason):
    with pytest.raises(Invalid) as caught:
        SpiffeId.parse(uri)
    assert reason in caught.value.detail
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 250


@pytest.mark.parametrize("path", ["/a", "/a/b", "/A-Z.0_9"])
def test_of_joins_what_parse_splits(path):
    made = SpiffeId.of(TrustDomain.parse("example.org"), path)
    assert SpiffeId.parse(str(made)) == made


def test_of_counts_the_whole_length():
    with pytest.raises(Invalid, match="longer than 2048"):
        SpiffeId.of(TrustDomain.parse("example.org"), "/" + "p" * 2030)


def test_a_path_must_start_with_a_slash():
    with pytest.raises(Invalid, match="must start with '/'"):
        check_path("x")
    check_path("")


def test_trust_domain_takes_its_uri_form_and_has_an_id():
    domain = TrustDomain.parse("spiffe://example.org")
    assert domain == TrustDomain.parse("example.org")
    assert str(domain.id) == "spiffe://example.org"
    assert str(domain) == "example.org"


@given(st.text(max_size=60))
def test_whatever_parses_is_made_of_the_standards_characters(tail):
    try:
        parsed = SpiffeId.parse("spiffe://example.org" + tail)
    except Invalid:
        return
    assert parsed.trust_domain.name.startswith("example.org")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-:")
    assert set(str(parsed)) <= allowed
    assert not {".", "..", ""} & set(parsed.path.split("/")[1:])


def test_record_ids_are_typed_random_and_reproducible():
    first, second = SeededEntropy(1), SeededEntropy(1)
    one = new_id("idn", first)
    assert one == new_id("idn", second)
    assert one != new_id("idn", first)
    assert one.startswith("idn_")
    assert len(one) == 4 + 24
