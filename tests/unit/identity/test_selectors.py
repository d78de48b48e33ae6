import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.identity.selectors import (
    BOUNDARIES,
    KNOWN,
    Selector,
    find_weakness,
    match_selectors,
)

HEX = "0123456789abcdef" * 4
selectors = st.builds(
    Selector, st.sampled_from(["unix:uid", "unix:gid"]), st.integers(0, 5).map(str)
)


@pytest.mark.parametrize(
    "text",
    [
        "unix:uid:0",
        "unix:uid:4294967294",
        "unix:gid:1001",
        "unix:path:/usr/bin/payments",
        "unix:path:/opt/with blank/ünïcode:colon",
        "unix:path:/..hidden/...",
        f"unix:sha256:{HEX}",
        "systemd:unit:payments.service",
        r"systemd:unit:dev-disk\x2d1@x.service",
        "systemd:unit:session-3.scope",
        f"container:id:{HEX}",
    ],
)
def test_selectors_round_trip(text):
    assert str(Selector.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must look like"),
        ("unix", "must look like"),
        ("unix:uid", "must look like"),
        ("unix:uid:", "user number"),
        ("unix:uid:root", "user number"),
        ("unix:uid:-1", "user number"),
        ("unix:uid:007", "user number"),
        ("unix:uid:12345678901", "user number"),
        ("unix:uid:٣", "user number"),
        ("unix:uid:1\n", "user number"),
        ("unix:path:relative", "absolute path"),
        ("unix:path:/", "absolute path"),
        ("unix:path:/a/../b", "absolute path"),
        ("unix:path:/a/.", "absolute path"),
        ("unix:path:/a//b", "absolute path"),
        ("unix:path:/a/", "absolute path"),
        ("unix:path:/a\nb", "absolute path"),
        ("unix:path:/" + "a" * 5000, "absolute path"),
        (f"unix:sha256:{HEX.upper()}", "64 lower-case"),
        (f"unix:sha256:{HEX}0", "64 lower-case"),
        ("systemd:unit:payments", "service or scope"),
        ("systemd:unit:system.slice", "service or scope"),
        ("systemd:unit:a/b.service", "service or scope"),
        ("container:id:abc", "64 lower-case"),
        ("k8s:ns:default", "unknown; known: unix:uid"),
        ("UNIX:UID:1", "unknown"),
    ],
)
def test_bad_selectors_say_what_is_wanted(text, reason):
    with pytest.raises(Invalid) as caught:
        Selector.parse(text)
    assert reason in caught.value.detail
    assert len(caught.value.detail) < 300


def test_boundaries_are_known():
    assert set(BOUNDARIES) < set(KNOWN)


@given(st.frozensets(selectors))
def test_an_empty_demand_never_matches(attested):
    assert not match_selectors((), attested).complete


@given(st.lists(selectors, min_size=1, max_size=6), st.frozensets(selectors))
def test_a_demand_matches_exactly_when_all_of_it_was_attested(demanded, attested):
    match = match_selectors(demanded, attested)
    assert match.complete == (set(demanded) <= attested)
    assert sorted([*match.held, *match.missing]) == sorted(demanded)
    assert set(match.held) <= attested
    assert not set(match.missing) & attested


@given(st.lists(selectors, min_size=1, max_size=6), st.frozensets(selectors), selectors)
def test_proving_more_never_loses_a_match(demanded, attested, extra):
    if match_selectors(demanded, attested).complete:
        assert match_selectors(demanded, attested | {extra}).complete


@pytest.mark.parametrize(
    ("texts", "weakness"),
    [
        ([], None),
        (["unix:uid:1"], None),
        (["unix:sha256:" + HEX, "unix:uid:1"], None),
        (["systemd:unit:a.service"], None),
        (["container:id:" + HEX], None),
        (["unix:sha256:" + HEX], "executable alone"),
        (["unix:path:/bin/a", "unix:gid:1"], "executable alone"),
        (["unix:gid:1"], "group alone"),
    ],
)
def test_a_set_without_a_boundary_is_weak(texts, weakness):
    found = find_weakness([Selector.parse(text) for text in texts])
    if weakness is None:
        assert found is None
    else:
        assert found is not None
        assert weakness in found
