"""Manifests: the good form, and every bad one with its place and its sentence."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes.identities import DOMAIN, NOW
from troth.core.manifest.problem import Limits, PlainDocument, Severity, show_value
from troth.core.manifest.reader import read_duration, render_duration
from troth.identity.identity import Kind
from troth.identity.selectors import Selector
from troth.manifests.reading import PLANNED, ManifestSet, parse_manifests
from troth.wire.yaml import load_documents

FULL = """\
apiVersion: troth/v1
kind: Identity
metadata: {name: payments-api, labels: {env: prod, example.org/team: a_b.c}}
spec:
  kind: service
  owner: payments@example.org
  purpose: Takes card payments
  environment: prod
  path: /payments/api
  expires: 2027-06-30T02:00:00+02:00
  nodes: [local, node-2.example.org]
  selectors: [unix:uid:1001, unix:path:/usr/bin/payments]
  dnsNames: [payments.example.org]
  ttl: {x509: 1h30m, jwt: 90s}
  hint: internal
"""

SHORT = """\
apiVersion: troth/v1
kind: Identity
metadata: {name: NAME}
spec: {kind: job, owner: o, purpose: p, expires: 90d, selectors: [unix:uid:UID]}
"""


def parse(text: str, limits: Limits | None = None) -> ManifestSet:
    return parse_manifests(load_documents(text.encode(), "m.yaml"), limits or Limits(), NOW)


def edit(**fields: str) -> str:
    """`FULL` with fields of spec replaced by YAML text; an empty text removes the field."""
    lines = FULL.splitlines()
    for name, text in fields.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  {name}:"))
        lines[at] = f"  {name}: {text}" if text else ""
    return "\n".join(lines) + "\n"


def short(name: str, uid: int = 1) -> str:
    return SHORT.replace("NAME", name).replace("UID", str(uid))


def test_the_full_form():
    result = parse(FULL)
    assert result.problems == ()
    (spec,) = result.specs
    assert spec.name == "payments-api"
    assert spec.path == "/payments/api"
    assert spec.kind is Kind.SERVICE
    assert (spec.owner, spec.purpose) == ("payments@example.org", "Takes card payments")
    assert spec.environment == "prod"
    assert spec.labels == {"env": "prod", "example.org/team": "a_b.c"}
    assert spec.expires_at == datetime(2027, 6, 30, tzinfo=UTC)
    assert spec.lifetime is None
    assert spec.nodes == ("local", "node-2.example.org")
    assert spec.selectors == (
        Selector("unix:uid", "1001"),
        Selector("unix:path", "/usr/bin/payments"),
    )
    assert spec.dns_names == ("payments.example.org",)
    assert (spec.x509_ttl, spec.jwt_ttl) == (timedelta(minutes=90), timedelta(seconds=90))
    assert spec.hint == "internal"


def test_defaults():
    result = parse(short("batch"))
    assert result.problems == ()
    (spec,) = result.specs
    assert spec.path == "/batch"
    assert spec.environment == "default"
    assert spec.labels == {}
    assert spec.nodes == ("local",)
    assert spec.dns_names == ()
    assert (spec.x509_ttl, spec.jwt_ttl) == (timedelta(hours=1), timedelta(minutes=5))
    assert spec.hint == ""
    assert (spec.expires_at, spec.lifetime) == (None, timedelta(days=90))


def test_null_is_the_same_as_absent():
    result = parse(edit(environment="~", ttl="", path="~", nodes="~", hint="~"))
    assert not result.errors
    assert result.specs[0].path == "/payments-api"
    assert result.specs[0].x509_ttl == timedelta(hours=1)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind(kind):
    assert parse(edit(kind=kind.value)).specs[0].kind is kind


BAD_FIELDS = [
    ("kind", "servce", "spec.kind: the kind 'servce' is unknown; did you mean 'service'?"),
    ("kind", "[]", "a list is unknown; known: service, job"),
    ("kind", "", "'kind' is missing"),
    ("owner", "", "'owner' is missing: who answers for it"),
    ("owner", "''", "must not be empty"),
    ("owner", "'  '", "must not be empty"),
    ("owner", "5", "must be a text, not 5; put it in quotes"),
    ("owner", "{a: b}", "must be a text, not a mapping"),
    ("owner", "x" * 257, "at most 256 characters; it has 257"),
    ("owner", '"a\\nb"', "one line without control characters"),
    ("owner", '"a\\u202eb"', "one line without control characters"),
    ("purpose", "", "'purpose' is missing"),
    ("purpose", "x" * 1025, "at most 1024"),
    ("environment", "Prod", "lower-case letters"),
    ("environment", "'-'", "lower-case letters"),
    ("path", "payments", "must start with '/'"),
    ("path", "/", "must not end with '/'"),
    ("path", "/a/", "must not end with '/'"),
    ("path", "/a//b", "empty segment"),
    ("path", "/a/../b", "relative segment '..'"),
    ("path", "/a/.", "relative segment '.'"),
    ("path", "/a b", "outside A-Z"),
    ("path", "/é", "outside A-Z"),
    ("path", "/a%2fb", "outside A-Z"),
    ("path", "'/a?b'", "outside A-Z"),
    ("path", "''", "must be a path such as"),
    ("path", "7", "must be a path such as"),
    ("path", "/" + "p" * 2048, "longer than 2048"),
    ("path", "/troth", "belong to troth's own server"),
    ("path", "/troth/server", "belong to troth's own server"),
    ("expires", "2025-12-31T23:59:59Z", "is in the past"),
    ("expires", "2026-01-01T00:00:00Z", "is in the past"),
    ("expires", "2027-06-30", "is not an expiry: write a time such as"),
    ("expires", "2027-06-30T00:00:00", "is not an expiry"),
    ("expires", "2027-02-30T00:00:00Z", "not a time that exists"),
    ("expires", "9999-12-31T23:59:59-23:59", "not a time that exists"),
    ("expires", "2099-01-01T00:00:00Z", "lives 3650 days at most"),
    ("expires", "3651d", "lives 3650 days at most"),
    ("expires", "0d", "is not an expiry"),
    ("expires", "-5d", "is not an expiry"),
    ("expires", "90", "90 is not an expiry"),
    ("expires", "never", "is not an expiry"),
    ("nodes", "[]", "must name at least one node"),
    ("nodes", "local", "must be a list, not 'local'"),
    ("nodes", "[a, a]", "'a' is in the list twice"),
    ("nodes", "[Big]", "spec.nodes[0]: 'Big' must be lower-case"),
    ("nodes", "[1]", "must be a text, not 1"),
    ("nodes", "[" + ", ".join(f"n{i}" for i in range(65)) + "]", "at most 64 entries; it has 65"),
    ("selectors", "unix:uid:1", "must be a list"),
    ("selectors", "[foo]", "spec.selectors[0]: The selector 'foo' must look like"),
    ("selectors", "[k8s:ns:x]", "unknown; known: unix:uid"),
    ("selectors", "[unix:uid:root]", "needs a user number"),
    ("selectors", "[{unix: uid}]", "must be a text such as 'unix:uid:1001', not a mapping"),
    ("selectors", "[unix:uid:1, unix:uid:1]", "is in the list twice"),
    ("selectors", "[unix:uid:1, unix:uid:2]", "no process can have both unix:uid:1 and unix:uid:2"),
    ("selectors", "[" + "a, " * 17 + "]", "at most 16 entries; it has 17"),
    ("dnsNames", "['*.example.org']", "is a wildcard"),
    ("dnsNames", "[Example.org]", "must be in lower case"),
    ("dnsNames", "[example.org.]", "is not a DNS name"),
    ("dnsNames", "[a_b.example.org]", "is not a DNS name"),
    ("dnsNames", "[-a.example.org]", "is not a DNS name"),
    ("dnsNames", "[a..b]", "is not a DNS name"),
    ("dnsNames", "[bücher.example]", "'xn--' form"),
    ("dnsNames", "[" + "a" * 64 + ".org]", "is not a DNS name"),
    ("dnsNames", "[" + "a." * 127 + "b]", "at most 253 characters"),
    ("dnsNames", "[10.0.0.1]", "looks like an address"),
    ("dnsNames", "['::1']", "is not a DNS name"),
    ("dnsNames", "[localhost]", "kept for the troth server"),
    ("dnsNames", "[x.localhost]", "kept for the troth server"),
    ("ttl", "1h", "spec.ttl: must be a mapping of fields, not '1h'"),
    ("ttl", "{x509: 25h}", "spec.ttl.x509: must be at most 24h"),
    ("ttl", "{jwt: 61m}", "spec.ttl.jwt: must be at most 1h"),
    ("ttl", "{x509: 0s}", "must be at least 1s"),
    ("ttl", "{x509: 3600}", "3600 is not a duration: write '1h'"),
    ("ttl", "{x509: ''}", "is not a duration"),
    ("ttl", "{x509: 1h 5m}", "is not a duration"),
    ("ttl", "{x509: -1h}", "is not a duration"),
    ("ttl", "{x509: 99999999999999999h}", "is not a duration"),
    ("ttl", "{x508: 1h}", "spec.ttl.x508: unknown field; did you mean 'x509'?"),
    ("hint", "x" * 257, "at most 256"),
]


@pytest.mark.parametrize(("field", "text", "reason"), BAD_FIELDS)
def test_a_bad_field_is_reported_at_its_place(field, text, reason):
    manifest = edit(**{field: text})
    result = parse(manifest)
    assert result.specs == ()
    (problem,) = result.errors
    assert reason in str(problem)
    assert str(problem).startswith(f"m.yaml:{problem.line}:{problem.column}: error: spec")
    assert len(str(problem)) < 400
    assert str(problem).isprintable()
    line = manifest.splitlines()[problem.line - 1]
    assert line.startswith(f"  {field}:" if text else "spec:")


BAD_LABELS = [
    ("{Env: x}", None),
    ("{'a b': x}", "the label key 'a b' must be letters"),
    ("{'-a': x}", "the label key"),
    ("{'a/b/c': x}", "the label key"),
    ("{'Example.org/a': x}", "the label key"),
    ("{'/a': x}", "the label key"),
    ("{'': x}", "the label key"),
    ("{" + "k" * 64 + ": x}", "is too long"),
    ("{" + "p" * 254 + "/k: x}", "is too long"),
    ("{a: 1}", "a label's value must be a text, not 1; put it in quotes"),
    ("{a: true}", "not true; put it in quotes"),
    ("{a: }", "not nothing"),
    ("{a: 'x y'}", "the label value 'x y'"),
    ("{a: " + "v" * 64 + "}", "at most 63"),
    ("{a: ''}", None),
    ("[a]", "must be a mapping such as {env: prod}, not a list"),
    ("{" + ", ".join(f"k{i}: v" for i in range(65)) + "}", "at most 64 labels; it has 65"),
    ("{" + ", ".join(f"k{i}: v" for i in range(64)) + "}", None),
]


@pytest.mark.parametrize(("labels", "reason"), BAD_LABELS)
def test_labels(labels, reason):
    text = FULL.replace("{env: prod, example.org/team: a_b.c}", labels)
    result = parse(text)
    if reason is None:
        assert result.errors == ()
    else:
        (problem,) = result.errors
        assert reason in problem.message
        assert problem.path.startswith("metadata.labels")
        assert problem.line == 3


@pytest.mark.parametrize(
    "name", ["Payments", "a_b", "-a", "a-", "a..b", ".a", "a b", "''", "a" * 129, "5", "é", "a/b"]
)
def test_bad_names(name):
    result = parse(FULL.replace("name: payments-api", f"name: {name}"))
    assert [p.path for p in result.errors] == ["metadata.name"]


@pytest.mark.parametrize("name", ["a", "a-b", "a.b-c.d", "0", "x" * 128])
def test_good_names(name):
    result = parse(FULL.replace("name: payments-api", f"name: '{name}'"))
    assert result.specs[0].name == name


def test_a_name_that_gives_a_reserved_path_is_refused():
    (problem,) = parse(short("troth")).errors
    assert "belong to troth's own" in problem.message
    assert problem.path == "metadata.name"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("- a", "", "must be a mapping with apiVersion and kind, not a list"),
        ("a text", "", "not 'a text'"),
        ("5", "", "not 5"),
        ("kind: Identity", "", "'apiVersion' is missing: write 'apiVersion: troth/v1'"),
        ("apiVersion: troth/v1", "", "'kind' is missing: write 'kind: Identity'"),
        ("apiVersion: v1\nkind: Identity", "apiVersion", "the version 'v1' is unknown"),
        ("apiVersion: 1\nkind: Identity", "apiVersion", "the version 1 is unknown"),
        ("apiVersion: troth/v1\nkind: Identiy", "kind", "did you mean 'Identity'?"),
        ("apiVersion: troth/v1\nkind: [a]", "kind", "the kind a list is unknown"),
        ("apiVersion: troth/v1\nkind: Pod", "kind", "the kind 'Pod' is unknown"),
    ],
)
def test_a_bad_envelope(text, path, reason):
    result = parse(text)
    (problem,) = result.errors
    assert problem.path == path
    assert reason in problem.message


@pytest.mark.parametrize("kind", PLANNED)
def test_kinds_to_come_are_named_as_such(kind):
    (problem,) = parse(f"apiVersion: troth/v1\nkind: {kind}").errors
    assert problem.message == f"the kind {kind} isn't supported by this version yet."


def test_metadata_and_spec_are_needed():
    result = parse("apiVersion: troth/v1\nkind: Identity\n")
    missing = {p.message.split("'")[1] for p in result.errors}
    assert missing == {"name", "kind", "owner", "purpose"}
    result = parse("apiVersion: troth/v1\nkind: Identity\nmetadata: []\nspec: x\n")
    assert [p.path for p in result.errors] == ["metadata", "spec"]


def test_unknown_fields_are_named_with_a_guess():
    text = FULL.replace("metadata: {", "extra: 1\nmetadata: {lables: {}, ").replace(
        "  hint: internal", "  hints: internal\n  selektors: []"
    )
    found = {p.path: p.message for p in parse(text).errors}
    assert found["extra"].startswith("unknown field; known: apiVersion")
    assert found["metadata.lables"] == "unknown field; did you mean 'labels'?"
    assert found["spec.hints"] == "unknown field; did you mean 'hint'?"
    assert found["spec.selektors"] == "unknown field; did you mean 'selectors'?"


def test_all_problems_come_at_once_and_good_documents_survive():
    text = "---\n".join([short("one"), edit(kind="x", owner="''", path="a"), short("two", 2)])
    result = parse(text)
    assert len(result.errors) == 3
    assert [spec.name for spec in result.specs] == ["one", "two"]


def test_duplicate_names_and_paths_name_the_first():
    text = "---\n".join([short("one"), short("one", 2), edit(path="/two"), short("two", 3)])
    name, path = parse(text).errors
    assert (name.line, name.path) == (8, "metadata.name")
    assert "the name 'one' is taken by m.yaml:1" in name.message
    assert path.path == "spec"
    assert "the path '/two' is taken by m.yaml:11" in path.message


def test_too_many_documents():
    limits = Limits(documents=2)
    result = parse("---\n".join(short(f"n{i}", i) for i in range(3)), limits)
    (problem,) = result.errors
    assert "more than 2 documents" in problem.message
    assert Limits().documents == 100_000


def test_a_flood_of_problems_is_cut():
    result = parse("---\n".join("apiVersion: troth/v1\nkind: Identity\n" for _ in range(900)))
    assert 1_000 <= len(result.problems) < 1_010
    assert "mend these first" in result.problems[-1].message
    assert result.specs == ()


def test_a_flood_of_warnings_refuses_nothing():
    (document,) = load_documents(short("NAME").encode(), "m.yaml")
    plain = [PlainDocument({**document.value, "metadata": {"name": f"n{i}"}}) for i in range(1_200)]
    result = parse_manifests(plain, Limits(), NOW)
    assert len(result.specs) == 1_200
    assert not result.errors
    assert 1_000 <= len(result.warnings) < 1_300


def test_a_flood_of_unknown_fields_is_cut():
    many = "".join(f"  x{i}: 1\n" for i in range(5_000))
    result = parse(FULL + many)
    assert len(result.errors) == 21
    assert "4980 more unknown fields" in result.errors[-1].message


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("selectors", "[unix:sha256:" + "0" * 64 + "]", "rests on the executable alone"),
        ("selectors", "[unix:gid:7]", "rests on the group alone"),
        ("selectors", "[]", "no process can obtain this identity from an agent"),
        ("selectors", "", "no process can obtain this identity from an agent"),
        ("nodes", "['*']", "any attested node may hold this identity"),
        ("expires", "", "it ends 365 days after its registration"),
    ],
)
def test_warnings_dont_stop(field, text, words):
    result = parse(edit(**{field: text}))
    assert len(result.specs) == 1
    assert result.errors == ()
    (problem,) = result.warnings
    assert problem.severity is Severity.WARNING
    assert words in problem.message
    assert problem.line > 0


def test_identities_that_only_the_program_tells_apart_are_a_warning():
    result = parse("---\n".join([short("one", 7), short("two", 7), short("three", 8)]))
    (problem,) = result.warnings
    assert problem.line == 9
    assert "asks for the same selectors as 'one'" in problem.message


def test_the_servers_limits_count():
    limits = Limits(
        x509_ceiling=timedelta(minutes=10),
        x509_default=timedelta(minutes=10),
        trust_domain=DOMAIN,
        reserved_dns_names=frozenset({"troth.example.org"}),
    )
    result = parse(edit(dnsNames="[troth.example.org, a.troth.example.org, localhost]"), limits)
    assert [p.path for p in result.errors] == [
        "spec.dnsNames[0]",
        "spec.dnsNames[2]",
        "spec.ttl.x509",
    ]
    longest = "/" + "p" * (2048 - len("spiffe://example.org/"))
    assert parse(edit(path=longest, ttl=""), limits).errors == ()
    (problem,) = parse(edit(path=longest + "p", ttl=""), limits).errors
    assert "longer than 2048" in problem.message


def test_documents_from_the_api_have_no_places():
    value = load_documents(edit(kind="x").encode(), "m.yaml")[0].value
    bare, placed = PlainDocument(value), PlainDocument(value, "m.yaml", 7)
    first, second = parse_manifests([bare, placed], Limits(), NOW).errors
    assert str(first).startswith("manifest: error: spec.kind:")
    assert str(second).startswith("m.yaml:7: error: spec.kind:")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        pytest.param(10**5000, id="huge"),
        -(10**30),
        1e308,
        "x" * 10_000,
        "\x1b[2J\ud800",
        [],
        {},
    ],
)
def test_values_from_outside_are_shown_safely(value):
    shown = show_value(value)
    assert len(shown) < 100
    assert shown.isprintable()
    document = PlainDocument({"apiVersion": value, "kind": value, "spec": value})
    for problem in parse_manifests([document], Limits(), NOW).problems:
        assert len(str(problem)) < 300


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90s", 90), ("1h30m", 5400), ("1d", 86400), ("2d1s", 172801)],
)
def test_durations(text, seconds):
    duration = read_duration(text)
    assert duration == timedelta(seconds=seconds)
    assert read_duration(render_duration(duration)) == duration


def test_the_whole_day_is_shown_in_hours():
    assert render_duration(timedelta(hours=24)) == "24h"
    assert render_duration(timedelta(0)) == "0s"
