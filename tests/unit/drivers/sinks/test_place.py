from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.drivers.sinks import BUILT_IN, Target
from troth.drivers.sinks.place import KINDS, Place, parse_place


def test_every_driver_but_the_file_has_its_urls():
    assert KINDS.keys() | {"file"} == BUILT_IN.keys()
    for driver, kind in KINDS.items():
        assert parse_place(driver, kind.example).secure


@pytest.mark.parametrize(
    ("driver", "url", "place"),
    [
        ("syslog", "tls://log.example.org", Place((("log.example.org", 6514),), "", True)),
        ("syslog", "tls://[::1]:99/", Place((("::1", 99),), "", True)),
        ("splunk", "http://localhost:8088", Place((("localhost", 8088),), "", False)),
        ("splunk", "https://s/a/b", Place((("s", 8088),), "a/b", True)),
        ("elastic", "https://e:9200/logs-troth", Place((("e", 9200),), "logs-troth", True)),
        ("nats", "nats://a,b:4333/x.y", Place((("a", 4222), ("b", 4333)), "x.y", False)),
        ("kafka", "kafka+tls://a:1,[::1]:2/t", Place((("a", 1), ("::1", 2)), "t", True)),
        ("otlp", "https://o", Place((("o", 4318),), "", True)),
    ],
)
def test_a_place_is_read_from_the_url(driver, url, place):
    assert parse_place(driver, url) == place


@pytest.mark.parametrize(
    ("driver", "url"),
    [
        ("syslog", "tcp://log.example.org"),
        ("syslog", "tls://log.example.org/path"),
        ("syslog", "tls://a,b"),
        ("splunk", "https://user:hunter2@splunk.example.org"),
        ("splunk", "https://splunk.example.org?token=hunter2"),
        ("splunk", "https://splunk.example.org#hunter2"),
        ("splunk", "https://"),
        ("splunk", "https://s:0"),
        ("splunk", "https://s:65536"),
        ("splunk", "https://s:9999999999999999999999"),
        ("splunk", "https://[::1"),
        ("splunk", "https://s\n"),
        ("elastic", "https://e:9200"),
        ("elastic", "https://e:9200/Troth"),
        ("elastic", "https://e:9200/../_all"),
        ("elastic", "https://e:9200/a/b"),
        ("elastic", "https://e:9200/%2e%2e"),
        ("nats", "nats://a"),
        ("nats", "nats://a/x.*"),
        ("nats", "nats://a/x.>"),
        ("nats", "nats://a/x..y"),
        ("nats", "nats://" + ",".join("a" * 17) + "/x"),
        ("kafka", "kafka://a/"),
        ("kafka", "kafka://a/t t"),
        ("otlp", "https://o/ümlaut"),
        ("otlp", "https://" + "o" * 3000),
    ],
)
def test_another_url_is_refused_and_not_repeated(driver, url):
    with pytest.raises(Invalid) as raised:
        parse_place(driver, url)
    assert KINDS[driver].example in raised.value.detail
    assert "hunter2" not in raised.value.detail


def test_who_is_on_this_machine_is_known():
    assert parse_place("nats", "nats://localhost,127.0.0.1,[::1]/x").is_local
    assert not parse_place("nats", "nats://localhost,example.org/x").is_local


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=80))
def test_any_text_is_a_place_or_refused(driver, text):
    for url in (text, f"{KINDS[driver].secure}://{text}"):
        try:
            place = parse_place(driver, url)
        except Invalid:
            continue
        assert place.hosts
        assert all(0 < port < 65_536 for _, port in place.hosts)


def test_what_is_shown_of_a_target_has_no_user_and_no_query():
    target = Target("siem", "https://user:hunter2@siem.example.org:1/path?token=hunter2")
    assert target.where == "https://siem.example.org:1/path"
