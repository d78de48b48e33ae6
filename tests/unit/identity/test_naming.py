"""Names from what processes say of themselves: legal, below the prefix, never the same twice."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fakes.templates import make_template
from troth.core.errors import Invalid
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.manifest.reader import MAX_NAME, NAME_PATTERN
from troth.identity.naming import (
    MAX_SLUG,
    VARIABLES,
    Naming,
    list_claimants,
    name_path,
    slug_value,
)
from troth.identity.selectors import Selector
from troth.identity.template import bind_workload

DOMAIN = TrustDomain("example.org")
HOSTILE = (
    "payments.service",
    "Payments.service",
    "payments@1.service",
    "payments-1.service",
    "a/../../troth/server.service",
    "..",
    "/",
    "/usr/bin/../bin/app",
    "/opt/ünï/app",
    "/opt/a b",
    "-",
    "x\ny.service",
    "\ud800",
    "a" * 300 + ".service",
    "A" * 300 + ".service",
    "%2e%2e",
    "",
)


@pytest.mark.parametrize(
    ("variable", "value", "slug"),
    [
        ("uid", "1001", "1001"),
        ("unit", "payments.service", "payments"),
        ("node", "web-1.example.org", "web-1.example.org"),
    ],
)
def test_what_is_plain_stays_as_it_is(variable, value, slug):
    assert slug_value(variable, value) == slug


def test_hostile_values_give_legal_names_that_differ():
    slugs = [slug_value("unit", value) for value in HOSTILE]
    assert len(set(slugs)) == len(HOSTILE)
    for slug in slugs:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug)
        assert len(slug) <= MAX_SLUG


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_two_values_never_share_a_name(values):
    one, other = (slug_value("path", value) for value in values)
    assert one != other


def test_a_value_that_looks_like_the_hash_of_another_is_hashed_too():
    slug = slug_value("unit", "Payments.service")
    assert slug_value("unit", f"{slug}.service") != slug


_UNITS = st.text("ab-1", min_size=1, max_size=4).map(lambda text: f"{text}.service")
_VALUES = st.fixed_dictionaries(
    {
        "node": st.from_regex(r"[ab1]([-.]?[ab1]){0,2}", fullmatch=True),
        "uid": st.integers(0, 120).map(str),
        "gid": st.integers(0, 120).map(str),
        "unit": _UNITS,
        "path": st.text("ab/-", min_size=1, max_size=4).map(lambda text: f"/{text}"),
    }
)
_TEXTS = st.lists(
    st.sampled_from([*(f"{{{name}}}" for name in VARIABLES), "-", "/", "a", "1", "a-1"]),
    min_size=1,
    max_size=7,
).map("".join)


@settings(max_examples=500)
@given(_TEXTS, _VALUES, _VALUES)
def test_an_unambiguous_naming_never_gives_two_workloads_one_name(text, one, other):
    try:
        naming = Naming.parse(text)
    except Invalid:
        assume(False)
    assume(naming.find_ambiguity() is None)
    differ = any(one[name] != other[name] for name in naming.variables)
    assert (naming.render(one) != naming.render(other)) == differ
    assert (
        name_path(f"/t/{naming.render(one)}") != name_path(f"/t/{naming.render(other)}")
    ) == differ


@pytest.mark.parametrize(
    "text",
    [
        "{uid}{gid}",
        "{node}-{unit}",
        "{uid}/{unit}-{path}",
        "{uid}1-{gid}",
        "{unit}-1{uid}",
        "{unit}{uid}",
    ],
)
def test_a_naming_that_can_give_the_same_name_twice_is_told(text):
    assert Naming.parse(text).find_ambiguity() is not None


@given(st.text(), st.text(), st.sampled_from(sorted(VARIABLES)))
def test_whatever_is_attested_the_path_is_legal_and_below_the_prefix(unit, node, variable):
    naming = Naming.parse(f"{{node}}/x-{{{variable}}}")
    values = {**dict.fromkeys(VARIABLES, unit), "node": node}
    path = f"/batch/{naming.render(values)}"
    assert SpiffeId.of(DOMAIN, path).path.startswith("/batch/")
    assert path.count("/") == 3
    assert re.fullmatch(NAME_PATTERN, name_path(path))
    assert len(path) <= len("/batch/") + naming.longest <= MAX_NAME


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must begin and end"),
        ("/", "must begin and end"),
        ("{uid}/", "must begin and end"),
        ("-{uid}", "must begin and end"),
        ("{uid}//{node}", "must begin and end"),
        ("{user}", "unknown"),
        ("{}", "unknown"),
        ("{uid", "must be variables"),
        ("{UID}", "must be variables"),
        ("../{uid}", "must be variables"),
        ("ü", "must be variables"),
        ("a.b", "must be variables"),
        ("{uid}\n", "must be variables"),
        ("{{uid}}", "must be variables"),
        ("a" * 65, "at most 64"),
    ],
)
def test_refused(text, words):
    with pytest.raises(Invalid, match=words):
        Naming.parse(text)


def test_what_belongs_to_a_prefix():
    for name, path in (("batch", "/x"), ("batch.a", "/x"), ("y", "/batch"), ("y", "/batch/a/b")):
        assert "/batch" in list_claimants(name, path)
    for name, path in (("batcher", "/x"), ("y", "/batcher/a"), ("a.batch", "/a/batch")):
        assert "/batch" not in list_claimants(name, path)


def test_a_binding_holds_what_the_template_asks_for_and_no_more():
    template = make_template("units", "systemd:unit:*.service", naming="{node}/{unit}")
    attested = [
        Selector("systemd:unit", "pay.service"),
        Selector("unix:uid", "7"),
        Selector("unix:path", "/bin/x"),
    ]
    bound = bind_workload(template, attested, "web-1")
    assert bound.selectors == (Selector("systemd:unit", "pay.service"),)
    assert (bound.path, bound.node) == ("/units/web-1/pay", "web-1")
    elsewhere = bind_workload(template, attested, "web-2")
    assert elsewhere.digest != bound.digest


def test_bindings_differ_where_workloads_do():
    template = make_template("t", "unix:uid:1-9", "unix:gid:1-9", naming="{uid}/{gid}")
    digests = set()
    for uid, gid in itertools.product("123", repeat=2):
        attested = [Selector("unix:uid", uid), Selector("unix:gid", gid)]
        bound = bind_workload(template, attested, "web-1")
        digests.add(bound.digest)
        assert bound.node == ""
        assert bind_workload(template, attested, "web-2").digest == bound.digest
    assert len(digests) == 9
