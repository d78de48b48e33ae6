from __future__ import annotations

import re
from pathlib import Path

import pytest

from troth.core.errors import Invalid
from troth.drivers.sinks import BUILT_IN, Format, load_driver
from troth.server.config import Config, load_config
from troth.server.sink_settings import SinkSettings
from troth.server.sinkwiring import open_channels

FILE = """
[[sinks]]
name = "copy"
driver = "file"
url = "file:///var/log/troth/events.jsonl"
"""
SPLUNK = """
[[sinks]]
name = "siem"
driver = "splunk"
url = "https://splunk.example.org:8088"
secret = "env:HEC_TOKEN"
"""


def load(folder: Path, text: str, **environ: str) -> Config:
    path = folder / "troth.toml"
    path.write_text(text)
    return load_config(data=folder, config_file=path, environ=environ)


def fail(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(Invalid) as raised:
        load(folder, text, **environ)
    return raised.value.detail


def test_there_are_none_by_default(tmp_path):
    assert load(tmp_path, "").sinks == ()


def test_a_sink_is_read_with_its_defaults(tmp_path):
    (sink,) = load(tmp_path, FILE).sinks
    assert (sink.name, sink.driver, sink.target.format) == ("copy", "file", Format.OCSF)
    assert (sink.types, sink.decisions, sink.from_now, sink.secret) == ((), False, False, "")
    assert sink.largest > 1_000_000


def test_everything_that_can_be_said_is_heard(tmp_path):
    text = """
    [[sinks]]
    name = "siem"
    driver = "syslog"
    url = "tls://log.example.org"
    format = "cef"
    types = ["identity.", "token.refused"]
    decisions = "denied"
    start = "now"
    ca = "/etc/troth/ca.pem"
    certificate = "/etc/troth/siem.pem"
    key = "/etc/troth/siem.key"
    largest_bytes = 30000
    """
    (sink,) = load(tmp_path, text).sinks
    target = sink.target
    assert (target.format, sink.types) == (Format.CEF, ("identity.", "token.refused"))
    assert (sink.decisions, sink.from_now, sink.largest) == ("denied", True, 30_000)
    assert target.authorities == Path("/etc/troth/ca.pem")
    assert (target.certificate, target.key) == (
        Path("/etc/troth/siem.pem"),
        Path("/etc/troth/siem.key"),
    )


def test_for_syslog_only_so_much_is_sure_to_be_taken(tmp_path):
    text = '[[sinks]]\nname = "siem"\ndriver = "syslog"\nurl = "tls://log.example.org"'
    assert load(tmp_path, text).sinks[0].largest == 7680


def test_a_secret_in_the_environment_is_found_and_never_shown(tmp_path):
    config = load(tmp_path, SPLUNK, HEC_TOKEN="hunter2", TROTH_SIEM="x")
    (sink,) = config.sinks
    assert sink.environment == {"HEC_TOKEN": "hunter2"}
    assert "hunter2" not in repr(config)
    named = SPLUNK.replace("HEC_TOKEN", "TROTH_HEC")
    assert load(tmp_path, named, TROTH_HEC="hunter2").unknown_variables == ()


def test_they_may_stand_in_the_environment(tmp_path):
    json = '[{"name":"copy","driver":"file","url":"file:///a"}]'
    (sink,) = load(tmp_path, "", TROTH_SINKS=json).sinks
    assert sink.target.url == "file:///a"
    assert "JSON array" in fail(tmp_path, "", TROTH_SINKS="{}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE + FILE, "two with the name 'copy'"),
        (FILE.replace("copy", "Copy"), "name"),
        (FILE.replace("file:///var", "file://host/var"), "copy: url: it must be file:///PATH"),
        (FILE.replace('"file"', '"carrier-pigeon"'), "sinks: driver: invalid enum value"),
        (FILE + 'secret = "file:/a"', "copy: secret: file has no use for one"),
        (FILE + "largest_bytes = 5", "copy: largest_bytes"),
        (FILE + "colour = 3", "colour"),
        (FILE + 'decisions = "allowed"', "decisions"),
        (FILE + 'types = [""]', "expected `str` of length >= 1"),
        (SPLUNK.replace("env:", "hunter2:"), "siem: secret: must be file:PATH"),
        (SPLUNK, "siem: secret: the environment variable HEC_TOKEN is not set"),
        (SPLUNK.replace("env:HEC_TOKEN", "file:token"), "must be absolute"),
        (SPLUNK.replace("env:HEC_TOKEN", ""), "wants a token"),
        (SPLUNK.replace("https", "http"), "send it over TLS, or to this machine"),
        (SPLUNK + 'format = "cef"', "siem: format: splunk takes 'ocsf'"),
        (SPLUNK + 'ca = "ca.pem"', "siem: ca: 'ca.pem' must be an absolute path"),
        (SPLUNK + 'certificate = "/a.pem"', "belong together"),
        (SPLUNK.replace("https://", "https://hunter2@"), "siem: url: it must be a URL such as"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_repeated(tmp_path, text, words):
    told = fail(tmp_path, text)
    assert words in told
    assert str(tmp_path / "troth.toml") in told
    assert "hunter2" not in told


def test_a_user_needs_a_password(tmp_path):
    text = """
    [[sinks]]
    name = "es"
    driver = "elastic"
    url = "https://es.example.org/troth"
    user = "troth"
    """
    assert "it needs a secret" in fail(tmp_path, text)


def test_so_many_and_no_more(tmp_path):
    many = "".join(FILE.replace("copy", f"copy-{number}") for number in range(33))
    assert "at most 32" in fail(tmp_path, many)


def test_every_driver_of_the_settings_is_one(tmp_path):
    schema = SinkSettings.__struct_fields__
    assert {"name", "driver", "url", "secret"} <= set(schema)
    for driver in ("elastic", "file", "kafka", "nats", "otlp", "splunk", "syslog"):
        assert callable(load_driver(driver))


def test_channels_are_made_of_them_with_the_installation_s_name(tmp_path):
    config = load(
        tmp_path,
        'origin = "https://troth.example.org"\n' + SPLUNK + 'decisions = "denied"' + FILE,
        HEC_TOKEN="hunter2",
    )
    nothing = type("Nothing", (), {"server": "here"})()
    splunk, copy = open_channels(config, nothing, nothing, nothing, nothing_clock(), nothing)
    assert [one.name for one in splunk.sources] == ["journal", "decisions/here"]
    assert [one.name for one in copy.sources] == ["journal"]
    assert splunk.outlet.target.host == "troth.example.org"
    assert splunk.outlet._secret() == "hunter2"
    assert copy.outlet._secret() == ""


def nothing_clock():
    from troth.core.clock import VirtualClock

    return VirtualClock()


def test_every_field_stands_in_the_reference():
    text = (Path(__file__).resolve().parents[3] / "docs/reference/sinks.md").read_text()
    table = text.split("## What a sink may say")[1].split("## Where receivers are")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(SinkSettings.__struct_fields__)
    places = text.split("## Where receivers are")[1].split("## What holds")[0]
    drivers = re.findall(r"^\| `(\w+)` \|", places, re.MULTILINE)
    assert sorted(drivers) == sorted(BUILT_IN)
