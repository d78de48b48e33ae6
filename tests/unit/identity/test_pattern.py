"""What patterns fit, and what they never do."""

from __future__ import annotations

import pytest

from troth.core import glob
from troth.core.errors import Invalid
from troth.identity.pattern import MAX_STARS, Pattern, globs_meet


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("unix:uid:1000", ["1000"], ["1001", "01000", "", "1000\n", "١٠٠٠"]),
        ("unix:uid:1000-1999", ["1000", "1500", "1999"], ["999", "2000", "-1500", "1e3", "9" * 99]),
        ("unix:gid:0-9", ["0", "9"], ["10"]),
        (
            "systemd:unit:batch-*.service",
            ["batch-1.service", "batch-.service", "batch-a@b.service"],
            ["batch.service", "xbatch-1.service", "batch-1.scope", "batch-1.service.scope"],
        ),
        ("systemd:unit:web.service", ["web.service"], ["web-1.service", "web_service"]),
        ("systemd:unit:a*b*c.service", ["abc.service", "axxbxxc.service"], ["acb.service"]),
        (
            "unix:path:/opt/*/bin/app",
            ["/opt/a/bin/app", "/opt/ü b/bin/app"],
            ["/opt/bin/app", "/opt/a/b/bin/app", "/opt/a/bin/app2", "/opt/a/bin/app/x"],
        ),
        (
            "unix:path:/opt/**",
            ["/opt/a", "/opt/a/b"],
            ["/opt", "/optional/a", "/opt2/a", "/usr/opt/a"],
        ),
        ("unix:sha256:" + "0f" * 32, ["0f" * 32], ["0F" * 32]),
    ],
)
def test_fits(pattern, fitting, others):
    parsed = Pattern.parse(pattern)
    assert str(parsed) == pattern
    assert [value for value in fitting if not parsed.fits(value)] == []
    assert [value for value in others if parsed.fits(value)] == []


def test_a_wildcard_does_not_reach_where_people_log_in():
    every = Pattern.parse("systemd:unit:*.service")
    assert every.fits("payments.service")
    assert not every.fits("user@1000.service")
    assert not Pattern.parse("systemd:unit:*.scope").fits("session-4.scope")
    assert not Pattern.parse("systemd:unit:*user@*.service").fits("user@1000.service")
    assert Pattern.parse("systemd:unit:user@*.service").fits("user@1000.service")
    assert Pattern.parse("systemd:unit:user@1000.service").fits("user@1000.service")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unix:uid", "must look like"),
        ("unix:uid:", "a number or a range"),
        ("unix:uid:*", "a number or a range"),
        ("unix:uid:2000-1000", "from a smaller"),
        ("unix:uid:5-5", "from a smaller"),
        ("unix:uid:0-4294967296", "4294967295 at most"),
        ("unix:uid:01", "a number or a range"),
        ("unix:uid:1-2-3", "a number or a range"),
        ("unix:uid:1\n", "a number or a range"),
        ("unix:sha256:*", "64 lower-case"),
        ("container:id:" + "0f" * 32, "new at each of its starts"),
        ("tpm:key:x", "can't ask for"),
        ("systemd:unit:*", "the name of a service"),
        ("systemd:unit:a/../b.service", "the name of a service"),
        ("systemd:unit:ü.service", "the name of a service"),
        ("systemd:unit:a**.service", "the name of a service"),
        ("systemd:unit:a\n.service", "the name of a service"),
        ("systemd:unit:" + "a*" * (MAX_STARS + 1) + ".service", "the name of a service"),
        ("unix:path:opt/app", "an absolute path"),
        ("unix:path:/opt/../app", "an absolute path"),
        ("unix:path:/opt/**/app", "an absolute path"),
        ("unix:path:/**", "an absolute path"),
        ("unix:path:/a**", "an absolute path"),
        ("unix:path:/a\nb", "an absolute path"),
        ("unix:path:/" + "a" * 5000, "an absolute path"),
    ],
)
def test_refused(text, words):
    with pytest.raises(Invalid, match=words):
        Pattern.parse(text)


def test_a_hostile_value_takes_no_time():
    glob = "systemd:unit:" + "a*" * MAX_STARS + "b.service"
    assert not Pattern.parse(glob).fits("a" * 4000 + ".service")
    assert not globs_meet("a*" * MAX_STARS + "b", "a" * 250 + "*" + "c")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("unix:uid:1-5", "unix:uid:5-9", True),
        ("unix:uid:1-5", "unix:uid:6-9", False),
        ("systemd:unit:a*.service", "systemd:unit:*b.service", True),
        ("systemd:unit:a*.service", "systemd:unit:b*.service", False),
        ("systemd:unit:a*.service", "systemd:unit:ab.service", True),
        ("systemd:unit:a*.service", "systemd:unit:a*.scope", False),
        ("unix:path:/a/*/c", "unix:path:/a/b/*", True),
        ("unix:path:/a/*", "unix:path:/a/b/c", False),
        ("unix:path:/a/**", "unix:path:/a/b/*", True),
        ("unix:path:/a/**", "unix:path:/b/**", False),
        ("unix:path:/a/**", "unix:path:/a/b/**", True),
        ("unix:path:/a/b/**", "unix:path:/a/*", False),
        ("unix:path:/a/b/c", "unix:path:/a/b/c", True),
    ],
)
def test_meets(one, other, meet):
    first, second = Pattern.parse(one), Pattern.parse(other)
    assert first.meets(second) is meet
    assert second.meets(first) is meet


def test_globs():
    assert glob.matches("*", "")
    assert glob.matches("a*a", "aa")
    assert not glob.matches("a*a", "a")
    assert not glob.matches("ab*bc", "abc")
    assert globs_meet("*", "*")
    assert globs_meet("", "*")
    assert not globs_meet("", "a")
