"""Outside issuers: which claims mean whom, and which conditions would let strangers in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clients import render_manifest
from tests.fakes.identities import NOW
from tests.fakes.outsiders import GITHUB, MAIN
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.issuer import Condition, Issuer, Rule, find_meant, fits_text
from troth.identity.issuer_fields import split_segments
from troth.manifests.reading import ManifestSet, parse_manifests

GITLAB = "https://gitlab.com"
CLUSTER = "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC"
GOOGLE = "https://accounts.google.com"
TENANT = "https://login.microsoftonline.com/8a4b0f5e-0000-0000-0000-000000000001/v2.0"
AWS = "https://11111111-2222-3333-4444-555555555555.tokens.sts.global.api.aws"
OTHER = "https://id.example.net"


def check(url: str, claims: Any, /, **spec: Any) -> ManifestSet:
    rule = {"identity": "shop-deploy", "claims": claims}
    value = render_manifest("Issuer", "outside", **{"url": url, "identities": [rule], **spec})
    return parse_manifests([PlainDocument(value)], Limits(), NOW)


def read(url: str, claims: Any, /, **spec: Any) -> Issuer:
    found = check(url, claims, **spec)
    assert not found.errors, [str(one) for one in found.errors]
    return found.issuers[0]


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        (MAIN, MAIN, True),
        (MAIN, MAIN + "x", False),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/a/b:ref:refs/heads/main", False),
        ("repo:acme/shop:*", "repo:acme/shop:pull_request", True),
        ("repo:acme/shop:*", "repo:acme/shop:ref:refs/heads/main", False),
        ("repo:acme*/shop", "repo:acme-evil/shop", True),
        ("a/release-*", "a/release-", False),
        ("a/*-x", "a/-x", False),
        ("a/b*b", "a/b", False),
        ("a/b*b", "a/bb", False),
        ("a/b*b", "a/bxb", True),
        ("*@p.iam.gserviceaccount.com", "ci@p.iam.gserviceaccount.com", True),
        ("*@p.iam.gserviceaccount.com", "ci@x@p.iam.gserviceaccount.com", False),
        ("a:*", "a/x", False),
        ("*", "", False),
    ],
)
def test_a_wildcard_stays_inside_its_segment(pattern: str, text: str, fits: bool) -> None:
    assert fits_text(pattern, text) is fits


TEXTS = st.text("ab/:@|*", max_size=12)


@given(TEXTS, TEXTS)
def test_what_fits_is_what_is_written_out_segment_by_segment(pattern: str, text: str) -> None:
    """Against the definition: as many segments, the same separators, a star for one or more."""
    import re

    if any(part.count("*") > 1 for part in split_segments(pattern)):
        return  # refused when it is read
    shape = "".join("[^/:@|]+" if c == "*" else re.escape(c) for c in pattern)
    assert fits_text(pattern, text) is bool(re.fullmatch(shape, text))


def rule(identity: str, **claims: str | tuple[str, ...]) -> Rule:
    return Rule(
        identity,
        tuple(
            Condition((name,), (texts,) if isinstance(texts, str) else texts)
            for name, texts in claims.items()
        ),
    )


def issuer(*rules: Rule) -> Issuer:
    return Issuer("gh", {}, "o", "p", GITHUB, "", "", False, "", ("ES256",), NOW - NOW, rules)


def test_all_conditions_must_hold_and_one_text_of_each() -> None:
    found = issuer(rule("shop", sub=MAIN, environment=("prod", "staging")))
    assert find_meant(found, {"sub": MAIN, "environment": "staging"}) == "shop"
    assert find_meant(found, {"sub": MAIN, "environment": "dev"}) is None
    assert find_meant(found, {"sub": MAIN}) is None
    assert find_meant(found, {}) is None


def test_who_could_be_several_is_nobody() -> None:
    both = issuer(rule("shop", sub=MAIN), rule("other", repository_id="456"))
    assert find_meant(both, {"sub": MAIN, "repository_id": "456"}) is None
    assert find_meant(both, {"sub": MAIN}) == "shop"
    same = issuer(rule("shop", sub=MAIN), rule("shop", repository_id="456"))
    assert find_meant(same, {"sub": MAIN, "repository_id": "456"}) == "shop"


def test_a_rule_without_conditions_fits_nobody() -> None:
    assert find_meant(issuer(Rule("shop", ())), {"sub": MAIN}) is None
    assert find_meant(issuer(Rule("shop", (Condition(("sub",), ()),))), {"sub": MAIN}) is None


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("7", True),
        (7, True),
        (["x", 7], True),
        (7.0, False),
        ("07", False),
        (None, False),
        ({"7": 1}, False),
        ([["7"]], False),
        (True, False),
    ],
)
def test_numbers_and_lists_are_read_as_their_texts(value: Any, fits: bool) -> None:
    assert Condition(("project_id",), ("7",)).holds({"project_id": value}) is fits


def test_nested_claims_and_names_with_dots() -> None:
    found = read(
        CLUSTER,
        {"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": ["shop", "till"]}}},
    )
    claims = {"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "till"}}}
    assert find_meant(found, claims) == "shop-deploy"
    claims["kubernetes.io"]["namespace"] = "dev"
    assert find_meant(found, claims) is None
    assert find_meant(found, {"kubernetes.io": "prod"}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(st.dictionaries(st.sampled_from(["sub", "repository_id", "a"]), JSON))
def test_whatever_a_token_says_more_conditions_never_let_more_in(claims: dict[str, Any]) -> None:
    wide = rule("shop", repository_id="1*")
    narrow = Rule("shop", (*wide.conditions, Condition(("sub",), ("a*",))))
    assert narrow.fits(claims) <= wide.fits(claims)


REFUSED: list[tuple[str, Any, str]] = [
    (GITHUB, {"sub": "*"}, "bare wildcard"),
    (GITHUB, {"sub": "*:*"}, "bare wildcard"),
    (GITHUB, {"sub": MAIN, "ref": "*"}, "bare wildcard"),
    (GITHUB, {"sub": "repo:*/shop:ref:refs/heads/main"}, "leave open whose workload"),
    (GITHUB, {"sub": "repo:acme*/shop:ref:refs/heads/main"}, "leave open whose workload"),
    (GITHUB, {"sub": "repo:acme@*/shop@*:ref:refs/heads/main"}, "leave open whose workload"),
    (GITHUB, {"sub": "repo:*"}, "leave open whose workload"),
    (GITHUB, {"sub": [MAIN, "repo:*/shop:x"]}, "leave open whose workload"),
    (GITHUB, {"sub": "environment:prod"}, "leave open whose workload"),
    (GITHUB, {"sub": "repository_owner_id:12*"}, "leave open whose workload"),
    (GITHUB, {"repository": "*/shop"}, "leave open whose workload"),
    (GITHUB, {"repository_id": "45*"}, "leave open whose workload"),
    (GITHUB, {"ref": "refs/heads/main"}, "nothing in it says whose workload"),
    (GITHUB, {"environment": "prod", "actor": "octocat"}, "nothing in it says whose workload"),
    (GITHUB, {"job_workflow_ref": "acme/ci/.github/workflows/d.yml@main"}, "reusable workflow"),
    (GITLAB, {"ref": "main", "ref_protected": "true"}, "nothing in it says whose workload"),
    (GITLAB, {"sub": "project_path:*/shop:ref_type:branch:ref:main"}, "leave open whose workload"),
    (GITLAB, {"project_path": "acme*/shop"}, "leave open whose workload"),
    (GITLAB, {"project_id": "2*"}, "leave open whose workload"),
    ("https://git.example.com", {"project_path": "*/shop"}, "leave open whose workload"),
    (CLUSTER, {"sub": "system:serviceaccount:*:shop"}, "leave open whose workload"),
    (CLUSTER, {"sub": "system:serviceaccount:prod-*:shop"}, "leave open whose workload"),
    (CLUSTER, {"kubernetes.io": {"serviceaccount": {"name": "shop"}}}, "nothing in it says"),
    (CLUSTER, {"kubernetes.io": {"namespace": "pr*"}}, "leave open whose workload"),
    (GOOGLE, {"email_verified": True}, "nothing in it says whose workload"),
    (GOOGLE, {"email": "*@acme.iam.gserviceaccount.com"}, "leave open whose workload"),
    (GOOGLE, {"sub": "1101*"}, "leave open whose workload"),
    (TENANT, {"tid": "8a4b0f5e"}, "nothing in it says whose workload"),
    (TENANT, {"oid": "a*"}, "leave open whose workload"),
    (
        "https://login.microsoftonline.com/common/v2.0",
        {"oid": "a"},
        "names no tenant",
    ),
    ("https://sts.windows.net/", {"oid": "a"}, "names no tenant"),
    (AWS, {"sub": "arn:aws:iam::*:role/shop"}, "leave open whose workload"),
    (OTHER, {"sub": "ci-*"}, "leave open whose workload"),
    (OTHER, {"sub": "*/shop"}, "leave open whose workload"),
    (OTHER, {"sub": "/*"}, "bare wildcard"),
    (OTHER, {"sub": "spiffe://*/shop"}, "leave open whose workload"),
    (OTHER, {"tenant": "acme"}, "nothing in it says whose workload"),
    (OTHER, {}, "without one anybody would fit"),
    (OTHER, {"sub": "a**"}, "one '*' between"),
    (OTHER, {"sub": "a*b*c"}, "one '*' between"),
    (OTHER, {"sub": ""}, "1 to 512"),
    (OTHER, {"sub": []}, "must not be empty"),
    (OTHER, {"sub": 1.5}, "must be a text"),
    (OTHER, {"sub": "x", "aud": "y"}, "checked by itself"),
    (OTHER, {"sub": "x", "a": {"b": {"c": {"d": {"e": "f"}}}}}, "4 levels deep"),
    (OTHER, {"sub": "x", "a": {}}, "must not be empty"),
]


@pytest.mark.parametrize(("url", "claims", "reason"), REFUSED)
def test_what_would_let_strangers_in_is_refused(url: str, claims: Any, reason: str) -> None:
    found = check(url, claims)
    assert any(reason in str(one) for one in found.errors), [str(one) for one in found.problems]
    assert found.issuers == ()


DOUBTFUL: list[tuple[str, Any, str]] = [
    (GITHUB, {"sub": "repo:acme/shop:ref:refs/heads/main"}, "repository_id"),
    (GITHUB, {"repository": "acme/shop", "ref": "refs/heads/main"}, "repository_id"),
    (GITHUB, {"sub": "repo:acme@1/*:ref:refs/heads/main"}, "made later too"),
    (GITHUB, {"repository_owner_id": 1, "ref": "refs/heads/main"}, "every repository of the owner"),
    (GITHUB, {"repository_id": 456}, "every branch, tag and pull request"),
    (GITHUB, {"sub": "repo:acme@1/shop@2:pull_request"}, "open a pull request"),
    (GITHUB, {"repository_id": 456, "event_name": "pull_request_target"}, "open a pull request"),
    (GITHUB, {"sub": "repo:acme@1/shop@2:*"}, "fits pull requests alone"),
    (
        GITHUB,
        {"repository_id": 456, "job_workflow_ref": "acme/ci/.github/workflows/d.yml@*"},
        "from any of its branches",
    ),
    (GITLAB, {"project_id": 22}, "may push a branch"),
    (GITLAB, {"project_path": "acme/shop", "ref_protected": "true"}, "add project_id"),
    (GITLAB, {"project_id": 22, "ref": "main"}, "a tag may have the name"),
    (GITLAB, {"namespace_id": 7, "ref_protected": "true"}, "every project of the group"),
    (CLUSTER, {"sub": "system:serviceaccount:prod:*"}, "made later too"),
    (CLUSTER, {"kubernetes.io": {"namespace": "prod"}}, "every service account"),
    (
        "https://kubernetes.default.svc.cluster.local",
        {"sub": "system:serviceaccount:prod:shop"},
        "every cluster has this name",
    ),
    (GOOGLE, {"email": "ci@acme.iam.gserviceaccount.com"}, "email_verified"),
    (TENANT, {"oid": "00000000-0000-0000-0000-000000000002"}, "no audience"),
    (AWS, {"sub": "arn:aws:iam::123456789012:role/*"}, "made later too"),
    (
        AWS,
        {"https://sts.amazonaws.com/": {"aws_account": "123456789012"}},
        "every role of the account",
    ),
    (OTHER, {"sub": "spiffe://other.example/*"}, "write it out if you can"),
]


@pytest.mark.parametrize(("url", "claims", "words"), DOUBTFUL)
def test_what_is_probably_not_meant_is_warned_about(url: str, claims: Any, words: str) -> None:
    found = check(url, claims)
    assert not found.errors
    assert any(words in str(one) for one in found.warnings), [str(one) for one in found.warnings]


SOUND: list[tuple[str, Any, dict[str, Any]]] = [
    (GITHUB, {"sub": MAIN}, {}),
    (GITHUB, {"repository_id": 456, "environment": "prod"}, {}),
    (GITHUB, {"sub": "repo:acme@1/shop@2:environment:*"}, {}),
    (GITHUB, {"sub": "repository_owner_id:1:repository_id:2", "repository_id": 2, "ref": "x"}, {}),
    (GITLAB, {"project_id": 22, "ref_protected": True}, {}),
    (GITLAB, {"project_id": 22, "ref": "main", "ref_type": "branch"}, {}),
    (CLUSTER, {"sub": "system:serviceaccount:prod:shop"}, {}),
    (GOOGLE, {"sub": "110169484474386276334"}, {}),
    (TENANT, {"oid": "00000000-0000-0000-0000-000000000002"}, {"audience": "api://troth"}),
    (AWS, {"sub": "arn:aws:iam::123456789012:role/shop"}, {}),
    (OTHER, {"sub": "spiffe://other.example/shop"}, {}),
]


@pytest.mark.parametrize(("url", "claims", "spec"), SOUND)
def test_what_is_sound_is_taken_without_a_word(url: str, claims: Any, spec: Any) -> None:
    assert not check(url, claims, **spec).problems


SPECS: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://id.example.net"}, "must be an https URL"),
    ({"url": "https://"}, "must be an https URL"),
    ({"url": "https://a b"}, "without blanks"),
    ({"url": "https://u:p@id.example.net"}, "no user"),
    ({"url": "https://id.example.net?x=1"}, "no query"),
    ({"url": "https://id.example.net#x"}, "no fragment"),
    ({"url": "https://id.example.net:99999"}, "is not a URL"),
    ({"url": "https://[::1"}, "is not a URL"),
    ({"jwksUri": "file:///etc/passwd"}, "must be an https URL"),
    ({"ca": "no certificate"}, "no certificate in PEM"),
    ({"algorithms": ["HS256"]}, "can't sign assertions"),
    ({"algorithms": ["none"]}, "can't sign assertions"),
    ({"algorithms": []}, "at least one"),
    ({"maxLife": "26h"}, "at most 25h"),
    ({"privateNetwork": "yes"}, "true or false"),
    ({"identities": []}, "at least one rule"),
    ({"identities": [{"identity": "a"}]}, "a mapping of 'identity' and 'claims'"),
    ({"identities": ["a"]}, "a mapping of 'identity' and 'claims'"),
    ({"identities": [{"identity": "A", "claims": {"sub": "x"}}]}, "lower-case"),
    (
        {
            "identities": [
                {"identity": "a", "claims": {"sub": "x"}},
                {"identity": "b", "claims": {"sub": "x"}},
            ]
        },
        "mean 'a'",
    ),
]


@pytest.mark.parametrize(("spec", "reason"), SPECS)
def test_fields_are_bounded(spec: dict[str, Any], reason: str) -> None:
    found = check(OTHER, {"sub": "x"}, **spec)
    assert any(reason in str(one) for one in found.errors), [str(one) for one in found.problems]


def test_an_audience_that_others_have_too_is_warned_about() -> None:
    found = check(GITHUB, {"sub": MAIN}, audience="https://github.com/acme")
    assert any("audience of its own" in str(one) for one in found.warnings)


def test_two_issuers_cant_have_one_url() -> None:
    documents = [
        PlainDocument(
            render_manifest(
                "Issuer",
                name,
                url=OTHER,
                identities=[{"identity": "a", "claims": {"sub": "x"}}],
            )
        )
        for name in ("one", "two")
    ]
    found = parse_manifests(documents, Limits(), NOW)
    assert any("is the URL of issuer 'one' too" in str(one) for one in found.errors)
