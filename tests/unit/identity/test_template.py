"""Template manifests: what they may say, what they are warned about, who they fit, what changes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.fakes.identities import DOMAIN, NOW, make_identity
from tests.fakes.templates import describe_template, make_template
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.identity import Kind
from troth.identity.plan import Action
from troth.identity.selectors import Selector
from troth.identity.template import Catalogue, rank_match, refresh_identity, still_covers
from troth.identity.template_fields import TEMPLATE_SPEC
from troth.identity.template_manifest import TEMPLATE
from troth.identity.template_plan import GONE, StoredTemplate, plan_templates
from troth.manifests.reading import parse_manifests
from troth.manifests.schema import render_kind


def parse(*manifests, **limits):
    documents = [PlainDocument(manifest) for manifest in manifests]
    return parse_manifests(documents, Limits(trust_domain=DOMAIN, **limits), NOW)


def attest(*texts):
    return frozenset(map(Selector.parse, texts))


def test_every_field_is_read():
    (template,) = parse(
        describe_template(
            "night.jobs",
            match=["unix:uid:1-9", "unix:path:/opt/**"],
            nodes=["web-1", "web-2"],
            prefix="/night",
            naming="{node}/u{uid}-{path}",
            kind="bot",
            environment="prod",
            ttl={"x509": "10m", "jwt": "1m"},
            hint="night",
            unattendedAfter="2d",
            retireAfter="1h",
            expires="30d",
            max=7,
            start="proposed",
        )
    ).templates
    assert [str(pattern) for pattern in template.match] == ["unix:uid:1-9", "unix:path:/opt/**"]
    assert (template.name, template.prefix) == ("night.jobs", "/night")
    assert template.naming.text == "{node}/u{uid}-{path}"
    assert (template.nodes, template.kind) == (("web-1", "web-2"), Kind.BOT)
    assert (template.x509_ttl, template.jwt_ttl) == (timedelta(minutes=10), timedelta(minutes=1))
    assert (template.unattended_after, template.retire_after) == (
        timedelta(days=2),
        timedelta(hours=1),
    )
    assert (template.lifetime, template.limit) == (timedelta(days=30), 7)
    assert template.needs_approval


def test_defaults_give_little():
    found = parse(describe_template("night.jobs"))
    assert not found.problems
    (template,) = found.templates
    assert template.prefix == "/night/jobs"
    assert template.naming.text == "{node}/{uid}"
    assert template.nodes == ("local",)
    assert template.x509_ttl == timedelta(minutes=15)
    assert (template.unattended_after, template.limit) == (timedelta(days=7), 1000)
    assert not template.needs_approval
    (short,) = parse(describe_template(), x509_default=timedelta(minutes=5)).templates
    assert short.x509_ttl == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"match": None}, "'match' is missing"),
        ({"match": []}, "at least one pattern"),
        ({"match": "unix:uid:1"}, "must be a list"),
        ({"match": [7]}, "must be a text"),
        ({"match": ["unix:path:/opt/*"]}, "names no uid and no unit"),
        ({"match": ["unix:gid:7", "unix:sha256:" + "0f" * 32]}, "names no uid and no unit"),
        ({"match": ["unix:uid:1", "unix:uid:2"]}, "the same attribute"),
        ({"match": ["unix:uid:1", "unix:uid:1"]}, "in the list twice"),
        ({"naming": "{node}"}, "would get the same name"),
        ({"naming": "x/{uid}{node}"}, "could get the same name"),
        ({"naming": "{node}/{uid}/{unit}"}, "{unit} has no value"),
        ({"naming": "{node}/../{uid}"}, "must be variables"),
        ({"naming": "a" * 59 + "{uid}", "prefix": "/" + "b" * 47}, "more than 128"),
        ({"prefix": "/troth/x"}, "belong to troth"),
        ({"prefix": "/Batch"}, "lower-case"),
        ({"prefix": "/a.b"}, "lower-case"),
        ({"prefix": "/a/../b"}, "lower-case"),
        ({"prefix": "/" + "a" * 48}, "at most 48"),
        ({"unattendedAfter": "30m"}, "from 1h to 365d"),
        ({"retireAfter": "9999d"}, "from 1h to 365d"),
        ({"expires": "2027-01-01T00:00:00Z"}, "days from the registration"),
        ({"expires": "9999d"}, "lives 3650 days at most"),
        ({"max": 0}, "from 1 to"),
        ({"max": True}, "from 1 to"),
        ({"max": "7"}, "from 1 to"),
        ({"start": "suspended"}, "no state to start in"),
        ({"dnsNames": ["a.example.org"]}, "unknown field"),
        ({"selectors": ["unix:uid:1"]}, "unknown field"),
        ({"ttl": {"x509": "48h"}}, "at most 24h"),
    ],
)
def test_refused(changes, words):
    found = parse(describe_template(**changes))
    assert found.templates == ()
    assert any(words in problem.message for problem in found.errors), found.errors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"match": ["unix:uid:0-99"]}, "root (uid 0) is in the range"),
        ({"nodes": ["*"], "naming": "{uid}"}, "on several nodes"),
        ({"nodes": ["*"]}, "any attested node"),
    ],
)
def test_warned(changes, words):
    found = parse(describe_template(**changes))
    assert len(found.templates) == 1
    assert any(words in problem.message for problem in found.warnings)


def test_templates_and_identities_keep_out_of_each_others_way():
    identity = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": "batch.x"},
        "spec": {
            "kind": "job",
            "owner": "a",
            "purpose": "b",
            "expires": "9d",
            "selectors": ["unix:uid:1"],
        },
    }
    found = parse(describe_template(), identity)
    assert "would be one of template 'batch'" in found.errors[0].message
    inner = describe_template("inner", prefix="/batch/inner", match=["unix:uid:7"])
    assert "lies in that of template 'batch'" in parse(inner, describe_template()).errors[0].message
    twice = parse(describe_template(), describe_template(match=["unix:uid:7"]))
    assert "is taken by" in twice.errors[0].message


def test_rivals_are_told():
    twin = describe_template("twin", match=["unix:uid:1999-2998"])
    found = parse(describe_template(), twin)
    assert "neither is more special" in found.warnings[0].message
    elsewhere = {**twin, "spec": {**twin["spec"], "nodes": ["b"]}}
    assert not parse(describe_template(), elsewhere).problems
    assert not parse(describe_template(), describe_template("t", match=["unix:uid:7-9"])).problems


def test_the_schema_has_the_fields_and_no_others():
    schema = render_kind(TEMPLATE)
    assert json.loads(json.dumps(schema)) == schema
    shapes = schema["properties"]["spec"]["properties"]
    assert set(shapes) == {field.name for field in TEMPLATE_SPEC}
    assert "dnsNames" not in shapes
    assert schema["properties"]["kind"] == {"const": "Template"}


def test_more_special_patterns_go_first():
    ordered = [
        ("unix:uid:1000-1999",),
        ("unix:uid:1000-1099",),
        ("systemd:unit:*.service",),
        ("systemd:unit:batch-*.service",),
        ("unix:uid:1001",),
        ("unix:uid:1000-1999", "unix:path:/opt/**"),
        ("unix:uid:1000-1999", "unix:path:/opt/app"),
        ("unix:uid:1001", "unix:path:/opt/app"),
    ]
    templates = [make_template("t", *patterns) for patterns in ordered]
    for lower, higher in pairwise(templates):
        assert rank_match(lower.match) < rank_match(higher.match)


def test_the_catalogue_finds_the_one():
    wide = make_template("wide", "unix:uid:1-9")
    exact = make_template("exact", "unix:uid:7", "unix:path:/bin/x")
    catalogue = Catalogue([wide, exact])
    assert catalogue.choose(attest("unix:uid:7")).template == wide
    assert catalogue.choose(attest("unix:uid:7", "unix:path:/bin/x")).template == exact
    assert catalogue.choose(attest("unix:path:/bin/x")).template is None
    assert catalogue.choose(frozenset()).template is None
    # Nobody has two uids; who seems to, proves none.
    assert catalogue.choose(attest("unix:uid:7", "unix:uid:8")).template is None
    twin = make_template("twin", "unix:uid:1-9")
    choice = Catalogue([wide, twin]).choose(attest("unix:uid:3"))
    assert (choice.template, choice.rivals) == (None, ("twin", "wide"))


def test_a_thousand_templates_are_searched_by_what_is_exact():
    many = [make_template(f"t{n}", f"systemd:unit:u{n}.service") for n in range(1000)]
    compared = []

    class Counting:
        def __init__(self, template):
            self.name = template.name
            self._match = template.match

        @property
        def match(self):
            compared.append(self.name)
            return self._match

    catalogue = Catalogue(map(Counting, many))
    compared.clear()
    assert catalogue.choose(attest("systemd:unit:u500.service", "unix:uid:1")).template is not None
    assert set(compared) == {"t500"}


def test_an_identity_takes_over_what_its_template_says_by_now():
    template = make_template(owner="new@example.org", x509_ttl=timedelta(minutes=1))
    identity = make_identity(template="batch", selectors=(Selector("unix:uid", "1500"),))
    later = refresh_identity(identity, template, NOW + timedelta(days=9), NOW)
    assert (later.owner, later.x509_ttl) == ("new@example.org", timedelta(minutes=1))
    assert (later.name, later.selectors) == (identity.name, identity.selectors)
    assert later.revision == identity.revision + 1
    assert still_covers(template, identity)
    assert not still_covers(make_template("batch", "unix:uid:1-9"), identity)
    assert not still_covers(replace(template, nodes=("web-9",)), identity)


def test_a_plan_says_who_gains_what():
    (change,) = plan_templates([make_template()], [], prune=False).changes
    assert change.action is Action.ADD
    words = " ".join(change.words)
    assert "each workload with unix:uid:1000-1999 on node local gains its own job" in words
    assert "/batch/{node}/{uid}" in words
    assert "no DNS names" in words
    assert "each ends 168h after it was seen last" in words


def test_a_plan_compares_and_prunes():
    stored = StoredTemplate(make_template(), 1)
    keep = plan_templates([make_template()], [stored], prune=False)
    assert [change.action for change in keep.changes] == [Action.KEEP]
    changed = plan_templates([make_template(limit=5)], [stored], prune=False)
    assert changed.changes[0].words[0] == "max: 1000 → 5"
    assert plan_templates([], [stored], prune=False).changes[0].action is Action.KEEP
    gone = plan_templates([], [stored], prune=True)
    assert (gone.changes[0].action, gone.changes[0].words, gone.remaining) == (
        Action.REMOVE,
        GONE,
        (),
    )
    inner = make_template("inner", prefix="/batch/inner")
    assert plan_templates([inner], [stored], prune=False).refusals
    assert not plan_templates([inner], [stored], prune=True).refusals
    twin = make_template("twin", prefix="/twin")
    assert "'batch'" in plan_templates([twin], [stored], prune=False).warnings[0]
